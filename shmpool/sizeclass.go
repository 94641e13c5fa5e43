package shmpool

import "math/bits"

const (
	// PageBytes is the unit of all sizes and offsets of slots that are not smaller.
	// It is the smallest page of the platforms that brokerd runs on; on kernels with larger
	// pages regions still work, as mappings start at offset 0.
	PageBytes = 4096
	// PayloadAlign is the alignment, in bytes, that a payload's start is promised
	// to have.
	PayloadAlign = 64
	// SlotBytesMin is the smallest slot: two cache lines, because processors
	// fetch lines in pairs, and two messages should not share one.
	SlotBytesMin = 128
	// SlotBytesMax is the largest slot: 1 GiB.
	SlotBytesMax = 1 << 30
)

// SlotClass returns the size in bytes of the smallest class that holds n bytes,
// or 0 if n is more than SlotBytesMax. Below a page the classes are the powers of
// two from SlotBytesMin: many small messages fit in a region of a few pages then.
// Up to four pages every number of pages is a class; from there each power of two
// is cut in four (pages × {1, 1.25, 1.5, 1.75}·2^k), so that from 16 KiB up at
// most a fifth of a slot, which is a quarter of n, is left unused. Four steps a
// doubling is the usual compromise of allocators such as jemalloc: finer classes
// share fewer free slots.
func SlotClass(n uint64) uint64 {
	if n > SlotBytesMax {
		return 0
	}
	if n <= PageBytes/2 {
		return max(SlotBytesMin, uint64(1)<<bits.Len64(max(n, 1)-1))
	}
	pages := (n + PageBytes - 1) / PageBytes
	if pages > 4 {
		// 2^exp < pages ≤ 2^(exp+1), and the step is a quarter of 2^exp.
		exp := bits.Len64(pages-1) - 1
		step := uint64(1) << (exp - 2)
		pages = (pages + step - 1) &^ (step - 1)
	}
	return pages * PageBytes
}
