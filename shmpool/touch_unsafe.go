//go:build linux

package shmpool

import (
	"sync/atomic"
	"unsafe"
)

// touchWord reads the word at p, or writes it back as it is. p must be
//   - in a mapping, and writable if write is true
//   - aligned to 4 bytes, with 4 bytes behind it
//
// The write is one atomic step, so that it cannot undo a write of another
// process to the same word.
func touchWord(p *byte, write bool) {
	word := (*uint32)(unsafe.Pointer(p))
	if write {
		atomic.OrUint32(word, 0)
	} else {
		atomic.LoadUint32(word)
	}
}
