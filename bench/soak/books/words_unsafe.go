package books

import "unsafe"

// wordsOf returns mapped bytes as words. The mapping is page-aligned, and its
// length a multiple of eight.
func wordsOf(b []byte) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}
