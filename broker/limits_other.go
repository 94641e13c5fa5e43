//go:build !linux

package broker

import "math"

// Only Linux has /dev/shm; elsewhere the broker works without shared memory and
// its limits mean nothing.
func shmSizeBytes() uint64 { return 0 }
func ramBytes() uint64     { return 0 }

// fileLimits are not looked up elsewhere: the configured ones apply.
func fileLimits() (limit, open int) { return math.MaxInt, 0 }
