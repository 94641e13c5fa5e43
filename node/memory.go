package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	// regionIdle: an unused region beyond the first of its size goes back after
	// so long, the first of a size that is not used any more after classIdle.
	regionIdle = 30 * time.Second
	classIdle  = 5 * time.Minute
)

var regionTargetBytes = [...]uint64{1 << 20, 4 << 20, 16 << 20}

// memory is the sending side's shared memory of one session: the regions leased
// to it, and who has which slot. A slot is free, loaned (the user writes) or
// published (receivers read, until the broker says Done).
type memory struct {
	s *session

	mu       sync.Mutex // guards what follows
	slots    *shmpool.Slots
	regions  map[wire.RegionID]*leasedRegion
	classes  map[uint64]*slotClass
	requests map[uint32]*slotClass // not answered yet
	request  uint32
	tokens   []tokenEntry
	spare    []uint32 // unused entries of tokens
	used     waiters  // for slots, grants and denials
	over     bool     // the connection is gone
}

type leasedRegion struct {
	mapping *shmpool.Mapping
	class   *slotClass
	used    int
	idleAt  time.Time // since when no slot is in use
}

// slotClass is what is known of one slot size.
type slotClass struct {
	slotBytes uint64
	regions   int
	request   uint32 // not answered yet; 0: none
	asked     uint32 // slots asked for by it
	small     bool   // the next request asks for one slot
	usedAt    time.Time

	denials  uint64 // counted, so that waiters see a new one
	denied   error
	deniedAt time.Time
}

type slotState uint8

const (
	slotFree slotState = iota
	slotLoaned
	slotPublished
)

// tokenEntry is the slot that a token stands for. A token is the index of its
// entry and a generation, so that a late one cannot hit another message.
type tokenEntry struct {
	slot       shmpool.Slot
	generation uint32
	state      slotState
}

func newMemory(s *session) *memory {
	return &memory{
		s: s, slots: shmpool.NewSlots(),
		regions:  make(map[wire.RegionID]*leasedRegion),
		classes:  make(map[uint64]*slotClass),
		requests: make(map[uint32]*slotClass),
	}
}

// lease is one slot in the hands of the user.
type lease struct {
	token  wire.Token
	region wire.RegionID
	offset uint64
	buffer []byte // as long as was asked for
}

// take finds a slot for size bytes: at once if one is free, else when one becomes
// free or the broker grants a region. If the broker denies it, an output with a
// block receiver goes on waiting, others get ErrNoMemory. It takes a hold of the
// session.
func (m *memory) take(ctx context.Context, size int, o *Output) (lease, error) {
	slotBytes := shmpool.SlotClass(uint64(size))
	if slotBytes == 0 {
		return lease{}, fmt.Errorf("%w: output %q: %d bytes, a message may have %d; send it in parts",
			ErrTooLarge, o.id, size, uint64(shmpool.SlotBytesMax))
	}
	m.mu.Lock()
	if l, ok := m.takeLocked(size); ok {
		m.mu.Unlock()
		return l, nil
	}
	c := m.class(slotBytes)
	seen, told := c.denials, false
	for {
		if m.over {
			m.mu.Unlock()
			return lease{}, errLinkDown
		}
		if l, ok := m.takeLocked(size); ok {
			m.mu.Unlock()
			return l, nil
		}
		denied := c.denials != seen
		if denied {
			if err := denialOf(c.denied, o, size); err != nil {
				m.mu.Unlock()
				return lease{}, err
			}
			if !told {
				told = true
				m.s.n.log.Warn("waiting for shared memory", "output", o.id, "bytes", size, "error", c.denied)
			}
		}
		if c.request == 0 && len(m.requests) < requestsMax && (!denied || time.Since(c.deniedAt) >= denialPause) {
			m.requestRegion(c)
		}
		one := m.used.add()
		m.mu.Unlock()
		if err := m.wait(ctx, one, denied); err != nil {
			return lease{}, err
		}
		m.mu.Lock()
	}
}

// denialOf returns what a denial means to a sender; nil if it may wait.
func denialOf(cause error, o *Output, size int) error {
	switch {
	case errors.Is(cause, wire.ErrTooLarge): // waiting does not help
		return fmt.Errorf("%w: output %q: %d bytes: %w", ErrTooLarge, o.id, size, cause)
	case o.blocks():
		return nil
	}
	return fmt.Errorf("%w: output %q: %d bytes: %w", ErrNoMemory, o.id, size, cause)
}

// wait waits for a change, after a denial no longer than denialPause.
func (m *memory) wait(ctx context.Context, one *waiter, denied bool) error {
	if !denied {
		return m.used.wait(ctx, &m.mu, one)
	}
	pause, cancel := context.WithTimeout(ctx, denialPause)
	defer cancel()
	_ = m.used.wait(pause, &m.mu, one)
	return ctx.Err()
}

// takeLocked takes a free slot and gives it a token.
func (m *memory) takeLocked(size int) (lease, bool) {
	if m.over {
		return lease{}, false
	}
	slot, ok := m.slots.Take(uint64(size))
	if !ok {
		return lease{}, false
	}
	r := m.regions[slot.Region]
	r.used++
	i := len(m.tokens)
	if last := len(m.spare) - 1; last >= 0 {
		i = int(m.spare[last])
		m.spare = m.spare[:last]
	} else {
		m.tokens = append(m.tokens, tokenEntry{})
	}
	e := &m.tokens[i]
	e.slot, e.state = slot, slotLoaned
	e.generation++
	m.s.hold()
	return lease{
		token:  wire.Token(uint64(e.generation)<<32 | uint64(i) + 1),
		region: slot.Region, offset: slot.Offset,
		buffer: m.slots.Payload(slot)[:size:size],
	}, true
}

// entry finds what a token stands for; nil if it is not outstanding.
func (m *memory) entry(token wire.Token, state slotState) *tokenEntry {
	i := uint64(token) & 0xffff_ffff
	if i == 0 || i > uint64(len(m.tokens)) {
		return nil
	}
	e := &m.tokens[i-1]
	if e.state != state || uint64(e.generation) != uint64(token)>>32 {
		return nil
	}
	return e
}

// freeLocked makes a slot available again.
func (m *memory) freeLocked(e *tokenEntry, token wire.Token, now time.Time) {
	slot := e.slot
	e.state = slotFree
	m.spare = append(m.spare, uint32(token)-1)
	r := m.regions[slot.Region]
	r.used--
	r.class.usedAt = now
	if r.used == 0 {
		r.idleAt = now
	}
	if m.slots.Free(slot) {
		m.giveBack(slot.Region)
	}
}

// publish marks a loaned slot as published, before its Publish can be answered.
func (m *memory) publish(token wire.Token) {
	m.mark(token, slotLoaned, slotPublished)
}

// unpublish undoes publish: the message could not be appended.
func (m *memory) unpublish(token wire.Token) {
	m.mark(token, slotPublished, slotLoaned)
}

func (m *memory) mark(token wire.Token, from, to slotState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(token, from)
	if e == nil {
		panic(fmt.Sprintf("node: token %d is not in state %d", uint64(token), from))
	}
	e.state = to
}

// published ends the user's hold of the session after publish.
func (m *memory) published() { m.s.drop() }

// discard gives an unpublished slot back.
func (m *memory) discard(token wire.Token) {
	m.mu.Lock()
	e := m.entry(token, slotLoaned)
	if e == nil {
		m.mu.Unlock()
		panic(fmt.Sprintf("node: token %d is not on loan", uint64(token)))
	}
	m.freeLocked(e, token, time.Now())
	m.used.wakeAll()
	m.mu.Unlock()
	m.s.drop()
}

// settle frees the slots of messages that all receivers are done with.
func (m *memory) settle(tokens []wire.Token) error {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, token := range tokens {
		e := m.entry(token, slotPublished)
		if e == nil {
			return wire.Errorf(wire.CodeProtocol, "done: token %d is not outstanding", uint64(token))
		}
		m.freeLocked(e, token, now)
	}
	m.used.wakeAll()
	return nil
}

func (m *memory) class(slotBytes uint64) *slotClass {
	c := m.classes[slotBytes]
	if c == nil {
		c = &slotClass{slotBytes: slotBytes}
		m.classes[slotBytes] = c
	}
	c.usedAt = time.Now()
	return c
}

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
	mapping, err := shmpool.Map(g.Name, g.Region, geometry, true)
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
	defer m.mu.Unlock()
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
	defer m.mu.Unlock()
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

// giveBack returns a region without used slots to the broker.
func (m *memory) giveBack(id wire.RegionID) {
	mapping, err := m.slots.Remove(id)
	if err != nil {
		panic(fmt.Sprintf("node: region %d: %v", uint64(id), err))
	}
	m.regions[id].class.regions--
	delete(m.regions, id)
	if err := mapping.Close(); err != nil {
		m.s.n.log.Warn("shared memory region cannot be unmapped", "region", uint64(id), "error", err)
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
	defer m.mu.Unlock()
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

// close ends the use of this memory for new messages. Loans stay writable until
// the session is buried.
func (m *memory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	m.used.wakeAll()
}

// unmap is the last act.
func (m *memory) unmap() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for id, r := range m.regions {
		errs = append(errs, r.mapping.Close())
		delete(m.regions, id)
	}
	return errors.Join(errs...)
}

func (m *memory) stats() shmpool.SlotsStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slots.Stats()
}
