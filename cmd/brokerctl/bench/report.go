package bench

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// ReportFormat counts the changes of Report that are no additions.
const ReportFormat = 2

// Report is the outcome of a run. Times are in nanoseconds, ratios are taken
// round by round.
type Report struct {
	Format     int             `json:"format"`
	Machine    Machine         `json:"machine"`
	Spec       Spec            `json:"spec"`
	Latency    []LatencyRow    `json:"latency"`
	Throughput []ThroughputRow `json:"throughput"`
	Fanout     []FanoutResult  `json:"fanout"`
	Flat       []FlatResult    `json:"flat"`
	First      []FirstResult   `json:"first"`
	Goals      []Goal          `json:"goals"`
}

// Machine is where and when it was measured.
type Machine struct {
	CPU       string    `json:"cpu"`
	Cores     int       `json:"cores"`
	Kernel    string    `json:"kernel"`
	Go        string    `json:"go"`
	Start     time.Time `json:"start"`
	End       time.Time `json:"end"`
	LoadStart string    `json:"load_start"` // of the last 1, 5 and 15 minutes
	LoadEnd   string    `json:"load_end"`
}

// LatencyRow is the paced messages of one size.
type LatencyRow struct {
	Bytes       int           `json:"bytes"`
	MemcpyP50NS int64         `json:"memcpy_p50_ns"` // one warm copy of the payload
	Paths       []PathLatency `json:"paths"`
}

// PathLatency is one path's one-way times, all rounds together, and what each
// round gave.
type PathLatency struct {
	Path       string            `json:"path"`
	Messages   int               `json:"messages"`
	P50NS      int64             `json:"p50_ns"`
	P90NS      int64             `json:"p90_ns"`
	P99NS      int64             `json:"p99_ns"`
	RoundP50NS []int64           `json:"round_p50_ns"`
	Ratios     map[string]Spread `json:"ratios"` // of the medians, to the references
	Allocs     Allocs            `json:"allocs"`

	times []int64
}

// ThroughputRow is the messages of one size back to back.
type ThroughputRow struct {
	Bytes int              `json:"bytes"`
	Paths []PathThroughput `json:"paths"`
}

// PathThroughput is one path's rate, the median of the rounds.
type PathThroughput struct {
	Path           string            `json:"path"`
	PerSecond      float64           `json:"per_second"`
	RoundPerSecond []float64         `json:"round_per_second"`
	Ratios         map[string]Spread `json:"ratios"`
	Allocs         Allocs            `json:"allocs"`
}

// Allocs is how many objects a message costs each side: everything that its
// process allocated meanwhile, over the messages; the median of the rounds, since
// in the first ones memory may still grow.
type Allocs struct {
	Send    float64 `json:"send"`
	Receive float64 `json:"receive"`

	sends, receives []float64
	messages        int // of one round, at least
}

// FanoutResult is paced messages to several receivers.
type FanoutResult struct {
	Path           string  `json:"path"`
	Receivers      int     `json:"receivers"`
	Bytes          int     `json:"bytes"`
	SendP50NS      int64   `json:"send_p50_ns"` // of the calls of Send
	SendP99NS      int64   `json:"send_p99_ns"`
	SendCPUNS      int64   `json:"send_cpu_ns"`    // all that the sender's process does, a message
	OneWayP50NS    int64   `json:"one_way_p50_ns"` // of all receivers
	OneWayP99NS    int64   `json:"one_way_p99_ns"`
	RoundSendP50NS []int64 `json:"round_send_p50_ns"`
	SendRatio      Spread  `json:"send_ratio"` // to the fewest receivers
	RoundSendCPUNS []int64 `json:"round_send_cpu_ns"`
	SendCPURatio   Spread  `json:"send_cpu_ratio"`

	costs, times []int64
}

// FlatResult is paced messages of one size of a path whose times should not
// depend on it.
type FlatResult struct {
	Path       string  `json:"path"`
	Bytes      int     `json:"bytes"`
	P50NS      int64   `json:"p50_ns"`
	P99NS      int64   `json:"p99_ns"`
	RoundP50NS []int64 `json:"round_p50_ns"`
	Ratio      Spread  `json:"ratio"` // to the smallest size

	times []int64
}

// FirstResult is the first message of fresh processes and the later ones.
type FirstResult struct {
	Path        string  `json:"path"`
	Bytes       int     `json:"bytes"`
	Reserved    bool    `json:"reserved"` // memory was asked for before
	FirstNS     []int64 `json:"first_ns"` // of each try
	SteadyP50NS []int64 `json:"steady_p50_ns"`
	Ratio       Spread  `json:"ratio"`
}

func newReport(spec Spec) *Report {
	r := &Report{Format: ReportFormat, Machine: machine(), Spec: spec}
	r.Machine.Start, r.Machine.LoadStart = time.Now().UTC().Truncate(time.Second), load()
	return r
}

func machine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
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

// load is how busy the machine is; empty where it does not tell.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

func (a *Allocs) add(out outcome, messages int) {
	if messages == 0 {
		return
	}
	if a.messages == 0 || messages < a.messages {
		a.messages = messages
	}
	a.sends = append(a.sends, float64(out.sendMallocs)/float64(messages))
	a.receives = append(a.receives, float64(out.receiveMallocs)/float64(messages))
	a.Send, a.Receive = median(a.sends), median(a.receives)
}

func (p *PathLatency) add(out outcome) {
	p.times = append(p.times, out.oneWayNS...)
	p.RoundP50NS = append(p.RoundP50NS, percentile(sorted(out.oneWayNS), 0.5))
	p.Allocs.add(out, len(out.oneWayNS))
}

func (p *PathThroughput) add(out outcome, messages int) {
	p.RoundPerSecond = append(p.RoundPerSecond, float64(messages)/max(1e-9, out.elapsed.Seconds()))
	p.Allocs.add(out, messages)
}

func (f *FanoutResult) add(out outcome) {
	f.times = append(f.times, out.oneWayNS...)
	f.costs = append(f.costs, out.costNS...)
	f.RoundSendCPUNS = append(f.RoundSendCPUNS, out.busyNS/max(1, int64(len(out.costNS))))
	f.RoundSendP50NS = append(f.RoundSendP50NS, percentile(sorted(out.costNS), 0.5))
}

func (f *FlatResult) add(out outcome) {
	f.times = append(f.times, out.oneWayNS...)
	f.RoundP50NS = append(f.RoundP50NS, percentile(sorted(out.oneWayNS), 0.5))
}

// finish works out what follows from the rounds.
func (r *Report) finish() {
	r.Machine.End, r.Machine.LoadEnd = time.Now().UTC().Truncate(time.Second), load()
	for i := range r.Latency {
		row := &r.Latency[i]
		for k := range row.Paths {
			p := &row.Paths[k]
			times := sorted(p.times)
			p.Messages = len(times)
			p.P50NS, p.P90NS, p.P99NS = percentile(times, 0.5), percentile(times, 0.9), percentile(times, 0.99)
			p.Ratios = ratios(p.Path, r.Spec.References, p.RoundP50NS, func(to string) []int64 {
				if p := row.path(to); p != nil {
					return p.RoundP50NS
				}
				return nil
			})
		}
	}
	for i := range r.Throughput {
		row := &r.Throughput[i]
		for k := range row.Paths {
			p := &row.Paths[k]
			p.PerSecond = median(p.RoundPerSecond)
			p.Ratios = ratios(p.Path, r.Spec.References, p.RoundPerSecond, func(to string) []float64 {
				if p := row.path(to); p != nil {
					return p.RoundPerSecond
				}
				return nil
			})
		}
	}
	for i := range r.Fanout {
		f := &r.Fanout[i]
		costs, times := sorted(f.costs), sorted(f.times)
		f.SendP50NS, f.SendP99NS = percentile(costs, 0.5), percentile(costs, 0.99)
		f.SendCPUNS = percentile(sorted(f.RoundSendCPUNS), 0.5)
		f.OneWayP50NS, f.OneWayP99NS = percentile(times, 0.5), percentile(times, 0.99)
		f.SendRatio, _ = ratio(f.RoundSendP50NS, r.fewest(f.Path).RoundSendP50NS)
		f.SendCPURatio, _ = ratio(f.RoundSendCPUNS, r.fewest(f.Path).RoundSendCPUNS)
	}
	for i := range r.Flat {
		f := &r.Flat[i]
		times := sorted(f.times)
		f.P50NS, f.P99NS = percentile(times, 0.5), percentile(times, 0.99)
		f.Ratio, _ = ratio(f.RoundP50NS, r.smallest(f.Path).RoundP50NS)
	}
	for i := range r.First {
		f := &r.First[i]
		f.Ratio, _ = ratio(f.FirstNS, f.SteadyP50NS)
	}
	r.Goals = goals(r)
}

// fewest is the result of a path for the smallest number of receivers.
func (r *Report) fewest(path string) *FanoutResult {
	var found *FanoutResult
	for i := range r.Fanout {
		if f := &r.Fanout[i]; f.Path == path && (found == nil || f.Receivers < found.Receivers) {
			found = f
		}
	}
	return found
}

// smallest is the result of a path for the smallest size.
func (r *Report) smallest(path string) *FlatResult {
	var found *FlatResult
	for i := range r.Flat {
		if f := &r.Flat[i]; f.Path == path && (found == nil || f.Bytes < found.Bytes) {
			found = f
		}
	}
	return found
}

func (row *LatencyRow) path(name string) *PathLatency {
	i := slices.IndexFunc(row.Paths, func(p PathLatency) bool { return p.Path == name })
	if i < 0 {
		return nil
	}
	return &row.Paths[i]
}

func (row *ThroughputRow) path(name string) *PathThroughput {
	i := slices.IndexFunc(row.Paths, func(p PathThroughput) bool { return p.Path == name })
	if i < 0 {
		return nil
	}
	return &row.Paths[i]
}
