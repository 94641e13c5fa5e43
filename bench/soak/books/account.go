package books

import "math/bits"

// SentAccount is a copy of a book of Sent.
type SentAccount struct {
	// Done messages have got their numbers; if Begun is one more, the node died while
	// it sent that.
	Begun, Done uint64
	Failed      Bits // have a number, and were not sent
}

// TakenAccount is a copy of a book of Taken.
type TakenAccount struct {
	Taken  Bits
	OnLane Bits // of these
	Bytes  uint64
}

// Bits is a set of sequence numbers.
type Bits []uint64

// NewBits returns a set with room for the numbers up to last.
func NewBits(last uint64) Bits { return make(Bits, last/64+1) }

// Has reports whether n is in the set.
func (b Bits) Has(n uint64) bool { return n/64 < uint64(len(b)) && b[n/64]&(1<<(n%64)) != 0 }

// Add puts n into the set, which has room for it.
func (b Bits) Add(n uint64) { b[n/64] |= 1 << (n % 64) }

// Count returns how many numbers are in the set.
func (b Bits) Count() (n uint64) {
	for _, w := range b {
		n += uint64(bits.OnesCount64(w))
	}
	return n
}

// Last returns the largest number in the set, 0 if there is none.
func (b Bits) Last() uint64 {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != 0 {
			return uint64(i)*64 + uint64(bits.Len64(b[i])) - 1
		}
	}
	return 0
}
