package lane

import (
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	// bellWord's lower half is the futex: 1 while the node sleeps or is about to,
	// 0 while it is awake.
	bellWord = 0
	// memoryWantedWord is 1 while the node waits for a slot to become free.
	memoryWantedWord = 8
)

// bellFaultPause is how long Sleep sleeps at most if the futex cannot: its caller
// looks for messages afterwards, and must not do it all the time.
const bellFaultPause = time.Millisecond

// Bell wakes one node. Its own side sleeps in three steps: Arm, look once more at
// everything that it waits for, Sleep. Everyone else changes something, then
// rings; whoever comes second sees what the other did. One goroutine sleeps at a
// time; the rest is safe for concurrent use.
type Bell struct {
	words []uint64
}

// NewBell returns the bell in words: the slot of a region of BellSlotBytes, all
// zero at first.
func NewBell(words []uint64) *Bell { return &Bell{words: words} }

// Arm announces that the node is about to sleep.
func (b *Bell) Arm() {
	defer guardQuiet(debug.SetPanicOnFault(true))
	point(opBell)
	atomic.StoreUint64(&b.words[bellWord], 1)
}

// Disarm takes Arm back: the node has found something to do.
func (b *Bell) Disarm() {
	defer guardQuiet(debug.SetPanicOnFault(true))
	if atomic.LoadUint64(&b.words[bellWord]) == 0 {
		return // it was rung: the line stays with the ringer
	}
	point(opBell)
	atomic.StoreUint64(&b.words[bellWord], 0)
}

// Sleep blocks a thread until the bell rings, at most for the time given. It may
// return early for no reason. It reports whether the bell was rung since Arm.
func (b *Bell) Sleep(timeout time.Duration) (rung bool) {
	defer guardFlag(debug.SetPanicOnFault(true), &rung, false)
	if !futexWait(b.words[bellWord:], 1, timeout) {
		time.Sleep(min(timeout, bellFaultPause))
	}
	return atomic.LoadUint64(&b.words[bellWord]) == 0
}

// Ring wakes the node if it sleeps, and reports whether it did. The first look
// costs no more than a read while the node is awake, and is enough: a node that
// arms its bell after that look will see what the caller changed before it.
func (b *Bell) Ring() (woken bool) {
	defer guardFlag(debug.SetPanicOnFault(true), &woken, false)
	if atomic.LoadUint64(&b.words[bellWord]) == 0 {
		return false
	}
	point(opBell)
	if atomic.SwapUint64(&b.words[bellWord], 0) == 0 {
		return false
	}
	point(opBell)
	futexWake(b.words[bellWord:])
	return true
}

// Wake is Ring for events after which a ringer may be dead: one that was killed
// between its swap and its wake has left a node asleep that looks awake. It is a
// system call every time.
func (b *Bell) Wake() {
	defer guardQuiet(debug.SetPanicOnFault(true))
	point(opBell)
	atomic.StoreUint64(&b.words[bellWord], 0)
	point(opBell)
	futexWake(b.words[bellWord:])
}

// WantMemory announces that the node waits for a slot. Like Arm it comes before
// the last look at the ledgers.
func (b *Bell) WantMemory() {
	defer guardQuiet(debug.SetPanicOnFault(true))
	point(opBell)
	atomic.StoreUint64(&b.words[memoryWantedWord], 1)
}

// GiveMemory rings if the node waits for a slot, and reports whether it woke it.
// It comes after the caller has cleared a bit in a ledger of that node.
func (b *Bell) GiveMemory() (woken bool) {
	defer guardFlag(debug.SetPanicOnFault(true), &woken, false)
	if atomic.LoadUint64(&b.words[memoryWantedWord]) == 0 {
		return false
	}
	point(opBell)
	if atomic.SwapUint64(&b.words[memoryWantedWord], 0) == 0 {
		return false
	}
	return b.Ring()
}
