package bench

import "time"

// clockBase and clockOffsetNS tie this process's monotonic time, which the
// runtime reads without a system call, to the one that all processes of the
// machine share.
var (
	clockBase     = time.Now()
	clockOffsetNS = clockOffset(clockBase)
)

// now is the time in nanoseconds on a clock that is the same in all processes of
// this machine and never jumps.
func now() int64 { return clockOffsetNS + int64(time.Since(clockBase)) }
