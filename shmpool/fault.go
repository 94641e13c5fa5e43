package shmpool

import (
	"fmt"
	"runtime/debug"
)

// FaultError makes an error of a fault in memory that was recovered, which wraps
// ErrRegionFile: the file behind the memory was cut short. It panics on with
// anything else.
func FaultError(recovered any) error {
	// What the runtime panics with for a fault, and nothing else, has an address.
	fault, ok := recovered.(interface {
		error
		Addr() uintptr
	})
	if !ok {
		panic(recovered)
	}
	return fmt.Errorf("%w: %w", ErrRegionFile, error(fault))
}

// AppendShared appends memory of another process to dst. Its file may be cut short
// at any time, which is an error as FaultError's, and not the end of this process;
// then dst is returned as it was.
func AppendShared(dst, src []byte) (out []byte, err error) {
	defer func(old bool) {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			out, err = dst, FaultError(p)
		}
	}(debug.SetPanicOnFault(true))
	return append(dst, src...), nil
}
