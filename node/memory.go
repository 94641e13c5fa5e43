package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

const (
	recentRegions = 8
	tokensBlock   = 64
)

// memory is the sending side of an estate: the regions leased to this node, and
// who has which slot. A slot is free, loaned (the user writes) or published:
// receivers read, until the broker says Done and the bits of all lanes in the
// slot's ledger word are clear.
type memory struct {
	e *estate

	mu       sync.Mutex // guards what follows
	link     *link      // nil while there is no broker to ask
	slots    *shmpool.Slots
	regions  map[wire.RegionID]*leasedRegion
	recent   [recentRegions]*leasedRegion // by the last bits of the id: consecutive ones are used in turn
	classes  map[uint64]*slotClass
	requests map[uint32]*slotClass // not answered yet
	request  uint32
	tokens   []*tokenEntry
	spare    []uint32 // unused entries of tokens
	unpolled int      // messages since the last look at lent
	lent     lentList // published on lanes, oldest first but for those that were looked at
	serial   uint64   // of the last message published on lanes
	lanes    map[wire.RegionID]*laneOut
	left     []leftLane // that no broker knows any more
	bell     *lane.Bell // the node's own; nil while it has no lanes
	clock    time.Time  // of the last message, for what needs no better
	over     bool       // nothing new can be had here

	tender  chan<- struct{} // of the last session; who tends its lanes
	tended  uint64          // serial at its last look
	resting bool            // it waits for the next message

	changes uint64   // what waiters wait for: slots, grants and denials
	waiting int      // how many do
	freed   bool     // since the last unlock
	untold  []func() // log lines that unlock writes
}

// unlock gives up m.mu and then does what must not be done under it: it rouses
// those who wait for a change, and writes what there is to log, because the log's
// handler is the user's, and may ask the node something.
func (m *memory) unlock(changed bool) {
	untold := m.untold
	m.untold = nil
	m.unlockUntold(changed)
	for _, tell := range untold {
		tell()
	}
}

// unlockUntold is unlock for those who hold Output.mu: what there is to log waits
// for the next unlock.
func (m *memory) unlockUntold(changed bool) {
	if changed {
		m.changes++
	}
	rouse := (changed || m.freed) && m.waiting > 0
	m.freed = false
	m.mu.Unlock()
	if rouse {
		m.e.n.sleeper.rouse()
	}
}

type leasedRegion struct {
	id      wire.RegionID
	name    string
	mapping *shmpool.Mapping
	ledger  lane.Ledger
	class   *slotClass
	used    int       // slots that are not free, those in quarantine included
	idleAt  time.Time // since when no slot is in use

	// foreign: the broker that is there now does not know the region.
	foreign atomic.Bool
	// retired: no new message goes into it. A loan in it may still go to the broker,
	// and to no lane: its receiver may not have the region any more.
	retired atomic.Bool
	// quarantine has the slots of which nobody can tell any more when their
	// readers are done. They are not used again; when all others are free the
	// region is given up with them in it.
	quarantine []*tokenEntry
}

// slotClass is what is known of one slot size.
type slotClass struct {
	slotBytes uint64
	regions   int
	request   uint32 // not answered yet; 0: none
	asked     uint32 // slots asked for by it
	small     bool   // the next request asks for one slot
	reserve   uint32 // the next request asks for at least so many, if a region may have them
	usedAt    time.Time

	denials  uint64 // counted, so that waiters see a new one
	denied   error
	deniedAt time.Time
	toldAt   time.Time // when the log was told that a sender waits
	inlineAt time.Time // when the last message of this size went inline for want of memory
}

type slotState uint8

const (
	slotFree slotState = iota
	slotLoaned
	slotPublished
	slotQuarantined
)

// tokenEntry is the slot that a token stands for. A token is the index of its
// entry and a generation, so that a late one cannot hit another message. While
// the slot is loaned the entry is its user's, who needs no lock for it.
type tokenEntry struct {
	slot       shmpool.Slot
	region     *leasedRegion
	generation uint32
	index      uint32
	state      slotState

	brokered   bool   // the broker has not said Done
	unsent     bool   // brokered, and the broker has not heard of it
	lost       bool   // somebody may read it of whom nobody can tell when he is done
	mask       uint64 // bits that were set in the ledger word, of lanes that still count
	serial     uint64
	meta       wire.Token // the slot with the metadata, if they have one of their own
	seq        wire.Seq   // 0 for metadata
	size       int
	prev, next *tokenEntry
}

func (e *tokenEntry) token() wire.Token {
	return wire.Token(uint64(e.generation)<<32 | uint64(e.index) + 1)
}

func newMemory(e *estate) *memory {
	return &memory{
		e: e, slots: shmpool.NewSlots(),
		regions:  make(map[wire.RegionID]*leasedRegion),
		classes:  make(map[uint64]*slotClass),
		requests: make(map[uint32]*slotClass),
		lanes:    make(map[wire.RegionID]*laneOut),
	}
}

// lease is one slot in the hands of the user.
type lease struct {
	entry  *tokenEntry
	token  wire.Token // 0: no slot
	slot   []byte     // all of it
	buffer []byte     // its start, as long as was asked for
}

// spoilt reports whether nothing may be sent (to lanes, or at all) in the region
// that the slot is in.
func (l *lease) spoilt(lanes bool) bool {
	r := l.entry.region
	return r.foreign.Load() || lanes && r.retired.Load()
}

// take finds a slot for size bytes: at once if one is free, else when one becomes
// free or the broker grants a region. If the broker denies it, an output with a
// block receiver goes on waiting, others get ErrNoMemory; or errInline, if the
// message may go inside the frame instead. It takes a hold of the estate.
func (m *memory) take(ctx context.Context, size int, o *Output) (lease, error) {
	return m.takeFor(ctx, size, size, o)
}

// takeFor is take for what belongs to a message with a payload of whole bytes, which
// would go inside the frame with it.
func (m *memory) takeFor(ctx context.Context, size, whole int, o *Output) (lease, error) {
	m.mu.Lock()
	if l, ok := m.tryLocked(size, pollFew); ok {
		m.unlock(false)
		return l, nil
	}
	slotBytes := shmpool.SlotClass(uint64(size))
	if slotBytes == 0 {
		m.mu.Unlock()
		return lease{}, fmt.Errorf("%w: output %q: %d bytes, a message may have %d; send it in parts",
			ErrTooLarge, o.id, size, uint64(shmpool.SlotBytesMax))
	}
	c := m.class(slotBytes)
	if m.inlinesAgain(c, whole) {
		m.mu.Unlock()
		return lease{}, errInline
	}
	seen, begun := c.denials, time.Now()
	for {
		if m.over {
			m.mu.Unlock()
			return lease{}, errLinkDown
		}
		if l, ok := m.tryLocked(size, pollAll); ok {
			m.unlock(false)
			return l, nil
		}
		denied := c.denials != seen
		if denied {
			if m.inlines(c, o, whole, begun, time.Now()) {
				m.unlock(false)
				return lease{}, errInline
			}
			if err := m.denialOf(c.denied, o, size); err != nil {
				m.mu.Unlock()
				return lease{}, err
			}
			if now := time.Now(); now.Sub(c.toldAt) >= tellPause {
				c.toldAt = now
				cause := c.denied
				m.untold = append(m.untold, func() {
					m.e.n.log.Warn("waiting for shared memory", "output", o.id, "bytes", size, "error", cause)
				})
			}
		}
		if !denied || time.Since(c.deniedAt) >= denialPause {
			m.requestRegion(c)
		}
		if err := m.waitUnlock(ctx, denied); err != nil {
			return lease{}, err
		}
		m.mu.Lock()
	}
}

// takeFree is take for those who look elsewhere if no slot is free at once, with
// Output.mu held.
func (m *memory) takeFree(size int) (lease, bool) {
	m.mu.Lock()
	l, ok := m.tryLocked(size, pollFew)
	m.unlockUntold(false)
	return l, ok
}

// tryLocked takes a slot if one is free, after looking which ones the receivers
// on lanes have done with: at a few, and at all of them if need be.
func (m *memory) tryLocked(size, poll int) (lease, bool) {
	if m.lent.first != nil && (poll == pollAll || m.pollDue()) {
		m.poll(poll)
	}
	if l, ok := m.takeLocked(size); ok {
		return l, true
	}
	if poll == pollAll || m.lent.first == nil || m.poll(pollAll) == 0 {
		return lease{}, false
	}
	return m.takeLocked(size)
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
	recent := &m.recent[slot.Region%recentRegions]
	if *recent == nil || (*recent).id != slot.Region {
		*recent = m.regions[slot.Region]
	}
	r := *recent
	r.used++
	if len(m.spare) == 0 {
		m.moreTokens()
	}
	last := len(m.spare) - 1
	e := m.tokens[m.spare[last]]
	m.spare = m.spare[:last]
	e.slot, e.region, e.state = slot, r, slotLoaned
	e.generation++
	m.e.hold()
	whole, err := r.mapping.Slice(slot.Offset, slot.Bytes)
	if err != nil {
		panic(fmt.Sprintf("node: slot %d of region %d: %v", slot.Index, uint64(slot.Region), err))
	}
	return lease{entry: e, token: e.token(), slot: whole, buffer: whole[:size:size]}, true
}

// moreTokens makes unused entries, many at a time.
func (m *memory) moreTokens() {
	block := make([]tokenEntry, tokensBlock)
	for i := range block {
		e := &block[len(block)-1-i]
		e.index = uint32(len(m.tokens))
		m.tokens = append(m.tokens, e)
		m.spare = append(m.spare, e.index)
	}
}

// entry finds what a token stands for; nil if it is not outstanding.
func (m *memory) entry(token wire.Token, state slotState) *tokenEntry {
	i := uint64(token) & 0xffff_ffff
	if i == 0 || i > uint64(len(m.tokens)) {
		return nil
	}
	e := m.tokens[i-1]
	if e.state != state || uint64(e.generation) != uint64(token)>>32 {
		return nil
	}
	return e
}

// freeLocked makes a slot available again.
func (m *memory) freeLocked(e *tokenEntry, now time.Time) {
	r := e.region
	m.forget(e)
	r.used--
	r.class.usedAt = now
	if r.used == 0 {
		r.idleAt = now
	}
	_ = m.slots.Free(e.slot)
	// One look finds all that receivers have given back, for one slot that it wants.
	m.changes++
	m.freed = true
	m.checkDrained(r)
}

// forget ends a token.
func (m *memory) forget(e *tokenEntry) {
	e.state, e.mask, e.brokered, e.unsent, e.lost, e.meta, e.seq, e.size = slotFree, 0, false, false, false, 0, 0, 0
	m.spare = append(m.spare, e.index)
}

// publish marks a loaned slot as published with the broker, before its Publish
// can be answered.
func (m *memory) publish(l lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.entry.state, l.entry.brokered = slotPublished, true
}

// unpublish undoes publish: the message could not be appended.
func (m *memory) unpublish(l lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.entry.state, l.entry.brokered = slotLoaned, false
}

// published ends the user's hold of the estate after publish. If that was the
// last one the estate is buried, so it is called without locks.
func (m *memory) published() { m.e.drop() }

// discard gives an unpublished slot back.
func (m *memory) discard(token wire.Token) {
	m.mu.Lock()
	e := m.entry(token, slotLoaned)
	if e == nil {
		m.mu.Unlock()
		panic(fmt.Sprintf("node: token %d is not on loan", uint64(token)))
	}
	m.freeLocked(e, time.Now())
	m.unlock(true)
	m.e.drop()
}

// settle takes the broker's word that all its receivers of some messages are done
// with them.
func (m *memory) settle(tokens []wire.Token) error {
	now := time.Now()
	m.mu.Lock()
	defer m.unlock(true)
	for _, token := range tokens {
		e := m.entry(token, slotPublished)
		if e == nil || !e.brokered {
			return wire.Errorf(wire.CodeProtocol, "done: token %d is not outstanding", uint64(token))
		}
		m.settleLocked(e, now)
	}
	return nil
}

func (m *memory) settleLocked(e *tokenEntry, now time.Time) {
	e.brokered, e.unsent = false, false
	if e.mask != 0 {
		e.region.ledger.Clear(e.slot.Index, lane.BrokerBit)
	}
	if !e.held() {
		m.unlend(e, now)
	}
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

func (m *memory) setBell(b *lane.Bell) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bell = b
}

// setTender says whom to tell that there is something to tend.
func (m *memory) setTender(soon chan<- struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tender, m.resting = soon, false
}

// attach gives the memory a broker to ask.
func (m *memory) attach(l *link) {
	m.mu.Lock()
	m.link = l
	m.unlock(true)
}

// detach takes it away. What was asked for will not be answered.
func (m *memory) detach() {
	m.mu.Lock()
	m.link = nil
	for request := range m.requests {
		m.answered(request)
	}
	m.unlock(true)
}

// close ends the use of this memory for new messages. Loans stay writable until
// the estate is buried.
func (m *memory) close() {
	m.mu.Lock()
	m.over, m.link = true, nil
	m.unlock(true)
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

func (m *memory) regionCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.regions)
}

func (m *memory) stats() shmpool.SlotsStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slots.Stats()
}
