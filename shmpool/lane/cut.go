package lane

import "sync/atomic"

type cutPhase uint8

const (
	cutClose cutPhase = iota
	cutLoadHead
	cutEvict
	cutDone
)

// cut is the router closing a lane and taking back what is in it: a machine of
// which every step makes one access to shared memory. After the first step no
// push succeeds, so the tail is final.
type cut struct {
	phase cutPhase
	ok    bool // false when done: corrupt
	tries uint32
	tail  uint64 // messages ever pushed
	head  uint64
	count uint32 // taken back
}

// step makes one access to words and returns true if it was the last one.
func (o *cut) step(limit uint32, words []uint64) bool {
	switch o.phase {
	case cutClose:
		point(opKeep)
		o.tail = atomic.OrUint64(&words[tailWord], closedBit) &^ closedBit
		o.phase = cutLoadHead
	case cutLoadHead:
		o.head = atomic.LoadUint64(&words[headWord])
		o.count = uint32(o.tail) - headPosition(o.head)
		if o.count > limit || uint64(o.count) > o.tail {
			return o.end(false)
		}
		if o.count == 0 {
			return o.end(true)
		}
		o.phase = cutEvict
	case cutEvict:
		point(opKeep)
		if atomic.CompareAndSwapUint64(&words[headWord], o.head, headEvict(o.head, o.count)) {
			return o.end(true)
		}
		// The consumer may take what is left, one at a time, and the producer may have
		// evicted for a push that fails: no more than that.
		if o.tries++; o.tries > limit+1 {
			return o.end(false)
		}
		o.phase = cutLoadHead
	case cutDone:
		return true
	}
	return false
}

func (o *cut) end(ok bool) bool {
	o.phase, o.ok = cutDone, ok
	return true
}
