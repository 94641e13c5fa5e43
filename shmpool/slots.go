package shmpool

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/brokerd/brokerd/wire"
)

const (
	// takeWasteMax is how many times larger than the class of a payload, or than a
	// page, the slot given for it may be. More would let a trickle of small messages
	// eat the slots of the large ones, each of which took a whole region to get.
	takeWasteMax = 4

	// mangledByte and the two lengths say what Free does to a payload when
	// Invariants is on. The first page and the last cache line are enough to be
	// seen by whoever reads a payload from its start or checks its end, and keep
	// the cost per Free the same for 4 KiB and for 64 MiB, so that tests with
	// invariants run the same schedules as without.
	mangledByte      = 0xDB
	mangledHeadBytes = 4096
	mangledTailBytes = 64
)

var (
	// ErrUnknownRegion reports a region that was never added or opened, or is
	// gone.
	ErrUnknownRegion = errors.New("unknown region")
	// ErrRegionBusy reports a region that still has slots in use.
	ErrRegionBusy = errors.New("region has slots in use")
	// ErrRegionExists reports a second, different region of the same id.
	ErrRegionExists = errors.New("region exists already")
)

// Slot names one taken slot. It is a value, and good for one Free: the
// generation tells it from the next user of the same place.
type Slot struct {
	Region     wire.RegionID
	Offset     uint64 // bytes from the start of the region
	Bytes      uint64 // capacity, a size class
	Index      uint32
	generation uint32
}

// SlotsStats counts what a Slots has. Retired regions are included.
type SlotsStats struct {
	Regions, RetiredRegions int
	Slots, UsedSlots        int
	Bytes, UsedBytes        uint64 // Bytes with headers, UsedBytes whole slots
}

// Slots is a sender's allocator over the regions leased to it. It makes no
// system calls, and Take and Free allocate nothing. It is not safe for
// concurrent use.
type Slots struct {
	classes []*slotClass // by size, smallest first
	regions map[wire.RegionID]*slotRegion
}

// slotClass holds the free slots of one size in all regions that are not
// retired. It is a stack: the slot freed last was touched last, so its pages are
// the likeliest to be in this core's caches.
type slotClass struct {
	slotBytes uint64
	free      []freeSlot
}

type freeSlot struct {
	region *slotRegion
	index  uint32
}

type slotRegion struct {
	id       wire.RegionID
	geometry Geometry
	class    *slotClass
	mapping  *Mapping // nil in tests of pure state
	retired  bool
	used     int
	// generations has one entry per slot, odd while it is taken. One number says
	// both whether a slot is free and whether a handle is an old one.
	generations []uint32
}

// NewSlots returns an allocator without regions.
func NewSlots() *Slots {
	return &Slots{regions: make(map[wire.RegionID]*slotRegion)}
}

// Add puts the slots of a region at Take's disposal. They are given out after
// all slots of that size that are free already, because those are warm. The
// mapping stays the caller's to close, after Remove. Errors wrap ErrGeometry or
// ErrRegionExists.
func (s *Slots) Add(id wire.RegionID, g Geometry, m *Mapping) error {
	if err := g.Validate(); err != nil {
		return err
	}
	if _, ok := s.regions[id]; ok {
		return fmt.Errorf("shmpool: add region %d: %w", uint64(id), ErrRegionExists)
	}
	class := s.class(g.SlotBytes)
	r := &slotRegion{id: id, geometry: g, class: class, mapping: m, generations: make([]uint32, g.Slots)}
	s.regions[id] = r
	// Room for all slots of the class, so that Free never has to grow the stack.
	total := 0
	for _, other := range s.regions {
		if other.class == class && !other.retired {
			total += int(other.geometry.Slots)
		}
	}
	free := make([]freeSlot, 0, total)
	for k := g.Slots; k > 0; k-- { // slot 0 nearest to the top
		free = append(free, freeSlot{region: r, index: k - 1})
	}
	class.free = append(free, class.free...)
	return nil
}

// class returns the entry of a slot size, made if it is new.
func (s *Slots) class(slotBytes uint64) *slotClass {
	i, ok := slices.BinarySearchFunc(s.classes, slotBytes, func(c *slotClass, n uint64) int {
		return cmp.Compare(c.slotBytes, n)
	})
	if !ok {
		s.classes = slices.Insert(s.classes, i, &slotClass{slotBytes: slotBytes})
	}
	return s.classes[i]
}

// Take returns a free slot that holds n bytes: of the smallest size that fits,
// the one freed last. It returns false if there is none of at most four times
// the size class of n, or four pages; the caller asks for another region then.
func (s *Slots) Take(n uint64) (Slot, bool) {
	fit := SlotClass(n)
	if fit == 0 {
		return Slot{}, false
	}
	largest := takeWasteMax * max(fit, PageBytes)
	for _, c := range s.classes {
		if c.slotBytes < fit || len(c.free) == 0 {
			continue
		}
		if c.slotBytes > largest {
			break
		}
		last := len(c.free) - 1
		f := c.free[last]
		c.free = c.free[:last]
		r := f.region
		r.generations[f.index]++
		r.used++
		return Slot{
			Region:     r.id,
			Offset:     r.geometry.SlotOffset(f.index),
			Bytes:      r.geometry.SlotBytes,
			Index:      f.index,
			generation: r.generations[f.index],
		}, true
	}
	return Slot{}, false
}

// Free gives a slot back. It returns true if that was the last slot in use of a
// retired region: the caller should Remove the region and unmap it. A slot that
// is not taken, or was freed and taken again since, is a broken invariant of the
// caller, and panics: going on would hand one slot to two messages.
func (s *Slots) Free(slot Slot) (drained bool) {
	r := s.holder(slot, "free")
	if Invariants {
		r.mangle(slot)
	}
	r.generations[slot.Index]++
	r.used--
	if r.retired {
		return r.used == 0
	}
	r.class.free = append(r.class.free, freeSlot{region: r, index: slot.Index})
	return false
}

// Payload returns the memory of a taken slot, all Bytes of it. Like Free it
// panics if the handle is not that of a taken slot. It returns nil for a region
// that was added without a mapping.
func (s *Slots) Payload(slot Slot) []byte {
	r := s.holder(slot, "use")
	if r.mapping == nil {
		return nil
	}
	b, err := r.mapping.Slice(slot.Offset, slot.Bytes)
	if err != nil {
		panic(fmt.Sprintf("shmpool: use of slot %d of region %d: %v", slot.Index, uint64(slot.Region), err))
	}
	return b
}

// holder returns the region of a taken slot.
func (s *Slots) holder(slot Slot, verb string) *slotRegion {
	r := s.regions[slot.Region]
	if r == nil {
		panic(fmt.Sprintf("shmpool: %s of slot %d of region %d, which is not there", verb, slot.Index, uint64(slot.Region)))
	}
	if slot.Index >= r.geometry.Slots || slot.generation&1 == 0 || r.generations[slot.Index] != slot.generation {
		panic(fmt.Sprintf("shmpool: %s of slot %d of region %d, which this handle does not hold (freed twice?)",
			verb, slot.Index, uint64(slot.Region)))
	}
	return r
}

// mangle makes a read after release visible.
func (r *slotRegion) mangle(slot Slot) {
	if r.mapping == nil {
		return
	}
	b, err := r.mapping.Slice(slot.Offset, slot.Bytes)
	if err != nil {
		return // unmapped already: a reader faults by itself
	}
	fill(b[:min(mangledHeadBytes, len(b))])
	fill(b[max(0, len(b)-mangledTailBytes):])
}

func fill(b []byte) {
	for i := range b {
		b[i] = mangledByte
	}
}

// Retire ends allocation from a region; slots in use stay valid until they are
// freed. It returns true if none is in use, so that the caller can Remove the
// region at once. Retiring again changes nothing. The error wraps
// ErrUnknownRegion.
func (s *Slots) Retire(id wire.RegionID) (drained bool, err error) {
	r := s.regions[id]
	if r == nil {
		return false, fmt.Errorf("shmpool: retire region %d: %w", uint64(id), ErrUnknownRegion)
	}
	if !r.retired {
		r.retired = true
		s.forget(r)
	}
	return r.used == 0, nil
}

// Remove takes a region out and returns its mapping, for the caller to close.
// The error wraps ErrUnknownRegion, or ErrRegionBusy while slots are in use.
func (s *Slots) Remove(id wire.RegionID) (*Mapping, error) {
	r := s.regions[id]
	if r == nil {
		return nil, fmt.Errorf("shmpool: remove region %d: %w", uint64(id), ErrUnknownRegion)
	}
	if r.used > 0 {
		return nil, fmt.Errorf("shmpool: remove region %d: %w: %d of %d", uint64(id), ErrRegionBusy, r.used, r.geometry.Slots)
	}
	if !r.retired {
		s.forget(r)
	}
	delete(s.regions, id)
	return r.mapping, nil
}

// forget takes all free slots of a region off their stack.
func (s *Slots) forget(r *slotRegion) {
	r.class.free = slices.DeleteFunc(r.class.free, func(f freeSlot) bool { return f.region == r })
}

// Empty appends the regions that have no slot in use to dst, in order of their
// ids, and returns it. A node that has been idle gives these back.
func (s *Slots) Empty(dst []wire.RegionID) []wire.RegionID {
	start := len(dst)
	for id, r := range s.regions {
		if r.used == 0 {
			dst = append(dst, id)
		}
	}
	slices.Sort(dst[start:])
	return dst
}

// Stats counts regions and slots.
func (s *Slots) Stats() SlotsStats {
	var st SlotsStats
	for _, r := range s.regions {
		st.Regions++
		if r.retired {
			st.RetiredRegions++
		}
		st.Slots += int(r.geometry.Slots)
		st.UsedSlots += r.used
		st.Bytes += r.geometry.Bytes()
		st.UsedBytes += uint64(r.used) * r.geometry.SlotBytes
	}
	return st
}
