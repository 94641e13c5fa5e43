package bench

import (
	"encoding/binary"
	"sync/atomic"
	"time"
)

// Every payload starts with when it was sent, what it belongs to and whether it
// is the last of its series.
const (
	offsetTime   = 0  // int64 Unix nanoseconds
	offsetSeries = 8  // uint64
	offsetLast   = 16 // uint64: 1 for the last one
	headerBytes  = 24
)

func stamp(p []byte, series uint64, last bool) {
	binary.LittleEndian.PutUint64(p[offsetSeries:], series)
	flag := uint64(0)
	if last {
		flag = 1
	}
	binary.LittleEndian.PutUint64(p[offsetLast:], flag)
	binary.LittleEndian.PutUint64(p[offsetTime:], uint64(time.Now().UnixNano()))
}

func seriesOf(p []byte) uint64 { return binary.LittleEndian.Uint64(p[offsetSeries:]) }
func isLast(p []byte) bool     { return binary.LittleEndian.Uint64(p[offsetLast:]) == 1 }
func sentAt(p []byte) int64    { return int64(binary.LittleEndian.Uint64(p[offsetTime:])) }

// touched keeps the compiler from leaving out the reads of touch.
var touched atomic.Uint32

// touch reads one byte of every page, as a receiver that uses the data would at
// least.
func touch(p []byte) {
	var sum byte
	for i := 0; i < len(p); i += 4096 {
		sum += p[i]
	}
	touched.Add(uint32(sum + p[len(p)-1]))
}

// order is what the parent tells a child to do.
type order struct {
	Path    string        `json:"path"`
	Size    int           `json:"size"`
	Series  uint64        `json:"series"`
	Count   int           `json:"count"`   // paced
	Pace    time.Duration `json:"pace"`    // paced
	Unpaced time.Duration `json:"unpaced"` // > 0: back to back for so long
	Memcpy  bool          `json:"memcpy"`  // measure a warm copy instead
}

// answer is what a child says. A receiver first answers Ready, then the result.
type answer struct {
	Error     string  `json:"error,omitempty"`
	Ready     bool    `json:"ready,omitempty"`
	Addr      string  `json:"addr,omitempty"` // of the receiver's TCP listener
	TimesNS   []int64 `json:"times_ns,omitempty"`
	Messages  int     `json:"messages,omitempty"`
	ElapsedNS int64   `json:"elapsed_ns,omitempty"` // from the first to the last
}
