package shmpool

import "unsafe"

// wordsOf returns the whole words of b. b must be
//   - in a mapping: words of the Go heap need not be aligned
//   - aligned to 8 bytes, which mappings, their ledgers and their slots are
func wordsOf(b []byte) []uint64 {
	if len(b) < 8 {
		return nil
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}
