package lane

import (
	"runtime/debug"
	"sync/atomic"
)

// Producer is the sending end of a lane. It is not safe for concurrent use; its
// owner guards it.
type Producer struct {
	words   []uint64
	ring    []sent // by position, the newest lap
	state   sender
	op      push
	corrupt bool
}

// NewProducer takes the sending end of the lane in words. It must be the first to
// do so: the error wraps ErrCorrupt if something was sent already, or if the
// memory is not that of the lane, and ErrConfig if it cannot be.
func NewProducer(words []uint64, cfg Config) (*Producer, error) {
	if err := check(words, cfg); err != nil {
		return nil, err
	}
	if err := checkUnused(words, cfg.Lane, true); err != nil {
		return nil, err
	}
	capacity := Capacity(cfg.QueueSize)
	return &Producer{
		words: words[:Bytes(capacity)/8],
		ring:  make([]sent, capacity),
		state: sender{limit: cfg.QueueSize, mask: capacity - 1, policy: cfg.Policy},
	}, nil
}

// Push puts a message on the lane. The verdict is Pushed, Refused, Full, Closed
// or Corrupt; unless it is Pushed, the message is not on the lane. The cookie is
// the caller's name of the message. evicted tells, whatever the verdict, that the
// oldest message was dropped for this one: victim is its cookie, and the caller
// takes the lane's bit off its slot.
func (p *Producer) Push(d *Descriptor, cookie uint64) (v Verdict, victim uint64, evicted bool) {
	if p.corrupt {
		return Corrupt, 0, false
	}
	p.op.start(&p.state, d)
	v = p.run()
	p.corrupt = v == Corrupt
	if v == Pushed {
		p.ring[uint32(p.state.tail-1)&p.state.mask] = sent{
			cookie: cookie, seq: uint64(d.Seq), timeNS: uint64(d.TimeNS), bytes: d.Length,
		}
	}
	return v, p.op.victim, p.op.evicted
}

func (p *Producer) run() (v Verdict) {
	defer guardVerdict(debug.SetPanicOnFault(true), &v)
	p.op.run(&p.state, p.words, p.ring)
	return p.op.verdict
}

// Roomy reports whether there is room for a message, as far as that is known
// without a look at shared memory: false means that Room has to say. A closed lane
// may be roomy.
func (p *Producer) Roomy() bool { return !p.corrupt && p.state.room() > 0 }

// Room returns how many messages can be pushed now without dropping one: with
// Pushed if there is room, Full if there is none, 0 and Closed or Corrupt if no
// push can succeed.
func (p *Producer) Room() (n int, v Verdict) {
	if p.corrupt {
		return 0, Corrupt
	}
	n, v = p.room()
	p.corrupt = v == Corrupt
	return n, v
}

func (p *Producer) room() (n int, v Verdict) {
	defer guardVerdict(debug.SetPanicOnFault(true), &v)
	s := &p.state
	switch tail := atomic.LoadUint64(&p.words[tailWord]); {
	case tail == s.tail|closedBit:
		return 0, Closed
	case tail != s.tail:
		return 0, Corrupt
	}
	// The rules of a push: a head that it would not accept is not one to wait for.
	probe := push{}
	probe.look(s, atomic.LoadUint64(&p.words[headWord]))
	switch probe.phase {
	case pushWhy:
		if atomic.LoadUint64(&p.words[tailWord]) == s.tail|closedBit {
			return 0, Closed
		}
		return 0, Corrupt
	case pushDone:
		return 0, Corrupt
	}
	n = int(s.room())
	if n == 0 {
		return 0, Full
	}
	return n, Pushed
}

// Want announces that the producer is about to sleep until room messages can be
// pushed (at most the queue size): the consumer that makes the room then says so
// in Pop. Between Want and sleep the caller looks at Room once more.
func (p *Producer) Want(room int) {
	if p.corrupt {
		return
	}
	limit := p.state.limit
	position := uint32(p.state.tail) - limit + min(uint32(max(room, 1)), limit)
	defer guardQuiet(debug.SetPanicOnFault(true))
	point(opWant)
	atomic.StoreUint64(&p.words[wantedWord], 1+uint64(position))
}

// Unwant takes Want back.
func (p *Producer) Unwant() {
	if p.corrupt {
		return
	}
	defer guardQuiet(debug.SetPanicOnFault(true))
	point(opWant)
	atomic.StoreUint64(&p.words[wantedWord], 0)
}

// Failed counts messages that could not be sent on the lane (no memory, too
// large), so that the receiver's count of what it lost is right. The broker hears
// of them from the sender, not from here.
func (p *Producer) Failed(count uint64) {
	if p.corrupt {
		return
	}
	defer guardQuiet(debug.SetPanicOnFault(true))
	point(opPush)
	p.state.failed += count
	atomic.StoreUint64(&p.words[failedWord], p.state.failed)
}

// Closed reports whether no push can succeed any more: the lane was closed, or
// is corrupt.
func (p *Producer) Closed() (closed bool) {
	if p.corrupt {
		return true
	}
	defer guardFlag(debug.SetPanicOnFault(true), &closed, true)
	return atomic.LoadUint64(&p.words[tailWord])&closedBit != 0
}

// Tail returns how many messages were ever pushed: the position of the next one.
func (p *Producer) Tail() uint64 { return p.state.tail }

// Since calls f with the cookies of the messages from position from (of which the
// lower 32 bits count) to the tail, oldest first. Of those pushed longer ago than
// the ring has entries, which are no longer on the lane, it knows nothing.
func (p *Producer) Since(from uint64, f func(cookie uint64)) {
	tail := p.state.tail
	n := min(uint64(uint32(tail)-uint32(from)), uint64(p.state.mask)+1, tail)
	for position := tail - n; position != tail; position++ {
		f(p.ring[uint32(position)&p.state.mask].cookie)
	}
}

// CloseByOwner closes the lane, for a sender that leaves while there is no broker
// to do it: the consumer still gets what is queued.
func (p *Producer) CloseByOwner() {
	if p.corrupt {
		return
	}
	defer guardQuiet(debug.SetPanicOnFault(true))
	point(opPush)
	atomic.OrUint64(&p.words[tailWord], closedBit)
}
