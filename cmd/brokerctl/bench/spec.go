package bench

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Paths that can be measured.
const (
	PathBrokered = "brokered"
	PathLoan     = "loan"
	PathTCP      = "tcp"
	PathRelay    = "relay"
)

// Paths lists all of them.
func Paths() []string { return []string{PathBrokered, PathLoan, PathTCP, PathRelay} }

// Limits of a Spec.
const (
	SizeMin = 64        // bytes: a message's header has to fit
	SizeMax = 256 << 20 // bytes
)

// Spec says what to measure.
type Spec struct {
	Paths    []string
	Sizes    []int         // bytes of payload
	Count    int           // paced messages a size, path and round
	Interval time.Duration // between paced messages; large ones get more time
	Unpaced  time.Duration // how long to send back to back; 0: not at all
	Rounds   int           // how often the paths take turns
}

// Defaults is what `brokerctl bench` measures when it is not told otherwise.
func Defaults() Spec {
	return Spec{
		Paths:    Paths(),
		Sizes:    []int{64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 40 << 20},
		Count:    200,
		Interval: time.Millisecond,
		Unpaced:  500 * time.Millisecond,
		Rounds:   5,
	}
}

// Validate finds what cannot be measured, all of it at once.
func (s Spec) Validate() error {
	var wrong []error
	for _, p := range s.Paths {
		if !slices.Contains(Paths(), p) {
			wrong = append(wrong, fmt.Errorf("no path %q; there are %v", p, Paths()))
		}
	}
	if len(s.Paths) == 0 {
		wrong = append(wrong, errors.New("no path to measure"))
	}
	for _, n := range s.Sizes {
		if n < SizeMin || n > SizeMax {
			wrong = append(wrong, fmt.Errorf("size %d: %d to %d bytes can be measured", n, SizeMin, SizeMax))
		}
	}
	if len(s.Sizes) == 0 {
		wrong = append(wrong, errors.New("no size to measure"))
	}
	if s.Count < 1 || s.Count > 1_000_000 {
		wrong = append(wrong, fmt.Errorf("count %d: 1 to 1000000", s.Count))
	}
	if s.Interval < 0 || s.Interval > time.Minute {
		wrong = append(wrong, fmt.Errorf("interval %v: 0 to 1m", s.Interval))
	}
	if s.Unpaced < 0 || s.Unpaced > time.Minute {
		wrong = append(wrong, fmt.Errorf("unpaced %v: 0 to 1m", s.Unpaced))
	}
	if s.Rounds < 1 || s.Rounds > 1000 {
		wrong = append(wrong, fmt.Errorf("rounds %d: 1 to 1000", s.Rounds))
	}
	return errors.Join(wrong...)
}

// pace is the pause between paced messages: long enough that no message meets
// the one before it on the way, also on the slowest path.
func (s Spec) pace(size int) time.Duration {
	const bytesPerSecond = 1 << 30
	return max(s.Interval, time.Duration(float64(size)/bytesPerSecond*float64(time.Second)))
}

// paths are those that are measured at a size. A relay that passes on what it has
// read is the limit for messages that it reads in one piece; beyond, its pieces
// measure TCP's windows and nothing of use.
func (s Spec) paths(size int) []string {
	if size < largeFrom {
		return s.Paths
	}
	return slices.DeleteFunc(slices.Clone(s.Paths), func(path string) bool { return path == PathRelay })
}

// count is how many paced messages of a size are worth their time.
func (s Spec) count(size int) int {
	const most = 2 * time.Second // a round
	if pace := s.pace(size); pace > 0 {
		return max(5, min(s.Count, int(most/pace)))
	}
	return s.Count
}

// Flow is the dataflow that the benchmark needs. Both edges block: a dropped
// message would flatter the numbers.
const Flow = `nodes:
  - id: sender
    outputs: [small, large]
  - id: receiver
    inputs:
      small: {source: sender/small, queue_size: 4096, policy: block}
      large: {source: sender/large, queue_size: 4, policy: block}
`

// largeFrom is the payload size from which the output large is used.
const largeFrom = 128 << 10
