package bench

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of a Spec.
const (
	SizeMax      = 256 << 20 // bytes
	receiversMax = 64
	unpacedMax   = 5_000_000 // messages of one series
)

// Spec says what to measure. Sizes are in bytes.
type Spec struct {
	Paths      []string `json:"paths"`
	References []string `json:"references"` // paths that the others are compared with

	Sizes    []int         `json:"sizes"`
	Count    int           `json:"count"`       // paced messages a size, path and round
	Interval time.Duration `json:"interval_ns"` // between paced messages; large ones get more time
	Rounds   int           `json:"rounds"`      // how often the paths take turns

	UnpacedSizes []int         `json:"unpaced_sizes"`
	Unpaced      time.Duration `json:"unpaced_ns"`    // how long to send back to back; 0: see UnpacedCount
	UnpacedCount int           `json:"unpaced_count"` // messages to send back to back; 0: as many as Unpaced takes

	FanoutPaths []string `json:"fanout_paths"`
	Fanout      []int    `json:"fanout"` // numbers of receivers
	FanoutSize  int      `json:"fanout_size"`

	FlatPaths []string `json:"flat_paths"` // whose times should not depend on the size
	FlatSizes []int    `json:"flat_sizes"` // at which they are compared

	FirstPaths []string `json:"first_paths"` // whose first message is compared with a later one
	FirstSize  int      `json:"first_size"`
}

// Names of the presets.
const (
	PresetFull  = "full"
	PresetQuick = "quick"
	PresetDora  = "dora"
)

// Presets lists them.
func Presets() []string { return []string{PresetFull, PresetQuick, PresetDora} }

// Preset is a Spec for paths, compared with references.
func Preset(name string, paths, references []string) (Spec, error) {
	s := Spec{
		Paths: paths, References: references,
		Sizes:        []int{64, 4 << 10, 64 << 10, 1 << 20, 4 << 20, 40 << 20},
		Count:        300,
		Interval:     time.Millisecond,
		Rounds:       9,
		UnpacedSizes: []int{64, 4 << 10, 1 << 20},
		Unpaced:      400 * time.Millisecond,
		Fanout:       []int{1, 4, 8},
		FanoutSize:   1 << 20,
		FlatSizes:    []int{64, 40 << 20},
		FirstSize:    40 << 20,
	}
	s.FanoutPaths = among(paths, PathLane, PathBrokered)
	s.FlatPaths = among(paths, PathLaneLoan)
	s.FirstPaths = among(paths, PathLane)
	switch name {
	case PresetFull:
	case PresetQuick:
		s.Count, s.Rounds, s.Unpaced, s.UnpacedSizes = 60, 3, 150*time.Millisecond, []int{64, 1 << 20}
	case PresetDora:
		// The workload of dora-rs's own benchmark: a hundred messages, 5 ms apart,
		// then a hundred back to back.
		s.Sizes = []int{0, 8, 64, 512, 2048, 4096, 16384, 40960, 409600, 4096000}
		s.Count, s.Interval, s.Rounds = 100, 5*time.Millisecond, 3
		s.UnpacedSizes, s.Unpaced, s.UnpacedCount = s.Sizes, 0, 100
		s.FanoutPaths, s.FlatPaths, s.FirstPaths = nil, nil, nil
	default:
		return s, fmt.Errorf("no preset %q; there are %v", name, Presets())
	}
	return s, nil
}

// PresetUsage says what each preset contains.
func PresetUsage() string {
	var b strings.Builder
	for _, preset := range []struct{ name, note string }{
		{PresetFull, "a few minutes"},
		{PresetQuick, "about a minute"},
		{PresetDora, "the workload of dora-rs's own benchmark"},
	} {
		s, _ := Preset(preset.name, []string{PathLane, PathBrokered, PathLaneLoan}, nil) // a preset that there is
		line := func(format string, args ...any) { fmt.Fprintf(&b, "         "+format+"\n", args...) }
		fmt.Fprintf(&b, "  %-6s %s: %d rounds\n", preset.name, preset.note, s.Rounds)
		line("%d messages of each size, %v apart or more: %s", s.Count, s.Interval, joinSizes(s.Sizes))
		unpaced := s.Unpaced.String()
		if s.UnpacedCount > 0 {
			unpaced = fmt.Sprint(s.UnpacedCount, " messages")
		}
		line("%s back to back: %s", unpaced, joinSizes(s.UnpacedSizes))
		if len(s.FanoutPaths) > 0 {
			line("%s to %s receivers", joinSizes([]int{s.FanoutSize}), joinSizes(s.Fanout))
		}
		if len(s.FirstPaths) > 0 {
			line("the first message of %s beside later ones", joinSizes([]int{s.FirstSize}))
		}
	}
	return b.String()
}

// among lists those of want that have has.
func among(has []string, want ...string) []string {
	return slices.DeleteFunc(want, func(name string) bool { return !slices.Contains(has, name) })
}

// Validate finds what cannot be measured, all of it at once.
func (s Spec) Validate(paths []*Path) error {
	var wrong []error
	for _, names := range [][]string{s.Paths, s.FanoutPaths, s.FlatPaths, s.FirstPaths} {
		for _, name := range names {
			if _, err := Find(paths, name); err != nil {
				wrong = append(wrong, err)
			}
		}
	}
	if len(s.Paths)+len(s.FanoutPaths)+len(s.FlatPaths)+len(s.FirstPaths) == 0 {
		wrong = append(wrong, errors.New("no path to measure"))
	}
	if len(s.sizes())+len(s.FanoutPaths)+len(s.FlatPaths)+len(s.FirstPaths) == 0 {
		wrong = append(wrong, errors.New("no size to measure"))
	}
	for _, n := range slices.Concat(s.Sizes, s.UnpacedSizes, s.FlatSizes, []int{s.FanoutSize, s.FirstSize}) {
		if n < 0 || n > SizeMax {
			wrong = append(wrong, fmt.Errorf("size %d: 0 to %d bytes can be measured", n, SizeMax))
		}
	}
	for _, n := range s.Fanout {
		if n < 1 || n > receiversMax {
			wrong = append(wrong, fmt.Errorf("fan-out %d: 1 to %d receivers", n, receiversMax))
		}
	}
	wrong = append(wrong,
		between("count", s.Count, 1, 1_000_000),
		between("rounds", s.Rounds, 1, 1000),
		between("interval", s.Interval, 0, time.Minute),
		between("unpaced", s.Unpaced, 0, time.Minute),
		between("unpaced count", s.UnpacedCount, 0, unpacedMax))
	return errors.Join(wrong...)
}

func between[T int | time.Duration](what string, n, lowest, highest T) error {
	if n < lowest || n > highest {
		return fmt.Errorf("%s %v: %v to %v", what, n, lowest, highest)
	}
	return nil
}

// pace is the pause between paced messages of a path to so many receivers: long
// enough that no message meets the one before it on the way.
func (s Spec) pace(path *Path, size, receivers int) time.Duration {
	const bytesPerSecond = 1 << 30
	if path.FirstByte {
		return s.Interval // nobody reads the rest
	}
	bytes := float64(size * receivers * max(1, path.Slow))
	return max(s.Interval, time.Duration(bytes/bytesPerSecond*float64(time.Second)))
}

// count is how many paced messages of a pace are worth their time.
func (s Spec) count(pace time.Duration) int {
	const most = time.Second // a round
	if pace > 5*time.Millisecond {
		return max(5, min(s.Count, int(most/pace)))
	}
	return s.Count
}

// warmup is how many messages of a size go ahead of all measuring: regions,
// mappings and buffers of all that may be on its way have been used by then.
func warmup(size int) int { return 2*Window(size) + 10 }

// sizes lists all sizes for which paths take turns, each once.
func (s Spec) sizes() []int {
	all := slices.Concat(s.Sizes, s.UnpacedSizes)
	slices.Sort(all)
	return slices.Compact(all)
}
