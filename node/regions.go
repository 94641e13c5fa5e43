package node

import (
	"errors"
	"fmt"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// Regions are asked for in growing sizes: a node that sends little stays small,
// one that sends much has few regions.
const (
	regionSlotsMax = 64
	// requestsMax: one request per slot size, and no more than so many in all,
	// are under way at a time.
	requestsMax = 8

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

// requestRegion asks for another region of a class. All who wait for a slot of it
// share the answer.
func (m *memory) requestRegion(c *slotClass) {
	target := regionTargetBytes[min(c.regions, len(regionTargetBytes)-1)]
	slots := uint32(min(max(target/c.slotBytes, 1), regionSlotsMax))
	if c.small {
		slots = 1
	}
	m.request++
	c.request, c.asked = m.request, slots
	m.requests[m.request] = c
	m.s.link.send(&wire.RegionRequest{Request: m.request, SlotBytes: c.slotBytes, Slots: slots})
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
			m.s.n.log.Warn("shared memory region cannot be prefaulted", "region", uint64(g.Region), "error", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.used.wakeAll()
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
		m.s.link.send(&wire.RegionReturn{Region: g.Region})
		return nil
	}
	m.regions[g.Region] = &leasedRegion{mapping: mapping, class: c, idleAt: time.Now()}
	c.regions++
	c.small = false
	return nil
}

// denied passes a refusal on to those who wait, after what can be done about it:
// ask for less, and give back what lies idle, because the limit may be this
// node's own.
func (m *memory) denied(d *wire.RegionDenied) {
	m.mu.Lock()
	defer m.unlock()
	c := m.answered(d.Request)
	if c == nil {
		return
	}
	freed := m.giveBackEmpty(func(r *leasedRegion) bool { return r.class != c })
	if freed > 0 || c.asked > 1 {
		c.small = freed == 0
		m.requestRegion(c)
		return
	}
	c.small = false
	m.deny(c, d.Err())
	m.used.wakeAll()
}

func (m *memory) deny(c *slotClass, err error) {
	c.denials++
	c.denied, c.deniedAt = err, time.Now()
}

// retire ends allocation from a region of which a slot was held too long.
func (m *memory) retire(id wire.RegionID) {
	m.mu.Lock()
	defer m.unlock()
	drained, err := m.slots.Retire(id)
	if err != nil {
		return // given back meanwhile
	}
	m.regions[id].class.regions--
	m.regions[id].class = &slotClass{slotBytes: m.regions[id].class.slotBytes, regions: 1} // counts no more
	if drained {
		m.giveBack(id)
	}
}

// giveBack returns a region without used slots to the broker. m.mu is given up
// with unlock.
func (m *memory) giveBack(id wire.RegionID) {
	mapping, err := m.slots.Remove(id)
	if err != nil {
		panic(fmt.Sprintf("node: region %d: %v", uint64(id), err))
	}
	m.regions[id].class.regions--
	delete(m.regions, id)
	if err := mapping.Close(); err != nil {
		m.untold = append(m.untold, func() {
			m.s.n.log.Warn("shared memory region cannot be unmapped", "region", uint64(id), "error", err)
		})
	}
	if !m.over {
		m.s.link.send(&wire.RegionReturn{Region: id})
	}
}

// giveBackEmpty returns the unused regions that pick chooses, and their number.
func (m *memory) giveBackEmpty(pick func(*leasedRegion) bool) int {
	count := 0
	for _, id := range m.slots.Empty(nil) {
		if pick(m.regions[id]) {
			m.giveBack(id)
			count++
		}
	}
	return count
}

// trim gives back what was not used for long.
func (m *memory) trim(now time.Time) {
	m.mu.Lock()
	defer m.unlock()
	if m.over {
		return
	}
	m.giveBackEmpty(func(r *leasedRegion) bool {
		if r.class.regions > 1 {
			return now.Sub(r.idleAt) >= regionIdle
		}
		return now.Sub(r.class.usedAt) >= classIdle
	})
}
