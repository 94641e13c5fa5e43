package node

import "github.com/brokerd/brokerd/wire"

// queued is one thing that arrived and waits for Next.
type queued struct {
	event   *Event  // not nil: no message
	lane    *laneIn // not nil: no message, but the place where this lane starts
	session *session
	input   *input
	chunk   *chunk // what metadata and payload lie in, nil if there are none
	item    wire.Input

	since, again int64 // as in watched
	moved        bool  // it was evacuated: payload is its own memory, of heap bytes
	heap         uint64
}

// queue is a FIFO that keeps its memory up to queueKept entries.
type queue struct {
	ring  []queued // length is a power of two
	first int
	count int
	// popped counts what has been taken out: the position of the first entry. An
	// entry keeps its position.
	popped uint64
}

const (
	queueInitial = 16
	queueKept    = 4096
)

func (q *queue) len() int { return q.count }

// push returns the new last entry, for the caller to fill.
func (q *queue) push() *queued {
	if q.count == len(q.ring) {
		ring := make([]queued, max(queueInitial, 2*len(q.ring)))
		n := copy(ring, q.ring[q.first:])
		copy(ring[n:], q.ring[:q.first])
		q.ring, q.first = ring, 0
	}
	q.count++
	return &q.ring[(q.first+q.count-1)&(len(q.ring)-1)]
}

// at returns entry i from the first on. There must be one.
func (q *queue) at(i int) *queued { return &q.ring[(q.first+i)&(len(q.ring)-1)] }

// find returns the entry at a position; nil if it is not there any more.
func (q *queue) find(position uint64) *queued {
	if i := position - q.popped; i < uint64(q.count) {
		return q.at(int(i))
	}
	return nil
}

// peek returns the first entry. The queue must not be empty.
func (q *queue) peek() *queued { return &q.ring[q.first] }

// pop takes out the first entry. The queue must not be empty.
func (q *queue) pop() queued {
	slot := &q.ring[q.first]
	head := *slot
	*slot = queued{}
	q.first = (q.first + 1) & (len(q.ring) - 1)
	q.count--
	q.popped++
	if q.count == 0 && len(q.ring) > queueKept {
		*q = queue{popped: q.popped}
	}
	return head
}
