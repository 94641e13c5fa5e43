package lane

import (
	"sync/atomic"

	"github.com/brokerd/brokerd/wire"
)

// window is what the producer knows of the drops since the router last turned
// the window. Two windows are in shared memory, of which the producer writes one
// and the router reads the other; how many messages were dropped does not depend
// on them, so one that is half written costs a log line some detail and no count.
type window struct {
	number  uint64
	started bool // its number is in shared memory
	fields  [windowNumber]uint64
}

// note takes a drop into the window of that number.
func (w *window) note(number uint64, drop *sent) {
	f := &w.fields
	if number != w.number || f[windowCount] == 0 {
		*w = window{number: number}
		f[windowSeqFirst], f[windowSeqLast], f[windowOldest] = drop.seq, drop.seq, drop.timeNS
	}
	f[windowCount]++
	f[windowBytes] += drop.bytes
	f[windowSeqFirst] = min(f[windowSeqFirst], drop.seq)
	f[windowSeqLast] = max(f[windowSeqLast], drop.seq)
	f[windowOldest] = min(f[windowOldest], drop.timeNS)
}

// write stores the next word of the window and returns true if there are more.
// While the words of another window are overwritten, the number is 0, which is no
// window's: then the number comes first and last.
func (w *window) write(words []uint64, next *uint8) bool {
	point(opPush)
	at := windowAt(w.number)
	i := uint(*next)
	*next++
	switch {
	case w.started:
		store(&words[at+i], w.fields[i])
		return i+1 < windowNumber
	case i == 0:
		store(&words[at+windowNumber], 0)
		return true
	case i <= windowNumber:
		store(&words[at+i-1], w.fields[i-1])
		return true
	}
	store(&words[at+windowNumber], w.number)
	w.started = true
	return false
}

// windowAt returns the first word of a window.
func windowAt(number uint64) uint { return windowsWord + windowWords*uint(number&1) }

// readWindow reads the window of that number. It returns false if there is none.
func readWindow(words []uint64, number uint64) (Drops, bool) {
	at := windowAt(number)
	if number == 0 || atomic.LoadUint64(&words[at+windowNumber]) != number {
		return Drops{}, false
	}
	return loadDrops(words, at), true
}

// closeWindow makes a window nobody's, so that its drops are not read again.
func closeWindow(words []uint64, number uint64) {
	point(opKeep)
	atomic.StoreUint64(&words[windowAt(number)+windowNumber], 0)
}

// loadDrops reads what a window says of drops.
func loadDrops(words []uint64, at uint) Drops {
	return Drops{
		Count:    atomic.LoadUint64(&words[at+windowCount]),
		Bytes:    atomic.LoadUint64(&words[at+windowBytes]),
		SeqFirst: wire.Seq(atomic.LoadUint64(&words[at+windowSeqFirst])),
		SeqLast:  wire.Seq(atomic.LoadUint64(&words[at+windowSeqLast])),
		OldestNS: int64(atomic.LoadUint64(&words[at+windowOldest])),
	}
}
