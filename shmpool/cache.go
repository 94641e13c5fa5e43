package shmpool

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/brokerd/brokerd/wire"
)

// CacheRegionsMax bounds how many regions a Cache holds open at a time. Each is
// one mapping, and a process may have 65,530 of them by default on Linux.
const CacheRegionsMax = 4096

// ErrTooManyRegions reports that a Cache holds CacheRegionsMax regions.
var ErrTooManyRegions = errors.New("too many regions mapped")

// Cache is a receiver's set of mappings, one per region for as long as
// the broker announces it, and not one per message. A region that is closed
// while views of it are held is unmapped with the last of them. What a view shows
// can be moved to private memory: see Move. It is not safe for concurrent use.
type Cache struct {
	regions map[wire.RegionID]*cachedRegion
	last    *cachedRegion // the region of the last View; most come in runs
	closing int           // closed regions that wait for their last view

	retired int    // mappings that another one has taken the place of, and that wait for their last view
	private uint64 // bytes of views that were moved
	pieces  int    // of private memory within mappings
	move    *Move  // under way
}

// cachedRegion is one mapping of a region. There are several of the same region
// when views of older ones were moved.
type cachedRegion struct {
	mapping *Mapping
	closed  bool // it is not in Cache.regions: there are no new views
	retired bool // because another mapping has taken its place
	views   int
	shared  int     // of these, views that need the region's own memory and ledger
	slots   []int32 // views of each slot

	private pageSet // pages that were replaced by private memory
	pieces  int
}

// Ref keeps a region mapped. Each Ref that View returns is good for one Release;
// the zero Ref holds nothing.
type Ref struct {
	region *cachedRegion
	slot   uint32
	moved  bool // it needs nothing of the region any more
}

// Ledger returns the ledger words of the region that the view is of, one per
// slot; nil if it was opened ReadOnly, or the view was moved, or ref holds nothing.
// They are valid until Release.
func (ref Ref) Ledger() []uint64 {
	if ref.region == nil || ref.moved {
		return nil
	}
	return ref.region.mapping.LedgerWords()
}

// SlotIndex returns the slot that the view is in: the index of its ledger word.
func (ref Ref) SlotIndex() uint32 { return ref.slot }

// CacheStats counts what a Cache holds.
type CacheStats struct {
	Regions        int // open
	ClosingRegions int // closed, but held by views
	Views          int // of open regions
	Bytes          uint64

	RetiredMappings int    // older mappings of regions, held by views
	PrivateBytes    uint64 // of views that were moved
	PrivatePieces   int    // that this memory is in
}

// NewCache returns a Cache without mappings.
func NewCache() *Cache {
	return &Cache{regions: make(map[wire.RegionID]*cachedRegion)}
}

// Open maps a region, at once rather than with the first view of it: a region
// that is unlinked meanwhile can be read by those who have it mapped. Opening the
// same region again does nothing, also under another name: a broker that takes
// over from another one renames the regions, and what is mapped stays right.
// Errors are those of Map, or wrap ErrRegionExists (another geometry, or less
// access than asked for now) or ErrTooManyRegions.
func (c *Cache) Open(id wire.RegionID, name string, g Geometry, access Access) error {
	if r := c.regions[id]; r != nil {
		if have := r.mapping; have.Geometry() != g || have.Access() < access {
			return fmt.Errorf("shmpool: open region %d as %s (%v, %v): %w: %v, %v",
				uint64(id), name, g, access, ErrRegionExists, have.Geometry(), have.Access())
		}
		return nil
	}
	if len(c.regions)+c.closing >= CacheRegionsMax {
		return fmt.Errorf("shmpool: open region %d: %w: %d", uint64(id), ErrTooManyRegions, CacheRegionsMax)
	}
	m, err := Map(name, id, g, access)
	if err != nil {
		return err
	}
	c.regions[id] = &cachedRegion{mapping: m, slots: make([]int32, g.Slots)}
	return nil
}

// Mapping returns the mapping of an open region, so that it can be prefaulted,
// or nil. It stays the cache's to close.
func (c *Cache) Mapping(id wire.RegionID) *Mapping {
	if r := c.regions[id]; r != nil {
		return r.mapping
	}
	return nil
}

// PrivateBytes returns how much private memory there is in place of views that
// were moved.
func (c *Cache) PrivateBytes() uint64 { return c.private }

// Regions returns the ids of the open regions, in order.
func (c *Cache) Regions() []wire.RegionID {
	return slices.Sorted(maps.Keys(c.regions))
}

// View returns the length bytes at offset of an open region, and a Ref that
// keeps them mapped until it is released. The bytes are read-only: writing to
// them is a segmentation fault, unless the region was opened ReadWrite. Errors wrap ErrUnknownRegion or, for a range that
// does not lie within one slot, ErrBounds.
func (c *Cache) View(id wire.RegionID, offset, length uint64) ([]byte, Ref, error) {
	r := c.last
	if r == nil || r.mapping.id != id {
		r = c.regions[id]
		if r == nil {
			return nil, Ref{}, fmt.Errorf("shmpool: view of region %d: %w", uint64(id), ErrUnknownRegion)
		}
		c.last = r
	}
	b, err := r.mapping.Slice(offset, length)
	if err != nil {
		return nil, Ref{}, fmt.Errorf("shmpool: view of region %d: %w", uint64(id), err)
	}
	// Slice has checked that the range lies in a slot.
	return b, r.view(r.mapping.geometry.slotAt(offset), false), nil
}

func (r *cachedRegion) view(slot uint32, moved bool) Ref {
	r.views++
	r.slots[slot]++
	if !moved {
		r.shared++
	}
	return Ref{region: r, slot: slot, moved: moved}
}

// Release ends a view. The bytes must not be touched any more. It unmaps the
// region if that was closed and this was its last view, and returns the error of
// that. More releases than views are a broken invariant of the caller, and panic.
func (c *Cache) Release(ref Ref) error {
	r := ref.region
	if r == nil {
		return nil
	}
	if r.views <= 0 {
		panic(fmt.Sprintf("shmpool: view of region %d released twice", uint64(r.mapping.id)))
	}
	r.views--
	r.slots[ref.slot]--
	if !ref.moved {
		r.shared--
	}
	switch {
	case !r.closed:
		return nil
	case r.views == 0:
		return c.unmap(r)
	}
	return c.shrink(r, ref)
}

// unmap ends a mapping that has no views, and is in no list any more.
func (c *Cache) unmap(r *cachedRegion) error {
	if r.retired {
		c.retired--
	} else {
		c.closing--
	}
	c.private -= r.private.count * systemPageBytes
	c.pieces -= r.pieces
	return r.mapping.Close()
}

// Close takes a region out; views of it stay valid. The error wraps
// ErrUnknownRegion, or is that of unmapping.
func (c *Cache) Close(id wire.RegionID) error {
	r := c.regions[id]
	if r == nil {
		return fmt.Errorf("shmpool: close region %d: %w", uint64(id), ErrUnknownRegion)
	}
	delete(c.regions, id)
	if c.last == r {
		c.last = nil
	}
	r.closed = true
	c.closing++
	if r.views == 0 {
		return c.unmap(r)
	}
	if r.shared == 0 {
		return r.mapping.letGo(&r.private)
	}
	return nil
}

// CloseAll closes every region, as Close does. The Cache can be used again.
func (c *Cache) CloseAll() error {
	var errs []error
	for id := range c.regions {
		errs = append(errs, c.Close(id))
	}
	return errors.Join(errs...)
}

// Stats counts regions and views.
func (c *Cache) Stats() CacheStats {
	st := CacheStats{
		Regions: len(c.regions), ClosingRegions: c.closing,
		RetiredMappings: c.retired, PrivateBytes: c.private, PrivatePieces: c.pieces,
	}
	for _, r := range c.regions {
		st.Views += r.views
		st.Bytes += r.mapping.Geometry().Bytes()
	}
	return st
}
