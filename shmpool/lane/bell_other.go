//go:build !linux

package lane

import "time"

// Supported reports whether bells work on this platform. Without them lanes would
// have to be polled, so that nodes elsewhere send through the broker.
func Supported() bool { return false }

// futexWait reports that there is nothing to sleep on.
func futexWait([]uint64, uint32, time.Duration) bool { return false }

// futexWake does nothing: nobody sleeps.
func futexWake([]uint64) {}
