//go:build !linux

package alloc

import (
	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// RegionFDs is how many descriptors a region costs the broker at most.
const RegionFDs = 0

// Allocator cannot be had on this platform.
type Allocator struct{}

// Region cannot be had on this platform.
type Region struct{}

// Open returns shmpool.ErrUnsupported: a broker on this platform carries all
// payloads inline.
func Open(Config) (*Allocator, error) { return nil, shmpool.ErrUnsupported }

// Instance returns "".
func (a *Allocator) Instance() string { return "" }

// Backend returns "none".
func (a *Allocator) Backend() string { return "none" }

// Probe returns an empty name.
func (a *Allocator) Probe() (name string, offset uint64, length uint32) { return "", 0, 0 }

// CheckNonce returns false.
func (a *Allocator) CheckNonce([]byte) bool { return false }

// SessionAlive returns shmpool.ErrUnsupported.
func (a *Allocator) SessionAlive(wire.SessionID) (bool, error) { return false, shmpool.ErrUnsupported }

// Create returns shmpool.ErrUnsupported.
func (a *Allocator) Create(wire.RegionID, shmpool.Geometry) (*Region, error) {
	return nil, shmpool.ErrUnsupported
}

// Adopt returns shmpool.ErrUnsupported.
func (a *Allocator) Adopt(string, wire.RegionID, shmpool.Geometry) (*Region, error) {
	return nil, shmpool.ErrUnsupported
}

// Close does nothing.
func (a *Allocator) Close() error { return nil }

// ID returns 0.
func (r *Region) ID() wire.RegionID { return 0 }

// Name returns "".
func (r *Region) Name() string { return "" }

// Geometry returns no geometry.
func (r *Region) Geometry() shmpool.Geometry { return shmpool.Geometry{} }

// ReadAt returns shmpool.ErrUnsupported.
func (r *Region) ReadAt([]byte, int64) (int, error) { return 0, shmpool.ErrUnsupported }

// Rest does nothing.
func (r *Region) Rest() {}

// Unlink does nothing.
func (r *Region) Unlink() error { return nil }

// Close does nothing.
func (r *Region) Close() error { return nil }

// Sweep finds nothing.
func Sweep(string) (Swept, error) { return Swept{}, nil }

// SweepInstances finds nothing.
func SweepInstances(string, []string, bool) (Swept, error) { return Swept{}, nil }

// Space returns shmpool.ErrUnsupported.
func Space() (size, free uint64, err error) { return 0, 0, shmpool.ErrUnsupported }
