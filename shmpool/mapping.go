package shmpool

import (
	"errors"
	"fmt"
	"os"

	"github.com/brokerd/brokerd/wire"
)

var (
	// ErrUnsupported reports that shared memory is not available on this platform.
	// It wraps errors.ErrUnsupported.
	ErrUnsupported = fmt.Errorf("shmpool: shared memory: %w", errors.ErrUnsupported)
	// ErrRegionFile reports a file under the region's name that is too short to be
	// the region, or not a regular file.
	ErrRegionFile = errors.New("not a region file")
)

// Mapping is one mapping of one region in this process.
type Mapping struct {
	id       wire.RegionID
	geometry Geometry
	writable bool
	data     []byte // nil once closed
}

// Region returns the id of the mapped region.
func (m *Mapping) Region() wire.RegionID { return m.id }

// Geometry returns the geometry that the region was mapped with. It does not
// come from the shared memory.
func (m *Mapping) Geometry() Geometry { return m.geometry }

// Writable reports whether the mapping may be written to.
func (m *Mapping) Writable() bool { return m.writable }

// Slice returns the length bytes at offset, without copying; its capacity ends
// where it ends. The range must lie inside one slot, else the error wraps
// ErrBounds; after Close it is os.ErrClosed. The slice is valid until Close:
// touching it later is a segmentation fault.
func (m *Mapping) Slice(offset, length uint64) ([]byte, error) {
	if err := m.geometry.Contains(offset, length); err != nil {
		return nil, err
	}
	if m.data == nil {
		return nil, os.ErrClosed
	}
	return m.data[offset : offset+length : offset+length], nil
}
