package lane

import (
	"runtime/debug"
	"sync/atomic"
)

// Ledger says who may still read the slots of one region: a word per slot, a bit
// per lane of the sender, and BrokerBit for what goes through the broker. Bits,
// not counts, so that two who settle the same are no harm. Words are stored by
// the sender alone, bits are cleared by anyone; a bit that is set although the
// sender did not set it, the sender does not look at. It is a value, and safe for
// concurrent use.
type Ledger struct {
	words []uint64
}

// NewLedger returns the ledger in words: those of a region's mapping.
func NewLedger(words []uint64) Ledger { return Ledger{words: words} }

// Lend marks a slot, which must be free, as readable by those whose bits are in
// mask. It comes before the first push of the message, so that no receiver is
// done with it before it was lent.
func (l Ledger) Lend(slot uint32, mask uint64) {
	defer guardQuiet(debug.SetPanicOnFault(true))
	point(opLend)
	store(&l.words[slot], mask)
}

// Clear ends the right of one reader.
func (l Ledger) Clear(slot uint32, bit uint8) {
	defer guardQuiet(debug.SetPanicOnFault(true))
	point(opClear)
	atomic.AndUint64(&l.words[slot], ^(uint64(1) << (bit & 63)))
}

// Held reports whether one of those in mask may still read the slot. The mask is
// what was lent, as the sender remembers it. Memory that is gone is held: nobody
// can say who still reads it.
func (l Ledger) Held(slot uint32, mask uint64) (held bool) {
	defer guardFlag(debug.SetPanicOnFault(true), &held, true)
	return atomic.LoadUint64(&l.words[slot])&mask != 0
}
