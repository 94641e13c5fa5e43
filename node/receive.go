package node

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// aheadMax bounds how many messages the broker may be asked for at a time, and
// with it the local queue.
const aheadMax = 65_536

// reportDelayMin: while messages are queued here, a call of Next reports what was
// consumed if the last report is so old.
const reportDelayMin = 3 * time.Millisecond

// input is one input of one session. It is immutable but for the guarded open.
type input struct {
	info InputInfo
}

// sessionReceive is what the receiver knows of one connection.
type sessionReceive struct {
	inputs []*input
	// holdMin is the shortest of their hold timeouts that are not 0.
	holdMin time.Duration
	ahead   uint64 // messages to ask for: what all queues together can hold

	// Counted in messages since the start of the session.
	delivered uint64 // arrived here
	consumed  uint64 // handed to the user
	reported  uint64 // consumed, as the broker knows it
	limit     uint64 // asked for
	limitMax  uint64 // largest limit ever asked for

	asked  bool      // for more, since the last delivery
	peak   int       // length of the queue after the last delivery
	toldAt time.Time // when consumed was reported last

	done      []wire.Token // to be given back
	tellTimer *time.Timer
	tellArmed bool
	over      bool // the connection is gone: nothing can be given back
}

// receiver is the receiving side of a node: a queue of what has arrived, over
// all its connections.
type receiver struct {
	n    *Node
	busy atomic.Bool // a goroutine is in Next

	mu      sync.Mutex // guards what follows
	session *session   // nil while the broker is away
	queue   queue
	pending pendingEvents // in queue
	lanes   receiverLanes
	changed bool  // Next has something to look at, be it no event
	closed  error // Next returns it at once
	final   error // Next returns it when the queue is empty
	held    recordList
	traffic traffic
	free    []*state
	frame   wire.Next // scratch
	evac    evacuator
}

// Next returns the next event. It waits until there is one, ctx ends (its error is
// returned, and the broker keeps what comes later), or the node is closed
// (ErrClosed). An event that is there already is returned even if ctx has ended.
// Only one goroutine may be in Next at a time, others get ErrNextBusy.
//
// Messages are asked for from inside Next only, so that a slow caller gets the
// newest messages that its queue policy kept, not old ones that waited here.
func (n *Node) Next(ctx context.Context) (Event, error) {
	r := &n.receiver
	if !r.busy.CompareAndSwap(false, true) {
		return Event{}, ErrNextBusy
	}
	ev, err := r.next(ctx)
	r.busy.Store(false)
	return ev, err
}

// Events calls Next until ctx ends or the node is closed; Err tells which. A
// message that the loop body did not release stays the caller's.
func (n *Node) Events(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for {
			ev, err := n.Next(ctx)
			if err != nil || !yield(ev) {
				return
			}
		}
	}
}

func (r *receiver) next(ctx context.Context) (Event, error) {
	for {
		var a aftermath
		r.mu.Lock()
		r.changed = false
		empty := r.queue.len() == 0
		ev, found := r.nextFromLanes(empty, &a)
		if !found {
			if err := r.endedLocked(ctx, empty); err != nil {
				r.mu.Unlock()
				a.run()
				return Event{}, err
			}
		}
		s, verdict := r.session, appendDone
		if s != nil && r.mustAsk(s, empty) {
			verdict = r.ask(s, s.recv.delivered+s.recv.ahead)
		}
		if !found && !empty {
			ev, found = r.nextFromQueue(&a)
		}
		r.mu.Unlock()
		if verdict == appendWrite {
			s.link.flush()
		}
		if a.due() {
			a.run()
		}
		if found {
			return ev, nil
		}
		if empty {
			r.wait(ctx)
		}
	}
}

// nextFromQueue returns the first event of the queue, which is not empty, unless
// that is none, or a message that cannot be read.
func (r *receiver) nextFromQueue(a *aftermath) (Event, bool) {
	q := r.queue.pop()
	ev, err := r.take(q)
	if err != nil {
		a.reject(r, q, err)
	}
	return ev, err == nil && q.lane == nil
}

// reject has a message rejected later. It is a function of its own so that only a
// message which is rejected is copied to the heap.
func (a *aftermath) reject(r *receiver, q queued, cause error) {
	a.tell = append(a.tell, func() { r.reject(q, cause) })
}

// nextFromLanes returns a message of the lanes if it is their turn: they and the
// queue alternate, so that neither can keep the other waiting.
func (r *receiver) nextFromLanes(empty bool, a *aftermath) (Event, bool) {
	v := &r.lanes
	if len(v.active) == 0 || r.closed != nil {
		return Event{}, false
	}
	if v.orphans > 0 && !empty {
		if ev, found := r.orphanFirst(a); found {
			return ev, true
		}
	}
	v.first = !v.first
	if !v.first && !empty {
		return Event{}, false
	}
	return r.nextOnLane(a)
}

// ready reports whether Next would find something to do. The sleeper asks.
func (r *receiver) ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed || r.queue.len() > 0 || r.closed != nil {
		return true
	}
	for _, l := range r.lanes.active {
		if r.readyLane(l) {
			return true
		}
	}
	return false
}

// unlockLook gives up r.mu and has the goroutine in Next look.
func (r *receiver) unlockLook() {
	r.changed = true
	r.mu.Unlock()
	r.n.sleeper.rouse()
}

func (r *receiver) look() {
	r.mu.Lock()
	r.unlockLook()
}

// endedLocked returns the error that ends a call of Next, if any.
func (r *receiver) endedLocked(ctx context.Context, empty bool) error {
	switch {
	case r.closed != nil:
		return r.closed
	case !empty:
		return nil
	case r.final != nil:
		return r.final
	}
	return ctx.Err()
}

// wait waits for something to arrive, or for the end of ctx.
func (r *receiver) wait(ctx context.Context) {
	if r.n.sleeper.wait(ctx, r) == nil {
		return
	}
	r.mu.Lock()
	s, verdict := r.session, appendDone
	if r.queue.len() == 0 && s != nil && s.recv.limit > s.recv.delivered {
		// What comes while nobody asks stays in the broker's queue, where the
		// policy can still choose.
		verdict = r.ask(s, s.recv.delivered)
	}
	r.mu.Unlock()
	if verdict == appendWrite {
		s.link.flush()
	}
}

// mustAsk decides whether the broker has to hear from this call of Next. While
// messages are queued here it asks once per delivery, when half of them are
// consumed, so that the next ones travel meanwhile; and a slow user's progress is
// reported, because what is not counts as lost if the connection breaks.
func (r *receiver) mustAsk(s *session, empty bool) bool {
	v := &s.recv
	switch {
	case empty:
		return v.consumed != v.reported || v.limit <= v.delivered || len(v.done) > 0
	case v.consumed == v.reported, v.consumed == v.delivered:
		// Nothing to report, or the broker would take it that somebody waits: but
		// this call returns what is queued, be it an event other than a message.
		return false
	}
	return !v.asked && r.queue.len() <= v.peak/2 || time.Since(v.toldAt) >= reportDelayMin
}

// ask is tellConsumed for a user who asks.
func (r *receiver) ask(s *session, limit uint64) appended {
	v := &s.recv
	v.asked = v.asked || r.queue.len() <= v.peak/2
	return r.tellConsumed(s, limit)
}

// tellConsumed sends Next with everything that is to be said.
func (r *receiver) tellConsumed(s *session, limit uint64) appended {
	v := &s.recv
	r.frame = wire.Next{Limit: limit, Consumed: v.consumed, Done: v.done}
	now := time.Now()
	verdict := s.link.append(&r.frame, now, false)
	v.toldAt, v.reported, v.limit, v.limitMax = now, v.consumed, limit, max(limit, v.limitMax)
	v.done = v.done[:0]
	return verdict
}

// lastWords tells the broker what the user has consumed, and gives back the tokens
// that wait: what is not reported counts as lost.
func (r *receiver) lastWords(s *session) {
	r.mu.Lock()
	verdict := appendDone
	if v := &s.recv; v.consumed != v.reported || len(v.done) > 0 {
		verdict = r.ask(s, v.delivered)
	}
	r.mu.Unlock()
	if verdict == appendWrite {
		s.link.flush()
	}
}

// deliver queues what one frame has brought. The items lie in c.
func (r *receiver) deliver(s *session, items []wire.Input, c *chunk) error {
	r.mu.Lock()
	defer r.unlockLook()
	if r.closed != nil {
		return nil // nobody will read it; the broker settles it with the connection
	}
	v := &s.recv
	if uint64(len(items)) > v.limitMax-v.delivered {
		return wire.Errorf(wire.CodeProtocol, "inputs: %d items after %d, the limit is %d", len(items), v.delivered, v.limitMax)
	}
	shared := false
	for i := range items {
		it := &items[i]
		if int(it.Input) >= len(v.inputs) {
			return wire.Errorf(wire.CodeProtocol, "inputs: input %d was not announced", it.Input)
		}
		q := r.queue.push()
		*q = queued{session: s, input: v.inputs[it.Input], item: *it}
		if len(it.Payload) > 0 || len(it.Metadata) > 0 {
			c.refs.Add(1)
			q.chunk = c
		}
		if it.Token != 0 {
			s.estate.hold()
			shared = true
		}
		v.delivered++
		r.pending.behind(q.input)
	}
	v.asked, v.peak = false, r.queue.len()
	if shared && r.evac.max > 0 && v.holdMin < never {
		r.evac.arm(r, v.holdMin/evacuateParts)
	}
	return nil
}

// take makes the event of what was queued, with r.mu held. The error means that
// the message cannot be read: reject it.
func (r *receiver) take(q queued) (Event, error) {
	if q.event != nil {
		r.pending.taken(q.event)
		return *q.event, nil
	}
	if q.lane != nil {
		r.activate(q.lane)
		return Event{}, nil
	}
	s, it := q.session, &q.item
	s.recv.consumed++
	r.tellSoon(s)
	payload := it.Payload
	var view shmpool.Ref
	if it.Region != 0 {
		var err error
		if payload, view, err = s.estate.view(it.Region, it.Offset, it.Length); err != nil {
			return Event{}, err
		}
	}
	dropped := it.Dropped
	if v := &r.lanes; len(v.leftover) > 0 {
		dropped += v.leftover[q.input.info.ID]
		delete(v.leftover, q.input.info.ID)
	}
	st := r.newState()
	rec := st.rec
	*rec = record{
		owner: r, session: s, estate: s.estate, input: q.input, chunk: q.chunk, view: view, own: rec.own,
		token: it.Token, region: it.Region, offset: it.Offset,
		seq: it.Seq, timeNS: it.TimeNS, dropped: dropped,
		metadata: it.Metadata, payload: payload, held: true,
		watched: watched{since: q.since, moved: q.moved, heap: q.heap},
	}
	return r.handOut(st, q.input), nil
}

// handOut makes a message the user's.
func (r *receiver) handOut(st *state, in *input) Event {
	rec := st.rec
	if r.n.vault != nil {
		rec.protect(r.n, in)
	}
	r.held.insert(rec)
	r.watch(rec)
	gen := st.generation.Add(1) // odd: held
	r.traffic.messages++
	r.traffic.bytes += uint64(len(rec.payload))
	return Event{
		Kind: EventInput, Input: in.info.ID,
		Message: Message{state: st, generation: gen, input: in, seq: rec.seq},
	}
}

// reject tells the broker that a message could not be read, which counts as a
// drop of this input, and settles its token. It is called without r.mu: the log's
// handler is the user's, and may ask the node something.
func (r *receiver) reject(q queued, cause error) {
	r.n.stats.rejected.Add(1)
	if q.item.Token != 0 {
		q.session.link.send(&wire.Reject{Token: q.item.Token, Reason: wire.DropBadDescriptor})
	}
	input, seq := q.input.info.ID, uint64(q.item.Seq)
	r.forget(q)
	r.n.log.Warn("message cannot be read", "input", input, "seq", seq, "error", cause)
}

// attach makes s the connection to ask.
func (r *receiver) attach(s *session, again bool) {
	r.mu.Lock()
	defer r.unlockLook() // also without an event: the one who waits has to ask this broker
	r.session = s
	r.setOnline(!s.adopting)
	r.evac.attach(r, s)
	if again && r.closed == nil {
		r.postReconnected("connection to the broker was lost")
	}
}

// detach gives up a connection. Messages of it that wait here are thrown away:
// the broker counts them as lost, and the user must not get what the drop log
// says he did not get.
func (r *receiver) detach(s *session) {
	r.mu.Lock()
	defer r.unlockLook()
	for range r.queue.len() {
		if q := r.queue.pop(); q.event != nil || q.lane != nil {
			*r.queue.push() = q
		} else {
			r.forget(q)
		}
	}
	if r.session == s {
		r.session = nil
		r.setOnline(false)
	}
	// Nothing more will come through this broker: lanes that wait for its word that
	// all of that is delivered may start. What it has said of ends, and was told of
	// faults, has to be said again.
	for _, l := range r.lanes.granted {
		l.closing, l.faulty = false, false
		if l.state == inGranted {
			r.queueLane(l)
		}
	}
	s.recv.over = true
	s.recv.done = nil
	if s.recv.tellTimer != nil {
		s.recv.tellTimer.Stop()
	}
}

// close ends Next: at once and for good, or (drain) after what is queued.
func (r *receiver) close(err error, drain bool) {
	r.mu.Lock()
	defer r.unlockLook()
	if drain {
		r.final = err
	} else {
		r.closed = err
		for r.queue.len() > 0 {
			r.forget(r.queue.pop())
		}
	}
}

// forget lets go of a message that will not be handed out.
func (r *receiver) forget(q queued) {
	if q.event != nil || q.lane != nil {
		return
	}
	if q.chunk != nil {
		q.chunk.release()
	}
	if q.moved { // so it was readable, and r.mu is held: it is not being rejected
		r.evac.unkeep(q.heap)
		r.evac.arm(r, evacuateAgain)
	}
	if q.item.Token != 0 {
		q.session.estate.drop() // under r.mu never the last hold: the node's own ends after detach
	}
}

// setInputs takes over what the broker says about the inputs.
func (r *receiver) setInputs(s *session, ports []wire.InputPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	inputs := make([]*input, len(ports))
	var ahead uint64
	holdMin := never
	for i, p := range ports {
		inputs[i] = &input{info: InputInfo{
			ID: p.ID, Source: p.Source, QueueSize: int(p.QueueSize), Policy: p.Policy,
			HoldTimeout: time.Duration(p.HoldTimeoutMS) * time.Millisecond, Open: p.Open,
		}}
		ahead += uint64(p.QueueSize)
		if hold := inputs[i].info.HoldTimeout; hold > 0 {
			holdMin = min(holdMin, hold)
		}
	}
	s.recv.holdMin = holdMin
	s.recv.inputs = inputs
	s.recv.ahead = min(max(ahead, 1), aheadMax)
	r.n.setInputs(inputs)
}

func (r *receiver) input(s *session, index wire.InputIndex) *input {
	r.mu.Lock()
	defer r.mu.Unlock()
	if int(index) >= len(s.recv.inputs) {
		return nil
	}
	return s.recv.inputs[index]
}
