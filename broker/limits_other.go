//go:build !linux

package broker

// Only Linux has /dev/shm; elsewhere the broker works without shared memory and
// its limits mean nothing.
func shmSizeBytes() uint64 { return 0 }
func ramBytes() uint64     { return 0 }
