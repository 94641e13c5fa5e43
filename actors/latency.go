package actors

import (
	"math"
	"math/bits"
	"time"
)

// latencyBuckets covers 1 µs to about 70 minutes with four buckets an octave.
const latencyBuckets = 4 * 32

// latencies is a small histogram of how long messages took from the sender's
// Publish until they left the broker. Two halves are kept and rotated, so that
// percentiles speak of the last 5 to 10 seconds. Recording allocates nothing.
type latencies struct {
	current, previous [latencyBuckets]uint32
}

func (l *latencies) record(d time.Duration) {
	l.current[latencyBucket(d)]++
}

func latencyBucket(d time.Duration) int {
	us := uint64(max(d, time.Microsecond) / time.Microsecond)
	octave := bits.Len64(us) - 1
	// The two bits below the highest one pick the quarter of the octave.
	quarter := (us << 2 >> octave) & 3
	return min(4*octave+int(quarter), latencyBuckets-1)
}

// latencyUpper is the upper bound of a bucket, in milliseconds.
func latencyUpper(bucket int) float64 {
	return math.Ldexp(1+float64(bucket%4+1)/4, bucket/4) / 1000
}

func (l *latencies) rotate() {
	l.previous = l.current
	l.current = [latencyBuckets]uint32{}
}

// percentile returns the value, in milliseconds, below which the share q of the
// recorded latencies lies; 0 when nothing was recorded.
func (l *latencies) percentile(q float64) float64 {
	var total uint64
	for i := range l.current {
		total += uint64(l.current[i]) + uint64(l.previous[i])
	}
	if total == 0 {
		return 0
	}
	rank := uint64(math.Ceil(q * float64(total)))
	var seen uint64
	for i := range l.current {
		seen += uint64(l.current[i]) + uint64(l.previous[i])
		if seen >= rank {
			return latencyUpper(i)
		}
	}
	return latencyUpper(latencyBuckets - 1)
}
