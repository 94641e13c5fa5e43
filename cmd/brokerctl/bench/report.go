package bench

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the outcome of a run. Times are in nanoseconds.
type Report struct {
	Machine Machine      `json:"machine"`
	Spec    Spec         `json:"-"`
	Rounds  int          `json:"rounds"`
	Sizes   []SizeResult `json:"sizes"`
}

// Machine is where it was measured.
type Machine struct {
	CPU    string    `json:"cpu"`
	Cores  int       `json:"cores"`
	Kernel string    `json:"kernel"`
	Go     string    `json:"go"`
	Time   time.Time `json:"time"`
}

// SizeResult is everything about one payload size.
type SizeResult struct {
	Bytes       int                    `json:"bytes"`
	MemcpyP50NS int64                  `json:"memcpy_p50_ns"`
	Paths       map[string]*PathResult `json:"paths"`
}

// PathResult is one path's times for one size, all rounds together, and what
// each round gave.
type PathResult struct {
	Messages       int       `json:"messages"`
	P50NS          int64     `json:"p50_ns"`
	P90NS          int64     `json:"p90_ns"`
	P99NS          int64     `json:"p99_ns"`
	PerSecond      float64   `json:"per_second"` // unpaced, median of the rounds
	RoundP50NS     []int64   `json:"round_p50_ns"`
	RoundPerSecond []float64 `json:"round_per_second"`

	times []int64
}

func newReport(spec Spec) *Report {
	return &Report{Machine: machine(), Spec: spec, Rounds: spec.Rounds}
}

func machine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Time: time.Now().UTC().Truncate(time.Second)}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = runtime.GOOS + " " + strings.TrimSpace(string(b))
	}
	return m
}

func (p *PathResult) finish() {
	times := sorted(p.times)
	p.Messages = len(times)
	p.P50NS, p.P90NS, p.P99NS = percentile(times, 0.5), percentile(times, 0.9), percentile(times, 0.99)
	p.PerSecond = median(p.RoundPerSecond)
}

func sorted(v []int64) []int64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v
}

// percentile of sorted values, nearest rank.
func percentile(v []int64, q float64) int64 {
	if len(v) == 0 {
		return 0
	}
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// Spread is the ratio of two paths, round by round.
type Spread struct{ Min, Median, Max float64 }

// Ratio compares a path's medians with another's of the same rounds.
func (s *SizeResult) Ratio(path, to string) (Spread, bool) {
	a, b := s.Paths[path], s.Paths[to]
	if a == nil || b == nil || len(a.RoundP50NS) != len(b.RoundP50NS) || len(a.RoundP50NS) == 0 {
		return Spread{}, false
	}
	var ratios []float64
	for i := range a.RoundP50NS {
		if b.RoundP50NS[i] > 0 {
			ratios = append(ratios, float64(a.RoundP50NS[i])/float64(b.RoundP50NS[i]))
		}
	}
	if len(ratios) == 0 {
		return Spread{}, false
	}
	return Spread{slices.Min(ratios), median(ratios), slices.Max(ratios)}, true
}

// Write prints the report as a table.
func (r *Report) Write(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "%s, %d cores, %s, %s, %s\n", m.CPU, m.Cores, m.Kernel, m.Go, m.Time.Format(time.RFC3339))
	fmt.Fprintf(w, "One-way time of paced messages, and messages a second back to back; %d rounds, paths take turns.\n\n", r.Rounds)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "size\tpath\tp50 µs\tp90 µs\tp99 µs\tp50 / tcp\t(min–max)\tp50 / relay\t(min–max)\tmemcpy µs\tmessages/s\tMB/s\t")
	for i := range r.Sizes {
		r.Sizes[i].write(tw, r.Spec.paths(r.Sizes[i].Bytes))
	}
	return tw.Flush()
}

func (s *SizeResult) write(w io.Writer, paths []string) {
	for i, path := range paths {
		p := s.Paths[path]
		size, memcpy := "", ""
		if i == 0 {
			size, memcpy = FormatBytes(s.Bytes), micros(s.MemcpyP50NS)
		}
		ratios := ""
		for _, to := range []string{PathTCP, PathRelay} {
			if sp, ok := s.Ratio(path, to); ok && path != to {
				ratios += fmt.Sprintf("%.2f\t(%.2f–%.2f)\t", sp.Median, sp.Min, sp.Max)
			} else {
				ratios += "\t\t"
			}
		}
		rate, volume := "", ""
		if p.PerSecond > 0 {
			rate = fmt.Sprintf("%.0f", p.PerSecond)
			volume = fmt.Sprintf("%.0f", p.PerSecond*float64(s.Bytes)/1e6)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s%s\t%s\t%s\t\n",
			size, path, micros(p.P50NS), micros(p.P90NS), micros(p.P99NS), ratios, memcpy, rate, volume)
	}
}

func micros(ns int64) string {
	if ns < 10_000 {
		return fmt.Sprintf("%.1f", float64(ns)/1000)
	}
	return fmt.Sprintf("%.0f", float64(ns)/1000)
}

// FormatBytes writes a size with a binary unit.
func FormatBytes(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
