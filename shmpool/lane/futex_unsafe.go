//go:build linux

package lane

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The operations are the shared ones: FUTEX_PRIVATE_FLAG would keep other
// processes from being heard.
const (
	futexOpWait = 0
	futexOpWake = 1
)

// futexWait sleeps while the lower half of words[0] is value, for timeout at
// most. It returns false if the kernel cannot sleep on it. words must be
//   - at least one word
//   - not on a stack, which moves
func futexWait(words []uint64, value uint32, timeout time.Duration) bool {
	spec := unix.NsecToTimespec(max(int64(timeout), 0))
	// A blocking call: the scheduler is told, so that others run meanwhile.
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(futexAddress(words)), futexOpWait, uintptr(value),
		uintptr(unsafe.Pointer(&spec)), 0, 0)
	switch errno {
	case 0, unix.EAGAIN, unix.EINTR, unix.ETIMEDOUT:
		return true
	}
	return false
}

// futexWake wakes one sleeper. words is as of futexWait. The call does not block,
// so the scheduler is not told.
func futexWake(words []uint64) {
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(futexAddress(words)), futexOpWake, 1, 0, 0, 0)
}

// futexAddress returns where the lower half of words[0] is.
func futexAddress(words []uint64) unsafe.Pointer {
	address := unsafe.Pointer(&words[0])
	if bigEndian {
		return unsafe.Add(address, 4)
	}
	return address
}

// bigEndian tells that the lower half of a word comes second.
var bigEndian = func() bool {
	word := uint16(1)
	return *(*byte)(unsafe.Pointer(&word)) == 0
}()
