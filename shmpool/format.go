package shmpool

import (
	"fmt"
	"strconv"
)

// FormatBytes returns a number of bytes as people read it: "640 B", "1.5 MiB". Up
// to 1023 of a unit, with one decimal where it is not exact.
func FormatBytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	unit, div := 0, uint64(1024)
	for n/div >= 1024 {
		unit++
		div *= 1024
	}
	if n%div == 0 {
		return fmt.Sprintf("%d %ciB", n/div, units[unit])
	}
	// Tenths are cut, not rounded, so that 1023.99 KiB does not read 1024.0 KiB.
	return fmt.Sprintf("%d.%d %ciB", n/div, n%div*10/div, units[unit])
}
