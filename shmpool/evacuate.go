package shmpool

import (
	"errors"
	"fmt"
)

const (
	// CacheRetiredMax bounds the mappings of a Cache that fresh ones have taken the
	// place of, CachePiecesMax the pieces of private memory in them. A process may
	// have 65,530 mappings by default on Linux; a retired one is two, and each piece
	// cuts it in two more.
	CacheRetiredMax = 4096
	CachePiecesMax  = 16384
)

// ErrMoveLimit reports that a view was not moved because there would be too much
// private memory, or too many pieces of it.
var ErrMoveLimit = errors.New("too much private memory")

// Move takes what one view shows out of shared memory while it is being read: a
// copy in memory of this process alone takes its place at the same addresses. Its
// steps are StartMove, Run, EndMove; Run is the one that takes long, and the only
// one that may run without the lock that guards the Cache. There is one Move at a
// time.
//
// Before a page is replaced the mapping is retired: another one of the same region
// takes its place in the Cache, and gives all later views. So in a mapping with
// private pages every view was there before, the slot of each was held since, and
// its bytes have not changed: a page that several slots share is right for all
// their readers when it is copied whole. It must not be copied again, though: the
// slot of the first reader may be used for something else by then. Hence the set of
// pages that are private already.
type Move struct {
	region *cachedRegion
	slot   uint32
	shared Ref       // for the time of the copying
	kept   Ref       // for whoever had the view; it needs nothing of the region
	runs   []pageRun // to be moved
	done   int       // of these
}

// StartMove begins to move the length bytes at offset that ref is a view of. At
// most bytesMax bytes of private memory may come of it, else the error wraps
// ErrMoveLimit, as it does when CacheRetiredMax or CachePiecesMax are reached. Then
// nothing has happened.
func (c *Cache) StartMove(ref Ref, offset, length, bytesMax uint64) (*Move, error) {
	r := ref.region
	if c.move != nil {
		panic("shmpool: two moves at a time")
	}
	if r == nil || ref.moved {
		return nil, errors.New("shmpool: move of no view")
	}
	g := r.mapping.geometry
	if err := g.Contains(offset, length); err != nil || g.slotAt(offset) != ref.slot {
		return nil, fmt.Errorf("shmpool: move of %d bytes at %d in slot %d: %w", length, offset, ref.slot, ErrBounds)
	}
	if r.mapping.access == ReadWrite {
		return nil, fmt.Errorf("shmpool: move of region %d, which is writable: %w", uint64(r.mapping.id), ErrUnsupported)
	}
	runs := r.private.runs(pagesOf(offset, length), false)
	bytes := uint64(0)
	for _, run := range runs {
		bytes += run.count * systemPageBytes
	}
	switch {
	case bytes > bytesMax:
		return nil, fmt.Errorf("shmpool: %w: %d bytes more, %d are left", ErrMoveLimit, bytes, bytesMax)
	case c.pieces+len(runs) > CachePiecesMax:
		return nil, fmt.Errorf("shmpool: %w: %d pieces", ErrMoveLimit, c.pieces)
	}
	if len(runs) > 0 && !r.closed {
		if err := c.retire(r); err != nil {
			return nil, err
		}
	}
	c.move = &Move{region: r, slot: ref.slot, runs: runs, shared: r.view(ref.slot, false), kept: r.view(ref.slot, true)}
	return c.move, nil
}

// retire has a fresh mapping of a region take the place of r.
func (c *Cache) retire(r *cachedRegion) error {
	if c.retired >= CacheRetiredMax {
		return fmt.Errorf("shmpool: %w: %d retired mappings", ErrMoveLimit, c.retired)
	}
	fresh, err := r.mapping.again()
	if err != nil {
		return err
	}
	c.regions[r.mapping.id] = &cachedRegion{mapping: fresh, slots: make([]int32, len(r.slots))}
	if c.last == r {
		c.last = nil
	}
	r.closed, r.retired = true, true
	c.retired++
	return nil
}

// Run copies and replaces the pages. An error means that some or all of them are
// as they were, which is all the same to who reads them.
func (m *Move) Run() error {
	for ; m.done < len(m.runs); m.done++ {
		if err := m.region.mapping.movePages(m.runs[m.done]); err != nil {
			run := m.runs[m.done]
			return fmt.Errorf("shmpool: move %d pages of region %d: %w", run.count, uint64(m.region.mapping.id), err)
		}
	}
	return nil
}

// Kept returns a Ref that keeps the private memory. If Run has returned no error it
// may take the place of the one that was moved, before EndMove or after it. The
// one that was moved may be released then; until then it is good for the region's
// ledger.
func (m *Move) Kept() Ref { return m.kept }

// EndMove enters what Run has done. used says that somebody has taken Kept, and
// will release it, or has done so already; else it is released here.
func (c *Cache) EndMove(m *Move, used bool) error {
	c.move = nil
	r := m.region
	if m.done > 0 {
		r.private.grow(pagesOf(0, r.mapping.geometry.Bytes()).count)
	}
	for _, run := range m.runs[:m.done] {
		r.private.set(run, true)
		c.private += run.count * systemPageBytes
	}
	r.pieces += m.done
	c.pieces += m.done
	var err error
	if !used {
		err = c.Release(m.kept)
	}
	return errors.Join(err, c.Release(m.shared))
}

// Bytes returns how much private memory the pages that were to be moved take.
func (m *Move) Bytes() (n uint64) {
	for _, run := range m.runs {
		n += run.count * systemPageBytes
	}
	return n
}

// shrink gives back what nobody needs of a mapping that has lost a view and has
// others, and gets none.
func (c *Cache) shrink(r *cachedRegion, lost Ref) error {
	var errs []error
	if r.slots[lost.slot] == 0 && r.private.count > 0 {
		g := r.mapping.geometry
		slot := pagesOf(g.SlotOffset(lost.slot), g.SlotBytes)
		for _, run := range r.private.runs(slot, true) {
			errs = append(errs, c.free(r, run))
		}
	}
	if !lost.moved && r.shared == 0 {
		errs = append(errs, r.mapping.letGo(&r.private))
		c.count(r)
	}
	return errors.Join(errs...)
}

// free gives private pages back that no view is in.
func (c *Cache) free(r *cachedRegion, run pageRun) error {
	// Only the first and the last page can have something of other slots.
	for run.count > 0 && r.pageUsed(run.first) {
		run.first++
		run.count--
	}
	for run.count > 0 && r.pageUsed(run.first+run.count-1) {
		run.count--
	}
	if run.count == 0 {
		return nil
	}
	if err := r.mapping.fencePages(run); err != nil {
		return fmt.Errorf("shmpool: give back %d private pages: %w", run.count, err)
	}
	r.private.set(run, false)
	c.private -= run.count * systemPageBytes
	if r.shared == 0 {
		c.count(r)
	}
	return nil
}

// count finds out how many pieces of private memory a mapping has of which nothing
// else can be read. Before that, those that were given back still cut it.
func (c *Cache) count(r *cachedRegion) {
	n := len(r.private.runs(pagesOf(0, r.mapping.geometry.Bytes()), true))
	c.pieces += n - r.pieces
	r.pieces = n
}

// pageUsed reports whether there is a view of a slot that has bytes in a page.
func (r *cachedRegion) pageUsed(page uint64) bool {
	g := r.mapping.geometry
	start, end := page*systemPageBytes, min((page+1)*systemPageBytes, g.Bytes())
	for k := g.slotAt(max(start, HeaderBytes)); k < g.Slots && g.SlotOffset(k) < end; k++ {
		if r.slots[k] > 0 {
			return true
		}
	}
	return false
}
