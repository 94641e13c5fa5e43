package actors

import (
	"time"

	"github.com/brokerd/brokerd/wire"
)

// hold is one receiver's claim on the slot of one delivered message. The tokens
// that receivers see name holds, not messages, so that a receiver can give back
// only what it was given.
type hold struct {
	generation uint32 // of this place in the table; stale tokens do not match
	message    *message
	edge       *edge
	session    *session  // who got it; the edge may have another receiver by now
	since      time.Time // when it was delivered
	number     uint64    // of the delivery in its session
	prev, next int32     // in the edge's list, in order of delivery
}

const noHold int32 = -1

// holdTable is the token table. Places are reused; a place's generation changes
// with each use, so that a token names one hold for ever.
type holdTable struct {
	holds []hold
	free  []int32
	n     int
}

// holdList is the holds of one edge, oldest first. Deadlines are in the same
// order, because one timeout applies to all of them.
type holdList struct {
	head, tail int32
	fresh      int32 // the oldest that is not overdue
	n          int
	bytes      uint64
}

func newHoldList() holdList { return holdList{head: noHold, tail: noHold, fresh: noHold} }

// add enters a hold and returns the token that names it.
func (t *holdTable) add(m *message, e *edge, s *session, now time.Time) wire.Token {
	var i int32
	if n := len(t.free); n > 0 {
		i = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		i = int32(len(t.holds))
		t.holds = append(t.holds, hold{generation: 1})
	}
	h := &t.holds[i]
	h.message, h.edge, h.session, h.since = m, e, s, now
	h.number = s.delivered
	h.prev, h.next = e.holds.tail, noHold
	if e.holds.tail == noHold {
		e.holds.head = i
	} else {
		t.holds[e.holds.tail].next = i
	}
	e.holds.tail = i
	if e.holds.fresh == noHold {
		e.holds.fresh = i
	}
	e.holds.n++
	e.holds.bytes += m.length
	s.held++
	t.n++
	return wire.Token(h.generation)<<32 | wire.Token(i+1)
}

// find returns the place of the hold that token names.
func (t *holdTable) find(token wire.Token) (int32, bool) {
	i := int64(token&0xffff_ffff) - 1
	if i < 0 || i >= int64(len(t.holds)) {
		return noHold, false
	}
	h := &t.holds[i]
	if h.message == nil || uint64(h.generation) != uint64(token>>32) {
		return noHold, false
	}
	return int32(i), true
}

// remove takes a hold out and returns its message, whose reference passes to
// the caller.
func (t *holdTable) remove(i int32) *message {
	h := &t.holds[i]
	m, e := h.message, h.edge
	if h.prev == noHold {
		e.holds.head = h.next
	} else {
		t.holds[h.prev].next = h.next
	}
	if h.next == noHold {
		e.holds.tail = h.prev
	} else {
		t.holds[h.next].prev = h.prev
	}
	if e.holds.fresh == i {
		e.holds.fresh = h.next
	}
	e.holds.n--
	e.holds.bytes -= m.length
	h.session.held--
	t.n--
	*h = hold{generation: max(1, h.generation+1), prev: noHold, next: noHold}
	t.free = append(t.free, i)
	return m
}
