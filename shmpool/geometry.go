package shmpool

import (
	"errors"
	"fmt"
)

const (
	// HeaderBytes is the length of the header, and the offset of slot 0.
	HeaderBytes = 4096
	// SlotsMax is the largest number of slots in a region: as many as the header
	// has 8-byte words for, from offset headerWordsOffset on.
	SlotsMax = (HeaderBytes - headerWordsOffset) / 8
	// RegionBytesMax is the largest region, header included: 64 GiB.
	RegionBytesMax = 64 << 30
)

var (
	// ErrGeometry reports a slot size or a number of slots that no region may have.
	ErrGeometry = errors.New("bad region geometry")
	// ErrBounds reports a range that does not lie within one slot of the region.
	ErrBounds = errors.New("range outside of a slot")
)

// Geometry says how a region is cut: Slots slots of SlotBytes bytes each, after
// a header of HeaderBytes. It comes from the wire, so nothing but Validate may be
// called before Validate has returned nil.
type Geometry struct {
	SlotBytes uint64 // a size class: SlotClass(SlotBytes) == SlotBytes
	Slots     uint32 // 1 to SlotsMax
}

// Validate returns an error that wraps ErrGeometry unless g is one that the
// other methods can work with without overflow.
func (g Geometry) Validate() error {
	switch {
	case g.Slots == 0 || g.Slots > SlotsMax:
		return fmt.Errorf("shmpool: %w: %d slots, must be 1 to %d", ErrGeometry, g.Slots, SlotsMax)
	case g.SlotBytes == 0 || g.SlotBytes > SlotBytesMax:
		return fmt.Errorf("shmpool: %w: slots of %d bytes, must be 1 to %d", ErrGeometry, g.SlotBytes, uint64(SlotBytesMax))
	case SlotClass(g.SlotBytes) != g.SlotBytes:
		return fmt.Errorf("shmpool: %w: slots of %d bytes are no size class, the next one is %d",
			ErrGeometry, g.SlotBytes, SlotClass(g.SlotBytes))
	case g.Bytes() > RegionBytesMax:
		return fmt.Errorf("shmpool: %w: %d slots of %d bytes are more than a region may have (%d bytes)",
			ErrGeometry, g.Slots, g.SlotBytes, uint64(RegionBytesMax))
	}
	return nil
}

// Bytes returns the length of the whole region in bytes, header included.
func (g Geometry) Bytes() uint64 {
	return HeaderBytes + g.SlotBytes*uint64(g.Slots)
}

// SlotOffset returns where slot k starts, in bytes from the start of the region.
func (g Geometry) SlotOffset(k uint32) uint64 {
	return HeaderBytes + g.SlotBytes*uint64(k)
}

// SlotIndex returns the slot that the byte at offset belongs to, or an error that
// wraps ErrBounds if it belongs to none.
func (g Geometry) SlotIndex(offset uint64) (uint32, error) {
	if offset < HeaderBytes || offset >= g.Bytes() {
		return 0, fmt.Errorf("shmpool: %w: offset %d, slots are from %d to %d", ErrBounds, offset, uint64(HeaderBytes), g.Bytes())
	}
	return g.slotAt(offset), nil
}

// slotAt is SlotIndex of an offset that is known to be in a slot.
func (g Geometry) slotAt(offset uint64) uint32 {
	return uint32((offset - HeaderBytes) / g.SlotBytes)
}

// Contains returns nil if all of [offset, offset+length) lies inside one slot,
// and otherwise an error that wraps ErrBounds. Any two numbers may be asked.
func (g Geometry) Contains(offset, length uint64) error {
	k, err := g.SlotIndex(offset)
	if err != nil {
		return err
	}
	// offset is inside the slot, so the subtraction cannot wrap; adding length to
	// offset could.
	if room := g.SlotOffset(k) + g.SlotBytes - offset; length > room {
		return fmt.Errorf("shmpool: %w: %d bytes at offset %d, slot %d ends after %d", ErrBounds, length, offset, k, room)
	}
	return nil
}

// String returns a short form for logs, such as "8x65536".
func (g Geometry) String() string {
	return fmt.Sprintf("%dx%d", g.Slots, g.SlotBytes)
}
