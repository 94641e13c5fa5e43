package bench

import (
	"fmt"
	"sync/atomic"
	"time"
)

// touched keeps the compiler from leaving out the reads of touch.
var touched atomic.Uint32

const pageBytes = 4096

// touch reads one byte of every page, as a receiver that uses the data would at
// least.
func touch(p []byte) {
	if len(p) == 0 {
		return
	}
	var sum byte
	for i := 0; i < len(p); i += pageBytes {
		sum += p[i]
	}
	touched.Add(uint32(sum + p[len(p)-1]))
}

// mark is the first byte of message i of a series; a receiver that finds another
// one was given a message twice, not at all or in pieces.
func mark(i int) byte { return byte(i%251 + 1) }

func checkMark(p []byte, i int) error {
	if len(p) > 0 && p[0] != mark(i) {
		return fmt.Errorf("message %d begins with %d, not %d: another one, or torn", i, p[0], mark(i))
	}
	return nil
}

// filled is a payload that no page of is the zero page.
func filled(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 31)
	}
	return p
}

// verb is what a child is asked to do.
type verb string

const (
	verbSetup   verb = "setup"   // connect to the others
	verbPrepare verb = "prepare" // get ready for messages of a size
	verbReserve verb = "reserve" // sender: memory for Count messages
	verbSeries  verb = "series"  // send or receive Count messages
	verbMemcpy  verb = "memcpy"  // measure warm copies instead
)

// order is what the parent tells a child.
type order struct {
	Verb  verb          `json:"verb"`
	Setup Setup         `json:"setup"`
	Size  int           `json:"size"`  // bytes
	Count int           `json:"count"` // messages
	Pace  time.Duration `json:"pace"`  // between messages; 0: back to back
	Times bool          `json:"times"` // the times of each message are wanted
}

// answer is what a child says. To a series a receiver first answers that it
// waits. All times are of the clock that the processes share.
type answer struct {
	Error   string  `json:"error,omitempty"`
	Addr    string  `json:"addr,omitempty"`
	TimesNS []int64 `json:"times_ns,omitempty"` // sender: before the send; receiver: after the touch; memcpy: durations
	CostNS  []int64 `json:"cost_ns,omitempty"`  // sender: durations of the sends
	StartNS int64   `json:"start_ns,omitempty"` // sender: before the first send
	EndNS   int64   `json:"end_ns,omitempty"`   // receiver: after the last touch
	Mallocs uint64  `json:"mallocs,omitempty"`  // during the series
	CPUNS   int64   `json:"cpu_ns,omitempty"`   // sender: of the process, during the series
}
