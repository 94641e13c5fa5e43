//go:build linux

package main

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// word is the 64-bit word at an index of the memory.
func (m *sharedMemory) word(i int) *atomic.Uint64 {
	_ = m.bytes[8*i+7]
	return (*atomic.Uint64)(unsafe.Pointer(&m.bytes[8*i]))
}

// futex works on the lower half of a word, which comes first in memory on all
// machines that this program is for. A wait may block: the runtime has to know.
func futex(m *sharedMemory, word int, operation int, value uint32, limit *unix.Timespec) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&m.bytes[8*word])),
		uintptr(operation), uintptr(value), uintptr(unsafe.Pointer(limit)), 0, 0)
}
