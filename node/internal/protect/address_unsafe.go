package protect

import (
	"sync/atomic"
	"unsafe"
)

// address returns where b lies, which is outside of Go's heap and does not move.
//
// Precondition: b is not empty.
func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

// publishState writes the first word of an entry after all else in it.
//
// Precondition: memory is an entry of the table, which is mapped: aligned to 8
// bytes and longer than one word.
func publishState(memory []byte, state uint32) {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&memory[entryState])), state)
}
