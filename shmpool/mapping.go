package shmpool

import (
	"errors"
	"fmt"
	"os"
	"sync"

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

// Access says what a mapping may be used for. The zero value is the weakest.
type Access uint8

const (
	// ReadOnly is for those who read payloads and tell the broker when they are
	// done with them.
	ReadOnly Access = iota
	// ReadLedger is for receivers on a lane: payloads are read-only, and the
	// header, where the ledger is, can be written to.
	ReadLedger
	// ReadWrite is for the node that the region is leased to.
	ReadWrite
)

// String returns a short form for errors and logs.
func (a Access) String() string {
	switch a {
	case ReadOnly:
		return "read-only"
	case ReadLedger:
		return "read-ledger"
	case ReadWrite:
		return "read-write"
	}
	return fmt.Sprintf("Access(%d)", uint8(a))
}

// Mapping is one mapping of one region in this process.
type Mapping struct {
	id       wire.RegionID
	geometry Geometry
	access   Access

	// mu lets Prefault run beside Close. Slice does not take it.
	mu     sync.Mutex
	data   []byte // the whole region; nil once closed
	header []byte // writable header: the start of data, or a mapping of its own; nil if read-only

	emptied bool // nothing of the region itself is mapped any more
}

// Region returns the id of the mapped region.
func (m *Mapping) Region() wire.RegionID { return m.id }

// Geometry returns the geometry that the region was mapped with. It does not
// come from the shared memory.
func (m *Mapping) Geometry() Geometry { return m.geometry }

// Access returns what the mapping was made for.
func (m *Mapping) Access() Access { return m.access }

// Writable reports whether payloads may be written to.
func (m *Mapping) Writable() bool { return m.access == ReadWrite }

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

// LedgerWords returns the ledger: one word per slot, from the header. It is nil
// if the mapping is ReadOnly or closed. Other processes write to these words, so
// they are for sync/atomic only, and what they say is to be checked. Like a slice
// of the payload they are valid until Close.
func (m *Mapping) LedgerWords() []uint64 {
	if m.header == nil {
		return nil
	}
	return wordsOf(m.header[headerWordsOffset : headerWordsOffset+8*int(m.geometry.Slots)])
}

// SlotWords returns slot k as words, for what is shared between processes while
// it changes: sync/atomic only. The error wraps ErrBounds if there is no slot k;
// it is os.ErrClosed after Close. The words of a mapping that is not ReadWrite
// must not be written to.
func (m *Mapping) SlotWords(k uint32) ([]uint64, error) {
	if k >= m.geometry.Slots {
		return nil, fmt.Errorf("shmpool: words of slot %d of %d: %w", k, m.geometry.Slots, ErrBounds)
	}
	b, err := m.Slice(m.geometry.SlotOffset(k), m.geometry.SlotBytes)
	if err != nil {
		return nil, err
	}
	return wordsOf(b), nil
}
