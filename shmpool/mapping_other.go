//go:build !linux

package shmpool

import "github.com/brokerd/brokerd/wire"

// Dir is empty: there is no directory of shared memory objects on this platform.
const Dir = ""

// Map returns ErrUnsupported: nodes on this platform send payloads inline.
func Map(string, wire.RegionID, Geometry, Access) (*Mapping, error) {
	return nil, ErrUnsupported
}

// Prefault returns ErrUnsupported.
func (m *Mapping) Prefault() error { return ErrUnsupported }

// Close does nothing: no Mapping exists on this platform.
func (m *Mapping) Close() error { return nil }
