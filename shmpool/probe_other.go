//go:build !linux

package shmpool

import "github.com/brokerd/brokerd/wire"

// Probe cannot be had on this platform.
type Probe struct{}

// OpenProbe returns ErrUnsupported: a node on this platform is a remote one.
func OpenProbe(string, uint64, uint32) (*Probe, []byte, error) {
	return nil, nil, ErrUnsupported
}

// Lock returns ErrUnsupported.
func (p *Probe) Lock(wire.SessionID) error { return ErrUnsupported }

// Close does nothing: no Probe exists on this platform.
func (p *Probe) Close() error { return nil }
