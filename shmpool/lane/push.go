package lane

import (
	"sync/atomic"

	"github.com/brokerd/brokerd/wire"
)

// pushTriesMax bounds how often a push tries to evict. The one whom it can lose
// a race against is the consumer, and then there is room; so a second loss to a
// head that still leaves none is not an honest peer's.
const pushTriesMax = 2

// sender is what a producer knows without asking the shared memory: its own
// counters, and the last thing that it believed of the head. It is a value, so
// that a test can copy it between any two steps.
type sender struct {
	limit  uint32 // queue size
	mask   uint32 // capacity - 1
	policy wire.Policy

	tail     uint64 // pushed so far
	position uint32 // of the oldest message, when the head was last read
	evicted  uint32 // by this producer, modulo 2^32
	refused  uint64
	failed   uint64
	window   window
}

// room is how many messages can be pushed at least without dropping one.
func (s *sender) room() uint32 { return s.limit - (uint32(s.tail) - s.position) }

// sent is what the producer remembers of a message on the lane. The entry itself
// lies in memory that the peer can write to.
type sent struct {
	cookie uint64
	seq    uint64
	timeNS uint64
	bytes  uint64
}

type pushPhase uint8

const (
	pushLoadHead pushPhase = iota
	pushLoadTail           // the queue is full: was it closed?
	pushEvict
	pushRefuse
	pushLoadWindow
	pushNote // a drop in the window
	pushWrite
	pushCommit
	pushWhy // the lane has changed in a way that only closing explains
	pushDone
)

// push is one message on its way onto the lane: a machine of which every step
// makes one access to shared memory.
type push struct {
	phase   pushPhase
	verdict Verdict
	evicted bool
	tries   uint8
	next    uint8 // of the words of the entry or window
	head    uint64
	victim  uint64 // cookie of the message evicted
	drop    sent   // what goes into the window
	entry   [entryWords]uint64
}

// start makes the machine ready for another message. While the head that was read
// last leaves room it is not read again: it only moves on, and its cache line
// stays with the consumer.
func (o *push) start(s *sender, d *Descriptor) {
	o.phase, o.evicted, o.tries, o.next = pushLoadHead, false, 0, 0
	if s.room() > 0 {
		o.phase = pushWrite
	}
	o.entry = [entryWords]uint64{
		entrySeq:        uint64(d.Seq),
		entryTime:       uint64(d.TimeNS),
		entryRegion:     uint64(d.Region),
		entryOffset:     d.Offset,
		entryLength:     d.Length,
		entryMetaRegion: uint64(d.MetaRegion),
		entryMetaOffset: d.MetaOffset,
		entryMetaLength: d.MetaLength,
	}
}

func (o *push) end(v Verdict) bool {
	o.phase, o.verdict = pushDone, v
	return true
}

// run takes all steps.
func (o *push) run(s *sender, words []uint64, ring []sent) {
	for !o.step(s, words, ring) {
		// The words of an entry are most of the steps, so they go without the switch.
		if o.phase == pushWrite {
			o.write(s, words, entryWords)
		}
	}
}

// step makes one access to words and returns true if it was the last one. ring
// is what the producer remembers of the messages, by position.
func (o *push) step(s *sender, words []uint64, ring []sent) bool {
	switch o.phase {
	case pushLoadHead:
		return o.look(s, atomic.LoadUint64(&words[headWord]))
	case pushLoadTail:
		switch tail := atomic.LoadUint64(&words[tailWord]); {
		case tail == s.tail|closedBit:
			// Nobody loses a message to one that cannot be pushed anyway.
			return o.end(Closed)
		case tail != s.tail:
			return o.end(Corrupt)
		}
		switch s.policy {
		case wire.PolicyBlock:
			return o.end(Full)
		case wire.PolicyDropNewest:
			o.phase = pushRefuse
		default:
			o.phase = pushEvict
		}
	case pushEvict:
		point(opPush)
		if !atomic.CompareAndSwapUint64(&words[headWord], o.head, headEvict(o.head, 1)) {
			if o.tries++; o.tries >= pushTriesMax {
				o.phase = pushWhy
				return false
			}
			o.phase = pushLoadHead
			return false
		}
		o.drop = ring[s.position&s.mask]
		o.victim, o.evicted = o.drop.cookie, true
		s.evicted++
		s.position++
		o.phase = pushLoadWindow
	case pushRefuse:
		point(opPush)
		s.refused++
		atomic.StoreUint64(&words[refusedWord], s.refused)
		o.drop = sent{seq: o.entry[entrySeq], timeNS: o.entry[entryTime], bytes: o.entry[entryLength]}
		o.phase = pushLoadWindow
	case pushLoadWindow:
		s.window.note(atomic.LoadUint64(&words[windowWord]), &o.drop)
		o.next = 0
		o.phase = pushNote
	case pushNote:
		if s.window.write(words, &o.next) {
			return false
		}
		if !o.evicted {
			return o.end(Refused)
		}
		o.next = 0
		o.phase = pushWrite
	case pushWrite:
		o.write(s, words, o.next+1)
	case pushCommit:
		point(opPush)
		if !atomic.CompareAndSwapUint64(&words[tailWord], s.tail, s.tail+1) {
			o.phase = pushWhy
			return false
		}
		s.tail++
		return o.end(Pushed)
	case pushWhy:
		// Closing leaves the count as it is, and after it nothing else moves here.
		if atomic.LoadUint64(&words[tailWord]) == s.tail|closedBit {
			return o.end(Closed)
		}
		return o.end(Corrupt)
	case pushDone:
		return true
	}
	return false
}

// look decides what to do about a head.
func (o *push) look(s *sender, head uint64) bool {
	if headEvicted(head) != s.evicted {
		// The router evicts too, when the receiver is gone and the lane closed.
		o.phase = pushWhy
		return false
	}
	position := headPosition(head)
	queued := uint32(s.tail) - position
	if queued > uint32(s.tail)-s.position || queued > s.limit {
		return o.end(Corrupt) // beyond the tail, back behind where it was, or more than was pushed
	}
	s.position, o.head = position, head
	if queued < s.limit {
		o.phase = pushWrite
	} else {
		o.phase = pushLoadTail
	}
	return false
}

// write writes the words of the entry from the next one on, up to end. The
// position was found free: no consumer that read the head since can claim what is
// overwritten here.
func (o *push) write(s *sender, words []uint64, end uint8) {
	entry := entryAt(words, uint32(s.tail)&s.mask)
	for i := o.next; i < min(end, entryWords); i++ {
		point(opPush)
		store(&entry[i], o.entry[i])
	}
	if o.next = end; o.next == entryWords {
		o.phase = pushCommit
	}
}
