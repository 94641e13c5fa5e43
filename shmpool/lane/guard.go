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
// FaultError panics on with the others.

// guardVerdict is for methods with a verdict, which a fault turns to Corrupt.
func guardVerdict(old bool, v *Verdict) {
	debug.SetPanicOnFault(old)
	if p := recover(); p != nil {
		_ = shmpool.FaultError(p)
		*v = Corrupt
	}
}

// guardFlag is for methods that answer yes or no; a fault is an answer, too.
func guardFlag(old bool, flag *bool, onFault bool) {
	debug.SetPanicOnFault(old)
	if p := recover(); p != nil {
		_ = shmpool.FaultError(p)
		*flag = onFault
	}
}

// guardQuiet is for methods without an answer. What could not be stored, nobody
// can read.
func guardQuiet(old bool) {
	debug.SetPanicOnFault(old)
	if p := recover(); p != nil {
		_ = shmpool.FaultError(p)
	}
}

// guardError is for methods with an error.
func guardError(old bool, err *error) {
	debug.SetPanicOnFault(old)
	if p := recover(); p != nil {
		*err = fmt.Errorf("lane: %w: %w", ErrCorrupt, shmpool.FaultError(p))
	}
}
