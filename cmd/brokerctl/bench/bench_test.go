package bench

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func options(t *testing.T, args ...string) (Spec, error) {
	t.Helper()
	flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	o := NewOptions(flags, Own(), []string{PathTCP})
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o.Spec()
}

func TestPresetsAreValid(t *testing.T) {
	for _, name := range Presets() {
		if _, err := options(t, "--preset", name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := options(t, "--preset", "slow"); err == nil {
		t.Error("a preset that there is not")
	}
}

func TestFlagsChangeThePreset(t *testing.T) {
	s, err := options(t, "--preset", "dora", "--sizes", "64, 4K,40M", "--rounds", "7", "--paths", "tcp", "--fanout", "")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Sizes, []int{64, 4 << 10, 40 << 20}) || s.Rounds != 7 || len(s.Fanout) != 0 {
		t.Errorf("flags are not followed: %+v", s)
	}
	if s.Interval != 5*time.Millisecond || s.UnpacedCount != 100 {
		t.Errorf("the preset is not followed: %+v", s)
	}
	for _, text := range []string{"many", "-4", "4G", "9999999M", ","} {
		if _, err := options(t, "--sizes", text); err == nil {
			t.Errorf("%q is taken for sizes", text)
		}
	}
}

func TestValidateFindsEverything(t *testing.T) {
	_, err := options(t, "--paths", "pigeon", "--sizes", "1999M", "--count", "0", "--rounds", "0", "--fanout", "0")
	if err == nil {
		t.Fatal("nothing is found wrong")
	}
	for _, part := range []string{"pigeon", "size 2096103424", "count 0", "rounds 0", "fan-out 0"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not mentioned in: %v", part, err)
		}
	}
}

func TestPaceLeavesTimeForLargeMessages(t *testing.T) {
	s, err := Preset(PresetFull, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	usual := &Path{}
	if got := s.pace(usual, 64, 1); got != time.Millisecond {
		t.Errorf("64 B every %v", got)
	}
	if got := s.pace(usual, 40<<20, 1); got < 30*time.Millisecond {
		t.Errorf("40 MiB every %v: the next one would meet the last", got)
	}
	if n := s.count(s.pace(usual, 40<<20, 1)); n < 5 || n >= s.Count {
		t.Errorf("%d messages of 40 MiB a round", n)
	}
	if s.pace(usual, 1<<20, 8) <= s.pace(usual, 1<<20, 1) {
		t.Error("eight receivers get no more time than one")
	}
	if s.pace(&Path{Slow: 4}, 40<<20, 1) != 4*s.pace(usual, 40<<20, 1) {
		t.Error("a slow path gets no more time")
	}
	if s.pace(&Path{FirstByte: true}, 40<<20, 1) != s.Interval {
		t.Error("a payload that nobody reads takes time")
	}
}

func TestPercentileAndMedian(t *testing.T) {
	var v []int64
	for i := range 100 {
		v = append(v, int64(100-i))
	}
	v = sorted(v)
	for q, want := range map[float64]int64{0: 1, 0.5: 51, 0.9: 91, 0.99: 100, 1: 100} {
		if got := percentile(v, q); got != want {
			t.Errorf("percentile %v of 1..100 is %d, want %d", q, got, want)
		}
	}
	if percentile(nil, 0.5) != 0 || median(nil) != 0 {
		t.Error("a value of nothing")
	}
	if median([]float64{4, 1, 3, 2}) != 2.5 || median([]float64{9, 1, 2}) != 2 {
		t.Error("median")
	}
}

func TestRatioIsTakenRoundByRound(t *testing.T) {
	got, ok := ratio([]int64{100, 400, 90}, []int64{50, 200, 30})
	if want := (Spread{Median: 2, Min: 2, Max: 3}); !ok || got != want {
		t.Errorf("ratio %v, want %v", got, want)
	}
	for _, of := range [][]int64{nil, {1}} {
		if _, ok := ratio(of, []int64{1, 2}); ok {
			t.Errorf("a ratio of %v", of)
		}
	}
}

// measured is a report as a run makes it, of paths with these times and rates.
func measured(t *testing.T, paths map[string]float64) *Report {
	t.Helper()
	spec, err := Preset(PresetFull, nil, []string{PathLimit, PathShmipc})
	if err != nil {
		t.Fatal(err)
	}
	r := newReport(spec)
	for _, size := range []int{64, 40 << 20} {
		row, rates := LatencyRow{Bytes: size, MemcpyP50NS: 150}, ThroughputRow{Bytes: size}
		for _, name := range []string{PathLane, PathLaneLoan, PathLimit, PathShmipc} {
			took := paths[name]
			p, rate := PathLatency{Path: name}, PathThroughput{Path: name}
			for round := range 3 {
				ns := int64(took * float64(1000+round))
				p.add(outcome{oneWayNS: []int64{ns, ns, ns}})
				rate.add(outcome{elapsed: time.Duration(ns), sendMallocs: 1}, 100_000)
			}
			row.Paths, rates.Paths = append(row.Paths, p), append(rates.Paths, rate)
		}
		r.Latency, r.Throughput = append(r.Latency, row), append(r.Throughput, rates)
	}
	for n, cost := range map[int]int64{1: 100, 8: 140} {
		f := FanoutResult{Path: PathLane, Receivers: n, Bytes: 1 << 20}
		f.add(outcome{costNS: []int64{cost}, oneWayNS: []int64{cost}, busyNS: 2*cost - 100})
		r.Fanout = append(r.Fanout, f)
	}
	for _, size := range []int{64, 40 << 20} {
		f := FlatResult{Path: PathLaneLoan, Bytes: size}
		f.add(outcome{oneWayNS: []int64{int64(20 + size>>20)}})
		r.Flat = append(r.Flat, f)
	}
	r.First = []FirstResult{
		{Path: PathLane, Bytes: 40 << 20, Reserved: true, FirstNS: []int64{190}, SteadyP50NS: []int64{100}},
		{Path: PathLane, Bytes: 40 << 20, FirstNS: []int64{300}, SteadyP50NS: []int64{100}},
	}
	r.finish()
	return r
}

func verdict(t *testing.T, r *Report, what string) Goal {
	t.Helper()
	for _, g := range r.Goals {
		if strings.Contains(g.What, what) {
			return g
		}
	}
	t.Fatalf("no goal %q in %+v", what, r.Goals)
	return Goal{}
}

func TestGoals(t *testing.T) {
	r := measured(t, map[string]float64{PathLane: 1.2, PathLaneLoan: 1, PathLimit: 1, PathShmipc: 1.1})
	for what, want := range map[string]bool{
		"one-way 64 B, lane / limit":       true,
		"one-way 40 MiB, lane / shmipc":    false,
		"one-way lane-loan":                false,
		"messages a second":                false,
		"cost of a Send":                   true,
		"processor time of a Send":         false,
		"allocations a message, 64 B":      true,
		"later ones, memory reserved":      true,
		"later ones, memory as it comes":   false,
		"allocations a message, 40 MiB, l": true,
	} {
		if g := verdict(t, r, what); g.Reached != want {
			t.Errorf("%s: reached is %v: %+v", what, g.Reached, g)
		}
	}
	if g := verdict(t, r, "one-way lane-loan"); g.Value != 3 {
		t.Errorf("the larger takes %v times as long, want 3", g.Value)
	}
	if g := verdict(t, r, "cost of a Send"); g.Value != 1.4 {
		t.Errorf("fan-out costs %v, want 1.4", g.Value)
	}
	if got := len(measured(t, map[string]float64{PathLane: 1}).Goals); got >= len(r.Goals) {
		t.Errorf("%d goals are judged without the paths that they name", got)
	}
}

func TestAllocsAreThoseOfTheMedianRound(t *testing.T) {
	var a Allocs
	for _, n := range []uint64{4000, 10, 20} {
		a.add(outcome{sendMallocs: n, receiveMallocs: 2 * n}, 1000)
	}
	if a.Send != 0.02 || a.Receive != 0.04 {
		t.Errorf("%+v", a)
	}
}

func TestReportNamesMachineAndPaths(t *testing.T) {
	r := measured(t, map[string]float64{PathLane: 20, PathLaneLoan: 20, PathLimit: 10, PathShmipc: 40})
	var out bytes.Buffer
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"cores", "go1.", "load average", "40 MiB", "lane-loan", "× limit", "2.00", "(0.50–0.50)", "1→8", "MISSED", "met"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is missing in\n%s", part, out.String())
		}
	}
}

func TestFlowHasAnEdgeForEverySizeAndReceiver(t *testing.T) {
	flow := Flow(3)
	for _, part := range []string{"receiver-3", "sender/tiny", "queue_size: 4096", "outputs: [tiny, small, medium, large]"} {
		if !strings.Contains(flow, part) {
			t.Errorf("%q is missing in\n%s", part, flow)
		}
	}
	if got := strings.Count(flow, "policy: block"); got != 3*len(ports) {
		t.Errorf("%d of %d edges block", got, 3*len(ports))
	}
	for size, want := range map[int]int{0: 4096, 256: 4096, 257: 256, 1 << 20: 4, SizeMax: 4} {
		if got := Window(size); got != want {
			t.Errorf("window of %d bytes: %d, want %d", size, got, want)
		}
	}
}

func TestPresetUsage(t *testing.T) {
	text := PresetUsage()
	for _, name := range Presets() {
		if !strings.Contains(text, "  "+name+" ") {
			t.Errorf("%s is not in\n%s", name, text)
		}
	}
}
