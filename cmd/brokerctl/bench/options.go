package bench

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Options are the flags that say what to measure: a preset, and what differs
// from it.
type Options struct {
	flags      *pflag.FlagSet
	paths      []*Path
	references []string
	preset     string
	given      Spec
	sizes      string
	unpaced    string
	fanout     string
	fanoutSize string
	profile    string
	firstSize  string
}

// NewOptions adds the flags for these paths.
func NewOptions(flags *pflag.FlagSet, paths []*Path, references []string) *Options {
	o := &Options{flags: flags, paths: paths, references: references}
	full, _ := Preset(PresetFull, Names(paths), references) // a preset that there is
	flags.StringVar(&o.preset, "preset", PresetFull, "what to start from: "+strings.Join(Presets(), ", "))
	flags.StringSliceVar(&o.given.Paths, "paths", full.Paths, "what to measure")
	flags.StringVar(&o.sizes, "sizes", joinSizes(full.Sizes), "payload sizes in bytes, with K or M for KiB or MiB")
	flags.IntVar(&o.given.Count, "count", full.Count, "paced messages a size, path and round")
	flags.DurationVar(&o.given.Interval, "interval", full.Interval, "between paced messages; large ones get more")
	flags.IntVar(&o.given.Rounds, "rounds", full.Rounds, "how often the paths take turns")
	flags.StringVar(&o.unpaced, "unpaced-sizes", joinSizes(full.UnpacedSizes), "sizes to send back to back too")
	flags.DurationVar(&o.given.Unpaced, "unpaced", full.Unpaced, "how long to send back to back; 0: not at all")
	flags.StringVar(&o.fanout, "fanout", joinSizes(full.Fanout), "numbers of receivers; empty: no fan-out")
	flags.StringVar(&o.fanoutSize, "fanout-size", joinSizes([]int{full.FanoutSize}), "size of its payloads")
	flags.StringVar(&o.firstSize, "first-size", joinSizes([]int{full.FirstSize}), "size of the first message that later ones are compared with; 0: none")
	flags.StringVar(&o.profile, "profile", "", "directory for profiles of all processes; spoils the times")
	return o
}

// Environ is what the children's environment needs for these options.
func (o *Options) Environ() []string {
	if o.profile == "" {
		return nil
	}
	return []string{EnvProfile + "=" + o.profile}
}

// Spec is what the flags ask for.
func (o *Options) Spec() (Spec, error) {
	paths := Names(o.paths)
	if o.flags.Changed("paths") {
		paths = o.given.Paths
	}
	s, err := Preset(o.preset, paths, o.references)
	if err != nil {
		return s, err
	}
	for _, sizes := range []struct {
		flag, text string
		into       *[]int
	}{{"sizes", o.sizes, &s.Sizes}, {"unpaced-sizes", o.unpaced, &s.UnpacedSizes}, {"fanout", o.fanout, &s.Fanout}} {
		if o.flags.Changed(sizes.flag) {
			if *sizes.into, err = parseSizes(sizes.flag, sizes.text); err != nil {
				return s, err
			}
		}
	}
	for _, size := range []struct {
		flag, text string
		into       *int
	}{{"fanout-size", o.fanoutSize, &s.FanoutSize}, {"first-size", o.firstSize, &s.FirstSize}} {
		if o.flags.Changed(size.flag) {
			if *size.into, err = parseSize(size.flag, size.text); err != nil {
				return s, err
			}
		}
	}
	set := func(flag string, apply func()) {
		if o.flags.Changed(flag) {
			apply()
		}
	}
	set("count", func() { s.Count = o.given.Count })
	set("interval", func() { s.Interval = o.given.Interval })
	set("rounds", func() { s.Rounds = o.given.Rounds })
	set("unpaced", func() {
		s.Unpaced, s.UnpacedCount = o.given.Unpaced, 0
		if s.Unpaced == 0 {
			s.UnpacedSizes = nil
		}
	})
	if s.FirstSize == 0 {
		s.FirstPaths = nil
	}
	return s, s.Validate(o.paths)
}

func parseSizes(flag, text string) ([]int, error) {
	var sizes []int
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	for word := range strings.SplitSeq(text, ",") {
		n, err := parseSize(flag, word)
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

func parseSize(flag, text string) (int, error) {
	digits, shift := strings.TrimSpace(text), 0
	switch {
	case strings.HasSuffix(digits, "K"):
		digits, shift = digits[:len(digits)-1], 10
	case strings.HasSuffix(digits, "M"):
		digits, shift = digits[:len(digits)-1], 20
	}
	n, err := strconv.ParseUint(digits, 10, 31-shift)
	if err != nil {
		return 0, fmt.Errorf("--%s: %q is no size; examples: 64, 4K, 40M", flag, text)
	}
	return int(n) << shift, nil
}

// joinSizes is the text that parseSizes reads.
func joinSizes(sizes []int) string {
	var words []string
	for _, n := range sizes {
		switch {
		case n >= 1<<20 && n%(1<<20) == 0:
			words = append(words, strconv.Itoa(n>>20)+"M")
		case n >= 1<<10 && n%(1<<10) == 0:
			words = append(words, strconv.Itoa(n>>10)+"K")
		default:
			words = append(words, strconv.Itoa(n))
		}
	}
	return strings.Join(words, ",")
}
