//go:build !linux

package shmpool

// MoveSupported reports whether views can be moved on this platform.
func MoveSupported() bool { return false }

// No Mapping exists on these platforms: payloads arrive in the process's own
// memory, and there is nothing to evacuate.

func (m *Mapping) again() (*Mapping, error)     { return nil, ErrUnsupported }
func (m *Mapping) movePages(run pageRun) error  { return ErrUnsupported }
func (m *Mapping) fencePages(run pageRun) error { return ErrUnsupported }
func (m *Mapping) letGo(private *pageSet) error { return ErrUnsupported }
