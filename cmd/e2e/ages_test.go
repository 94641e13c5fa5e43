//go:build linux

package e2e

import (
	"math/bits"
	"testing"
	"time"
)

// ages are how old messages were when they came: how many were how old, in steps
// of a sixteenth.
type ages struct {
	n     uint64
	steps [64 << stepBits]uint32
}

const stepBits = 4

func (a *ages) add(age time.Duration) {
	a.n++
	a.steps[stepOf(max(0, age))]++
}

func stepOf(age time.Duration) int {
	octave := max(0, bits.Len64(uint64(age))-stepBits-1)
	return octave<<stepBits + int(age>>octave)
}

// endOf is the largest age of a step.
func endOf(step int) time.Duration {
	octave := max(0, step>>stepBits-1)
	return time.Duration(step-octave<<stepBits+1)<<octave - 1
}

func (a *ages) percentiles() (p50, p99 time.Duration) {
	var seen uint64
	for step, n := range a.steps {
		if n == 0 {
			continue
		}
		before := seen
		seen += uint64(n)
		if before <= a.n/2 && a.n/2 < seen {
			p50 = endOf(step)
		}
		if at := a.n * 99 / 100; before <= at && at < seen {
			p99 = endOf(step)
		}
	}
	return p50, p99
}

func TestAges(t *testing.T) {
	var a ages
	for i := range 100_000 {
		a.add(time.Duration(i) * time.Microsecond)
	}
	p50, p99 := a.percentiles()
	for _, c := range [][2]time.Duration{{p50, 50 * time.Millisecond}, {p99, 99 * time.Millisecond}} {
		if got, want := c[0], c[1]; got < want || got > want*17/16 {
			t.Errorf("%v, want %v", got, want)
		}
	}
}
