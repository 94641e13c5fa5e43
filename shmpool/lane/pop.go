package lane

import "sync/atomic"

// popTriesMax bounds how often a pop starts again because the head has moved: a
// producer that evicts as fast as the consumer reads can make it lose that often.
// Then the queue counts as empty for now; whoever waits for messages looks again.
const popTriesMax = 200

// receiver is what a consumer knows without asking the shared memory. It is a
// value, so that a test can copy it between any two steps.
type receiver struct {
	limit uint32 // queue size
	mask  uint32 // capacity - 1

	taken   uint32 // claimed by this consumer, modulo 2^32
	evicted uint32 // when the last message was claimed
	refused uint64 // then
	failed  uint64 // then
	tail    uint64 // highest seen
	closed  bool   // seen
	ended   bool
}

type popPhase uint8

const (
	popLoadHead popPhase = iota
	popLoadTail
	popReload // more in the queue than fits: was the head an old one?
	popRead
	popLoadRefused
	popLoadFailed
	popClaim
	popLoadWanted
	popAnswer
	popDone
)

// pop is one message on its way off the lane: a machine of which every step
// makes one access to shared memory.
type pop struct {
	phase   popPhase
	verdict Verdict
	ring    bool // the producer waits for the room that there is now
	ending  bool // the queue is empty and closed
	next    uint8
	tries   uint8
	head    uint64
	refused uint64
	failed  uint64
	dropped uint64 // since the last message
	entry   [entryWords]uint64
}

func (o *pop) start() {
	o.phase, o.ring, o.ending, o.next, o.tries, o.dropped = popLoadHead, false, false, 0, 0, 0
}

func (o *pop) end(v Verdict) bool {
	o.phase, o.verdict = popDone, v
	return true
}

// run takes all steps.
func (o *pop) run(r *receiver, words []uint64) {
	for !o.step(r, words) {
		// The words of an entry are most of the steps, so they go without the switch.
		if o.phase == popRead {
			o.read(r, words, entryWords)
		}
	}
}

// step makes one access to words and returns true if it was the last one.
func (o *pop) step(r *receiver, words []uint64) bool {
	switch o.phase {
	case popLoadHead:
		return o.look(r, atomic.LoadUint64(&words[headWord]))
	case popLoadTail:
		return o.measure(r, atomic.LoadUint64(&words[tailWord]))
	case popReload:
		// The head never goes back, so if it is what it was, it was that all the time,
		// also when the tail was read.
		head := atomic.LoadUint64(&words[headWord])
		if head == o.head {
			return o.end(Corrupt)
		}
		if o.again() {
			return true
		}
		return o.look(r, head)
	case popRead:
		o.read(r, words, o.next+1)
	case popLoadRefused:
		o.refused = atomic.LoadUint64(&words[refusedWord])
		if o.refused < r.refused {
			return o.end(Corrupt)
		}
		o.phase = popLoadFailed
	case popLoadFailed:
		o.failed = atomic.LoadUint64(&words[failedWord])
		if o.failed < r.failed {
			return o.end(Corrupt)
		}
		if !o.ending {
			o.phase = popClaim
			return false
		}
		o.count(r)
		r.ended = true
		return o.end(Ended)
	case popClaim:
		point(opPop)
		if !atomic.CompareAndSwapUint64(&words[headWord], o.head, headTake(o.head)) {
			o.phase = popLoadHead
			return o.again()
		}
		r.taken++
		o.count(r)
		o.head = headTake(o.head)
		o.phase = popLoadWanted
	case popLoadWanted:
		wanted := atomic.LoadUint64(&words[wantedWord])
		if wanted == 0 || int32(headPosition(o.head)-uint32(wanted-1)) < 0 {
			return o.end(Got)
		}
		o.phase = popAnswer
	case popAnswer:
		point(opPop)
		o.ring = atomic.SwapUint64(&words[wantedWord], 0) != 0
		return o.end(Got)
	case popDone:
		return true
	}
	return false
}

// look checks a head as far as that can be done without the tail.
func (o *pop) look(r *receiver, head uint64) bool {
	if headTaken(head) != r.taken {
		return o.end(Corrupt) // nobody else takes
	}
	o.head = head
	o.phase = popLoadTail
	// The tail that was read last will do while there is something before it: what
	// was pushed stays so, and the tail's cache line with the producer. The head may
	// have passed that tail, or not be an honest one: then the difference is large.
	if known := uint32(r.tail) - headPosition(head); known-1 < r.limit {
		o.next = 0
		o.phase = popRead
	}
	return false
}

// measure compares a tail with the head that was read before it.
func (o *pop) measure(r *receiver, word uint64) bool {
	tail := word &^ closedBit
	if tail < r.tail || r.closed && word == tail {
		return o.end(Corrupt) // nothing is taken back, and nothing opened again
	}
	r.tail, r.closed = tail, word != tail
	queued := uint32(tail) - headPosition(o.head)
	switch {
	case queued == 0 && word == tail:
		return o.end(Empty)
	case queued == 0:
		o.ending = true
		o.phase = popLoadRefused
	case queued > r.limit:
		o.phase = popReload
	default:
		o.next = 0
		o.phase = popRead
	}
	return false
}

// read reads the words of the entry from the next one on, up to end. Whether they
// belong together shows when the message is claimed: before the producer
// overwrites it, it moves the head.
func (o *pop) read(r *receiver, words []uint64, end uint8) {
	entry := entryAt(words, headPosition(o.head)&r.mask)
	for i := o.next; i < min(end, entryWords); i++ {
		o.entry[i] = atomic.LoadUint64(&entry[i])
	}
	if o.next = end; o.next == entryWords {
		o.phase = popLoadRefused
	}
}

// again counts another try, and ends the pop after too many.
func (o *pop) again() bool {
	if o.tries++; o.tries < popTriesMax {
		return false
	}
	return o.end(Empty)
}

// count takes over the counters as of this message, and leaves in dropped what
// came between the last one and it.
func (o *pop) count(r *receiver) {
	evicted := headEvicted(o.head)
	o.dropped = uint64(evicted-r.evicted) + (o.refused - r.refused) + (o.failed - r.failed)
	r.evicted, r.refused, r.failed = evicted, o.refused, o.failed
}
