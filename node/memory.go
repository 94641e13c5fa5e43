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
	untold   []func() // log lines that unlock writes
}

// unlock gives up m.mu and then writes what there is to log: the log's handler is
// the user's, and may ask the node something.
func (m *memory) unlock() {
	untold := m.untold
	m.untold = nil
	m.mu.Unlock()
	for _, tell := range untold {
		tell()
	}
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
	toldAt   time.Time // when the log was told that a sender waits
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
	seen := c.denials
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
			if now := time.Now(); now.Sub(c.toldAt) >= tellPause {
				c.toldAt = now
				cause := c.denied
				m.untold = append(m.untold, func() {
					m.s.n.log.Warn("waiting for shared memory", "output", o.id, "bytes", size, "error", cause)
				})
			}
		}
		if c.request == 0 && len(m.requests) < requestsMax && (!denied || time.Since(c.deniedAt) >= denialPause) {
			m.requestRegion(c)
		}
		one := m.used.add()
		m.unlock()
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

// published ends the user's hold of the session after publish. If that was the
// last one the session is buried, so it is called without locks.
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
	m.unlock()
	m.s.drop()
}

// settle frees the slots of messages that all receivers are done with.
func (m *memory) settle(tokens []wire.Token) error {
	now := time.Now()
	m.mu.Lock()
	defer m.unlock()
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
