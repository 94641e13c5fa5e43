package lane

import (
	"fmt"
	"runtime/debug"

	"github.com/brokerd/brokerd/shmpool"
)

// Shared memory whose file is cut short by its owner faults when it is touched.
// Everything exported here that touches it runs between
//
//	defer guard…(debug.SetPanicOnFault(true), …)
//
// which turns that fault, and no other panic, into the answer for a corrupt lane.

// fault is what the runtime panics with for a fault in memory: it alone has an
// address.
type fault interface {
	error
	Addr() uintptr
}

// asFault panics on with what is no fault.
func asFault(p any) fault {
	f, ok := p.(fault)
	if !ok {
		panic(p)
	}
	return f
}

// guardVerdict is for methods with a verdict, which a fault turns to Corrupt.
func guardVerdict(old bool, v *Verdict) {
	debug.SetPanicOnFault(old)
	if p := recover(); p != nil {
		asFault(p)
		*v = Corrupt
	}
}

// guardFlag is for methods that answer yes or no; a fault is an answer, too.
func guardFlag(old bool, flag *bool, onFault bool) {
	debug.SetPanicOnFault(old)
	if p := recover(); p != nil {
		asFault(p)
		*flag = onFault
	}
}

// guardQuiet is for methods without an answer. What could not be stored, nobody
// can read.
func guardQuiet(old bool) {
	debug.SetPanicOnFault(old)
	if p := recover(); p != nil {
		asFault(p)
	}
}

// guardError is for methods with an error.
func guardError(old bool, err *error) {
	debug.SetPanicOnFault(old)
	if p := recover(); p != nil {
		*err = fmt.Errorf("lane: %w: %w: %w", ErrCorrupt, shmpool.ErrRegionFile, error(asFault(p)))
	}
}
