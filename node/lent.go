package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

const (
	// pollFew: so many messages on lanes are looked at, at each look that comes with a
	// message that is sent: two for each message since the last look, because one
	// would not catch up.
	pollFew = 2 * pollEvery
	// pollEvery is how many small messages there are to a look. The receiver writes
	// to the same cache lines, of eight slots each: looking often is slow for both.
	// Large ones are few, and to use a warm slot again is worth more.
	pollEvery      = 16
	pollSmallBytes = 4096
	pollAll        = 1 << 30
)

// pollDue reports whether it is time to look at a few lent slots.
func (m *memory) pollDue() bool {
	m.unpolled++
	if m.unpolled < pollEvery && m.lent.first.slot.Bytes <= pollSmallBytes {
		return false
	}
	m.unpolled = 0
	return true
}

// lentList has the published slots with lane bits. A receiver on a lane tells
// nobody that it is done with a message, it clears a bit: the sender looks.
type lentList struct {
	first, last *tokenEntry
}

func (l *lentList) push(e *tokenEntry) {
	e.prev, e.next = l.last, nil
	if l.last != nil {
		l.last.next = e
	} else {
		l.first = e
	}
	l.last = e
}

func (l *lentList) remove(e *tokenEntry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		l.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		l.last = e.prev
	}
	e.prev, e.next = nil, nil
}

// held reports whether somebody may still read the slot. Only the bits that were
// set here count, so that stray ones leak nothing.
func (e *tokenEntry) held() bool {
	return e.brokered || e.region.ledger.Held(e.slot.Index, e.mask)
}

// poll looks at the first limit lent slots, frees those that nobody holds, and
// returns their number. When only some are looked at, it ends at the second that
// is still held, and puts those to the back, so that a message that is held for
// long does not hide the others.
func (m *memory) poll(limit int) (freed int) {
	few := limit < pollAll
	held := 0
	for e := m.lent.first; e != nil && limit > 0; limit-- {
		next := e.next
		if !e.held() {
			m.unlend(e, m.clock)
			freed++
		} else if few {
			if next != nil {
				m.lent.remove(e)
				m.lent.push(e)
			}
			if held++; held == 2 {
				break
			}
		}
		e = next
	}
	return freed
}

// unlend ends the use of a published slot that nobody holds.
func (m *memory) unlend(e *tokenEntry, now time.Time) {
	if e.mask != 0 {
		m.lent.remove(e)
	}
	if e.lost {
		m.quarantine(e)
	} else {
		m.freeLocked(e, now)
	}
}

// spend sees to it that a slot is not used again, nor others of its region:
// somebody may read it for ever.
func (m *memory) spend(e *tokenEntry) {
	e.lost = true
	m.retireLocked(e.region)
}

// lose gives up a slot for good that somebody may read for ever, on one of the lanes
// of mask or through a broker that is dead. Who has it on other lanes is waited for:
// he may not have mapped the region yet.
func (m *memory) lose(e *tokenEntry, mask uint64) {
	m.spend(e)
	left := e.mask &^ mask
	if e.mask != 0 && left == 0 {
		m.lent.remove(e)
	}
	if e.mask = left; !e.held() {
		m.unlend(e, m.clock)
	}
}

// unneeded takes back that a message goes to the broker.
func (m *memory) unneeded(token wire.Token) {
	m.mu.Lock()
	if e := m.entry(token, slotPublished); e != nil && e.brokered {
		m.settleLocked(e, m.clock)
	}
	m.unlock(true)
}

// setUnsent says of a message that goes to the broker whether it has yet to be
// told.
func (m *memory) setUnsent(e *tokenEntry, unsent bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.unsent = unsent
}

// bytes returns the payload of a message that was published.
func (m *memory) bytes(e *tokenEntry) []byte {
	b, err := e.region.mapping.Slice(e.slot.Offset, uint64(e.size))
	if err != nil {
		panic(fmt.Sprintf("node: slot %d of region %d: %v", e.slot.Index, uint64(e.region.id), err))
	}
	return b
}

// victim is a message that a push evicted from a lane.
type victim struct {
	token wire.Token
	bit   uint8
}

// sent enters a loaned slot as published, after its message was pushed to the
// lanes of mask and before it is given to the broker, if it is.
func (m *memory) sent(l lease, mask uint64, brokered bool, o *outgoing) {
	e := l.entry
	e.seq, e.size, e.meta = o.seq, len(l.buffer), o.meta.token
	m.mu.Lock()
	m.clock = o.now
	m.serial++
	m.enter(e, mask, brokered)
	if o.meta.token != 0 {
		m.enter(o.meta.entry, mask, false)
	}
	m.unlockUntold(false)
}

func (m *memory) enter(e *tokenEntry, mask uint64, brokered bool) {
	e.state, e.mask, e.brokered, e.serial = slotPublished, mask, brokered, m.serial
	switch {
	case mask != 0:
		m.lent.push(e)
		if m.waiting > 0 && !e.held() { // who waits has looked before it was there
			m.unlend(e, m.clock)
		}
		if m.resting {
			m.resting = false
			select {
			case m.tender <- struct{}{}:
			default: // it comes anyway
			}
		}
	case !brokered:
		m.freeLocked(e, m.clock)
	}
}

// evicted clears the bits of messages that were pushed off their lane.
func (m *memory) evicted(victims []victim) {
	m.mu.Lock()
	freed := false
	for _, v := range victims {
		if m.clearBit(m.entry(v.token, slotPublished), v.bit) {
			freed = true
		}
	}
	m.unlockUntold(freed)
}

// clearBit takes a lane's bit off a message and its metadata, and reports whether
// a slot is free now.
func (m *memory) clearBit(e *tokenEntry, bit uint8) (freed bool) {
	if e == nil || e.mask&(1<<bit) == 0 {
		return false
	}
	meta := e.meta
	e.region.ledger.Clear(e.slot.Index, bit)
	if !e.held() {
		m.unlend(e, m.clock)
		freed = true
	}
	if meta != 0 {
		freed = m.clearBit(m.entry(meta, slotPublished), bit) || freed
	}
	return freed
}

// clearAll takes a lane's bit off all its messages: no receiver has any of them.
func (m *memory) clearAll(l *laneOut) {
	m.mu.Lock()
	freed := false
	for e := m.lent.first; e != nil; {
		next := e.next
		if e.serial > l.since && e.mask&l.mask != 0 {
			e.region.ledger.Clear(e.slot.Index, l.bit)
			if !e.held() {
				m.unlend(e, m.clock)
				freed = true
			}
		}
		e = next
	}
	m.unlock(freed)
}

// clearRange takes a lane's bit off some messages: its receiver cannot read them.
func (m *memory) clearRange(l *laneOut, first, last wire.Seq) {
	m.mu.Lock()
	var found []victim
	for e := m.lent.first; e != nil; e = e.next {
		if e.seq != 0 && e.seq >= first && e.seq <= last && e.serial > l.since && e.mask&l.mask != 0 {
			found = append(found, victim{e.token(), l.bit})
		}
	}
	m.mu.Unlock()
	m.evicted(found)
}

// uses reports whether a lane's receiver may still read a slot.
func (m *memory) uses(l *laneOut) bool {
	for e := m.lent.first; e != nil; e = e.next {
		if l.has(e) {
			return true
		}
	}
	return false
}

// has reports whether e was sent on l and its receiver is not done with it.
func (l *laneOut) has(e *tokenEntry) bool {
	return e.serial > l.since && e.mask&l.mask != 0 && e.region.ledger.Held(e.slot.Index, l.mask)
}

// quarantine keeps a lost slot until its region is given up.
func (m *memory) quarantine(e *tokenEntry) {
	e.state = slotQuarantined
	r := e.region
	r.quarantine = append(r.quarantine, e)
	m.checkDrained(r)
}

// leftLane is a lane that no broker knows any more, with messages on it: its receiver
// takes what is left, and clears bits as ever.
type leftLane struct {
	mask        uint64
	since, last uint64 // between these serials its messages are: the bit may be another's now
	until       time.Time
}

// disown gives up the slots that a lane's receiver has: no broker will tell when
// that is gone. It is waited for, because a region that is returned cannot be read,
// but not for longer than it may read without one.
func (m *memory) disown(l *laneOut) {
	m.mu.Lock()
	if m.uses(l) {
		m.left = append(m.left, leftLane{mask: l.mask, since: l.since, last: m.serial, until: time.Now().Add(staleMax)})
	}
	for e := m.lent.first; e != nil; e = e.next {
		if l.has(e) {
			m.spend(e)
		}
	}
	m.unlock(true)
}

// loseLeft forgets lanes that no broker knows when nothing of them is held any more,
// or its receiver has had its time. It reports whether there are others. m.mu is held.
func (m *memory) loseLeft(now time.Time) bool {
	m.left = slices.DeleteFunc(m.left, func(l leftLane) bool {
		overdue, held := !now.Before(l.until), false
		for e := m.lent.first; e != nil; {
			next := e.next
			if l.has(e) {
				if held = true; overdue {
					m.lose(e, l.mask)
				}
			}
			e = next
		}
		return overdue || !held
	})
	return len(m.left) > 0
}

// has reports whether e was sent on l and its receiver is not done with it.
func (l *leftLane) has(e *tokenEntry) bool {
	return e.lost && e.serial > l.since && e.serial <= l.last && e.mask&l.mask != 0 && e.region.ledger.Held(e.slot.Index, l.mask)
}

// holders says who has this node's slots on lanes; "" if nobody.
func (m *memory) holders() string {
	var parts []string
	for _, l := range m.lanes {
		count, bytes := 0, uint64(0)
		for e := m.lent.first; e != nil; e = e.next {
			if l.has(e) {
				count++
				bytes += e.slot.Bytes
			}
		}
		if count > 0 {
			parts = append(parts, fmt.Sprintf("%s has %d messages of this node in %s", l.grant.Peer, count, shmpool.FormatBytes(bytes)))
		}
	}
	return strings.Join(parts, ", ")
}

// heldMark is what is known of a message in a receiver's hands.
type heldMark struct {
	since int64 // Unix nanoseconds of the look that found it there
	told  bool
}

// reportHeld tells the broker what a lane's receiver has had for longer than it
// may, each message once. firstQueued is the oldest message that still waits on
// the lane, 0 if none does: those are nobody's fault. The time counts from the
// look that found the message taken.
func (m *memory) reportHeld(l *laneOut, now time.Time, firstQueued wire.Seq) {
	m.mu.Lock()
	defer m.mu.Unlock() // after the report: a region that it names is not given back before
	report := wire.LaneHeld{Lane: l.grant.Lane}
	marks := make(map[wire.Token]heldMark)
	for e := m.lent.first; e != nil; e = e.next {
		if e.seq == 0 || firstQueued != 0 && e.seq >= firstQueued || !l.has(e) || e.region.foreign.Load() {
			continue
		}
		mark, known := l.marks[e.token()]
		if !known {
			mark.since = now.UnixNano()
		}
		if held := time.Duration(now.UnixNano() - mark.since); held >= l.hold && !mark.told {
			mark.told = true
			if report.Count == 0 || e.seq < report.Seq {
				report.Region, report.Seq, report.HeldMS = e.region.id, e.seq, uint64(held.Milliseconds())
			}
			report.Count++
			report.Bytes += uint64(e.size)
		}
		marks[e.token()] = mark
	}
	l.marks = marks
	if report.Count > 0 && m.link != nil {
		m.link.send(&report)
	}
}

// seqOf returns the number of the message of a token that is outstanding, else 0.
func (m *memory) seqOf(token wire.Token) wire.Seq {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entry(token, slotPublished); e != nil {
		return e.seq
	}
	return 0
}
