package node

import (
	"errors"
	"fmt"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// Regions are asked for in growing sizes: a node that sends little stays small,
// one that sends much has few regions.
const (
	regionSlotsMax = 64
	// requestsMax: one request per slot size, and no more than so many in all,
	// are under way at a time.
	requestsMax = 8
	// reserveRegionBytesMax bounds a region that Reserve asks for, if more than one
	// slot fits in it.
	reserveRegionBytesMax = 256 << 20

	// Lanes have all their messages in shared memory. The first region for small
	// ones is asked for with the first lane. Messages of up to 16 KiB could have
	// slots four times their size, so one class does for a start.
	smallSlotBytes = 512
	smallSlots     = 128

	// denialPause: a sender that may wait for memory asks again after so long,
	// because memory that other nodes give back does not announce itself.
	denialPause = 100 * time.Millisecond
	// tellPause is the time between two log lines about waiting for memory.
	tellPause = time.Second
	// regionIdle: an unused region beyond the first of its size goes back after
	// so long, the first of a size that is not used any more after classIdle.
	regionIdle = 30 * time.Second
	classIdle  = 5 * time.Minute
)

var regionTargetBytes = [...]uint64{1 << 20, 4 << 20, 16 << 20}

// requestRegion asks for another region of a class, unless that is done already
// or there is nobody to ask. All who wait for a slot of it share the answer.
func (m *memory) requestRegion(c *slotClass) { m.requestSlots(c, c.nextSlots()) }

func (m *memory) requestSlots(c *slotClass, slots uint32) {
	if m.link == nil || c.request != 0 || len(m.requests) >= requestsMax {
		return
	}
	c.reserve = 0
	m.request++
	c.request, c.asked = m.request, slots
	m.requests[m.request] = c
	m.link.send(&wire.RegionRequest{Request: m.request, SlotBytes: c.slotBytes, Slots: slots})
}

func (c *slotClass) nextSlots() uint32 {
	if c.small {
		return 1
	}
	target := regionTargetBytes[min(c.regions, len(regionTargetBytes)-1)]
	most := uint64(regionSlotsMax)
	if c.slotBytes <= shmpool.PageBytes {
		most = shmpool.SlotsMax
	}
	slots := uint32(min(max(target/c.slotBytes, 1), most))
	if c.reserve > slots {
		slots = min(c.reserve, shmpool.SlotsMax, uint32(max(reserveRegionBytesMax/c.slotBytes, 1)))
	}
	return slots
}

func (m *memory) answered(request uint32) *slotClass {
	c := m.requests[request]
	if c != nil {
		delete(m.requests, request)
		c.request = 0
	}
	return c
}

// granted maps a region and puts its slots to use. It is called by the goroutine
// that reads; the pages are there already, so mapping them is quick.
func (m *memory) granted(g *wire.RegionGrant) error {
	geometry := shmpool.Geometry{SlotBytes: g.SlotBytes, Slots: g.Slots}
	mapping, err := shmpool.Map(g.Name, g.Region, geometry, shmpool.ReadWrite)
	if err == nil {
		if err := mapping.Prefault(); err != nil { // slower, not wrong
			m.e.n.log.Warn("shared memory region cannot be prefaulted", "region", uint64(g.Region), "error", err)
		}
	}
	m.mu.Lock()
	defer m.unlock(true)
	c := m.answered(g.Request)
	if c == nil || c.slotBytes != g.SlotBytes {
		if mapping != nil {
			_ = mapping.Close() // the connection ends anyway
		}
		return wire.Errorf(wire.CodeProtocol, "region_grant: request %d for slots of %d bytes was not made", g.Request, g.SlotBytes)
	}
	if err == nil {
		err = m.slots.Add(g.Region, geometry, mapping)
	}
	if err != nil {
		if mapping != nil {
			err = errors.Join(err, mapping.Close())
		}
		m.deny(c, fmt.Errorf("%w: granted region cannot be used: %w", ErrSharedMemory, err))
		m.tellReturned(g.Region)
		return nil
	}
	m.regions[g.Region] = &leasedRegion{
		id: g.Region, name: g.Name, mapping: mapping, ledger: lane.NewLedger(mapping.LedgerWords()),
		class: c, idleAt: time.Now(),
	}
	c.regions++
	c.small = false
	return nil
}

// denied passes a refusal on to those who wait, after what can be done about it:
// ask for less, and give back what lies idle, because the limit may be this
// node's own.
func (m *memory) denied(d *wire.RegionDenied) {
	m.mu.Lock()
	defer m.unlock(true)
	c := m.answered(d.Request)
	if c == nil {
		return
	}
	m.poll(pollAll)
	freed := m.giveBackEmpty(func(r *leasedRegion) bool { return r.class != c })
	if freed > 0 || c.asked > 1 {
		c.small = freed == 0
		m.requestRegion(c)
		return
	}
	c.small = false
	m.deny(c, d.Err())
}

func (m *memory) deny(c *slotClass, err error) {
	c.denials++
	c.denied, c.deniedAt = err, time.Now()
}

// retire ends allocation from a region of which a slot was held too long.
func (m *memory) retire(id wire.RegionID) {
	m.mu.Lock()
	defer m.unlock(false)
	if r := m.regions[id]; r != nil { // not given back meanwhile
		m.retireLocked(r)
	}
}

func (m *memory) retireLocked(r *leasedRegion) {
	if r.retired.Load() {
		return
	}
	if _, err := m.slots.Retire(r.id); err != nil {
		panic(fmt.Sprintf("node: region %d: %v", uint64(r.id), err))
	}
	r.retired.Store(true)
	r.class.regions--
	r.class = &slotClass{slotBytes: r.class.slotBytes, regions: 1} // counts no more
	m.checkDrained(r)
}

// checkDrained gives back a retired region when the last slot that will ever be
// free is.
func (m *memory) checkDrained(r *leasedRegion) {
	if r.retired.Load() && r.used == len(r.quarantine) {
		m.giveBack(r)
	}
}

// giveBack returns a region without used slots to the broker. m.mu is given up
// with unlock.
func (m *memory) giveBack(r *leasedRegion) {
	r.class.regions--
	delete(m.regions, r.id)
	if recent := &m.recent[r.id%recentRegions]; *recent == r {
		*recent = nil
	}
	if err := r.mapping.Close(); err != nil {
		m.untold = append(m.untold, func() {
			m.e.n.log.Warn("shared memory region cannot be unmapped", "region", uint64(r.id), "error", err)
		})
	}
	for _, e := range r.quarantine { // unmapped already, so that nothing is written to them
		_ = m.slots.Free(e.slot)
		m.forget(e)
	}
	r.quarantine = nil
	if _, err := m.slots.Remove(r.id); err != nil {
		panic(fmt.Sprintf("node: region %d: %v", uint64(r.id), err))
	}
	if !r.foreign.Load() {
		m.tellReturned(r.id)
	}
}

func (m *memory) tellReturned(id wire.RegionID) {
	if m.link != nil {
		m.link.send(&wire.RegionReturn{Region: id})
	}
}

// giveBackEmpty returns the unused regions that pick chooses, and their number.
func (m *memory) giveBackEmpty(pick func(*leasedRegion) bool) int {
	count := 0
	for _, id := range m.slots.Empty(nil) {
		if r := m.regions[id]; pick(r) {
			m.giveBack(r)
			count++
		}
	}
	return count
}

// trim gives back what was not used for long.
func (m *memory) trim(now time.Time) {
	m.mu.Lock()
	defer m.unlock(false)
	if m.over {
		return
	}
	m.poll(pollAll)
	m.giveBackEmpty(func(r *leasedRegion) bool {
		if r.class.regions > 1 {
			return now.Sub(r.idleAt) >= regionIdle
		}
		return now.Sub(r.class.usedAt) >= classIdle
	})
}

// prepareSmall sees to it that there is a region for the small messages of lanes,
// so that the first of them need not wait for it. It returns false while the
// broker has not answered.
func (m *memory) prepareSmall() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.class(smallSlotBytes)
	if c.regions == 0 && c.denials == 0 {
		m.requestSlots(c, smallSlots)
	}
	return c.request == 0
}
