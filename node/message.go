package node

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// statesKept is how many unused message states a node keeps.
const statesKept = 1024

// Message is a received message: a small handle, which may be copied. All copies
// end with the first Release of one of them.
type Message struct {
	state      *state
	generation uint64
	input      *input
	seq        wire.Seq
}

// state is what handles point to. The library does not point to it while the
// message is held, so that the garbage collector can tell that the user has lost
// the last handle.
type state struct {
	generation atomic.Uint64 // odd while held; a handle of another generation is an old one
	rec        *record
}

// record is what the library keeps of a held message: where its payload lies and
// what to give back. It must not lead to its state, or the garbage collector
// would never find that lost: so owner, which leads to the unused states, is set
// only while the message is held.
type record struct {
	owner      *receiver
	prev, next *record // in owner.held
	held       bool
	watched    watched

	session *session // if it came through the broker
	estate  *estate  // if it is in shared memory
	input   *input
	chunk   *chunk      // of metadata and inline payload, may be nil
	view    shmpool.Ref // of a payload in shared memory
	token   wire.Token
	region  wire.RegionID
	offset  uint64

	lane   *laneIn // if it came on one
	ledger lane.Ledger
	own    []byte // metadata of messages on lanes; kept from message to message

	guard *guard // nil unless the node runs in protect mode

	seq      wire.Seq
	timeNS   int64
	dropped  uint64
	metadata wire.RawMetadata
	payload  []byte
}

// newState returns an unused state, with r.mu held.
func (r *receiver) newState() *state {
	if last := len(r.free) - 1; last >= 0 {
		st := r.free[last]
		r.free[last] = nil
		r.free = r.free[:last]
		return st
	}
	st := &state{rec: &record{}}
	runtime.AddCleanup(st, lost, st.rec)
	return st
}

// keepState makes a state available again, with r.mu held.
func (r *receiver) keepState(st *state) {
	*st.rec = record{own: st.rec.own[:0]}
	if len(r.free) < statesKept {
		r.free = append(r.free, st)
	}
}

// check returns what m stands for, or panics if that is over.
func (m Message) check(use string) *record {
	if m.state == nil {
		panic("node: " + use + " of a Message that holds nothing (its event is no EventInput)")
	}
	if m.state.generation.Load() != m.generation {
		panic(fmt.Sprintf("node: %s of message %d of input %q after its Release; copy what is needed longer",
			use, uint64(m.seq), m.input.info.ID))
	}
	return m.state.rec
}

// Payload returns the message's bytes: a view that is valid until Release. It is
// read-only; for a local node a write to it is a segmentation fault. Its capacity
// is its length. Nodes of one machine get the sender's memory itself, aligned to
// 64 bytes, if the payload is over the broker's inline limit.
func (m Message) Payload() []byte { return m.check("Payload").payload }

// Metadata returns what the sender attached; nil if nothing. Valid until Release.
func (m Message) Metadata() wire.RawMetadata { return m.check("Metadata").metadata }

// Time returns when the message was published, by the sender's clock.
func (m Message) Time() time.Time { return time.Unix(0, m.check("Time").timeNS) }

// Age returns how long ago the message was published. Clocks of two machines
// differ: it may be negative.
func (m Message) Age() time.Duration {
	return time.Duration(time.Now().UnixNano() - m.check("Age").timeNS)
}

// Dropped returns how many messages this input lost since its previous one.
func (m Message) Dropped() uint64 { return m.check("Dropped").dropped }

// Seq returns the message's number: the sender counts each output from 1. It is
// part of the handle and may be asked after Release.
func (m Message) Seq() wire.Seq { return m.seq }

// Valid reports whether m is a message that was not released.
func (m Message) Valid() bool {
	return m.state != nil && m.state.generation.Load() == m.generation
}

// Release ends the message: the sender may have its memory back. Releasing twice,
// or the zero Message, does nothing: the handle knows that its time is over, so
// a second Release cannot hit another message, and `defer m.Release()` beside an
// early Release is right. Any other use after Release panics.
func (m Message) Release() {
	if m.state == nil || !m.state.generation.CompareAndSwap(m.generation, m.generation+1) {
		return
	}
	m.state.rec.owner.release(m.state.rec, m.state)
}

// release ends a held message. st is nil if the garbage collector has it.
func (r *receiver) release(rec *record, st *state) {
	r.mu.Lock()
	s, e, l, c, view, token, region := rec.session, rec.estate, rec.lane, rec.chunk, rec.view, rec.token, rec.region
	ledger, guard := rec.ledger, rec.guard
	r.held.remove(rec)
	r.unwatch(rec)
	verdict := appendDone
	if token != 0 {
		verdict = r.giveBack(s, token)
	}
	if st != nil {
		r.keepState(st)
	}
	r.mu.Unlock()

	if guard != nil {
		guard.spend(st != nil)
	}
	if verdict == appendWrite {
		s.link.flush()
	}
	if c != nil {
		c.release()
	}
	if l != nil {
		l.done(ledger, view.SlotIndex())
		l.unref()
	}
	if region != 0 {
		e.unview(view)
	}
	if token != 0 || l != nil {
		e.drop()
	}
}

// lost is called when the garbage collector found a state that nobody points to.
// It gives back a message whose last handle was lost without Release.
func lost(rec *record) {
	if !rec.held {
		return // an unused state
	}
	if rec.chunk != nil {
		rec.chunk.leaked.Store(true) // a slice of it may still be in use: leave it to the garbage collector
	}
	r := rec.owner
	count := r.n.stats.forgotten.Add(1)
	r.n.log.Warn("message was garbage collected without Release",
		"input", rec.input.info.ID, "seq", uint64(rec.seq), "count", count)
	r.release(rec, nil)
}
