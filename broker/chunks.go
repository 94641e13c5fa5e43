package broker

import (
	"slices"
	"sync"
)

// chunkBytes is the unit of memory for bytes that wait for a slow peer.
const chunkBytes = 64 << 10

// chunkPool keeps chunks of exactly chunkBytes.
var chunkPool = sync.Pool{New: func() any { return new([chunkBytes]byte) }}

// chunkQueue is a FIFO of bytes in chunks. It has no lock and no limit of its
// own; outbox has both. Its memory is what it holds plus less than two chunks.
type chunkQueue struct {
	chunks [][]byte // each: what is left of it; cap of the last: room to append
	whole  [][]byte // the same chunks from their first byte, for the pool
}

func (q *chunkQueue) append(b []byte) {
	if n := len(q.chunks); n > 0 {
		last := q.chunks[n-1]
		room := min(cap(last)-len(last), len(b))
		q.chunks[n-1] = append(last, b[:room]...)
		b = b[room:]
	}
	for len(b) > 0 {
		var chunk []byte
		if len(b) >= chunkBytes {
			chunk = make([]byte, 0, len(b))
		} else {
			chunk = chunkPool.Get().(*[chunkBytes]byte)[:0]
		}
		n := min(cap(chunk), len(b))
		chunk = append(chunk, b[:n]...)
		q.chunks, q.whole = append(q.chunks, chunk), append(q.whole, chunk)
		b = b[n:]
	}
}

// front is the first piece. There must be one.
func (q *chunkQueue) front() []byte { return q.chunks[0] }

// discard drops n bytes from the front. There must be as many.
func (q *chunkQueue) discard(n int) {
	done := 0
	for n > 0 && n >= len(q.chunks[done]) {
		n -= len(q.chunks[done])
		q.free(done)
		done++
	}
	q.chunks = slices.Delete(q.chunks, 0, done)
	q.whole = slices.Delete(q.whole, 0, done)
	if len(q.chunks) == 0 {
		*q = chunkQueue{} // what a slow time has grown
	}
	if n > 0 {
		q.chunks[0] = q.chunks[0][n:]
	}
}

// reset drops everything, the queue's own slices included.
func (q *chunkQueue) reset() {
	for i := range q.whole {
		q.free(i)
	}
	*q = chunkQueue{}
}

func (q *chunkQueue) free(i int) {
	if cap(q.whole[i]) == chunkBytes {
		chunkPool.Put((*[chunkBytes]byte)(q.whole[i][:chunkBytes]))
	}
	q.whole[i], q.chunks[i] = nil, nil
}
