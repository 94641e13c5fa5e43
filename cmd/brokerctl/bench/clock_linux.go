package bench

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// clockOffset is what to add to the time since base for CLOCK_MONOTONIC. The
// narrowest of many looks counts, so that the error stays below a microsecond.
func clockOffset(base time.Time) int64 {
	const looks = 200
	offset, narrowest := int64(0), int64(math.MaxInt64)
	for range looks {
		var ts unix.Timespec
		before := int64(time.Since(base))
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
			return base.UnixNano()
		}
		after := int64(time.Since(base))
		if gap := after - before; gap < narrowest {
			narrowest, offset = gap, ts.Nano()-(before+after)/2
		}
	}
	return offset
}

// cpuTime is what this process has used of all cores, in nanoseconds.
func cpuTime() int64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
