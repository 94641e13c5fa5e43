package main

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
)

// TestBench runs the benchmark with real processes, as short as it goes: what it
// finds is not judged here, only that every path has delivered every message.
func TestBench(t *testing.T) {
	if raceDetector {
		t.Skip("the paced rounds of all paths take longer than a test may under the race detector")
	}
	p := brokerctl(t, "", "bench", "--sizes", "0,64,256K", "--count", "10", "--rounds", "2", "--unpaced-sizes", "64", "--unpaced", "20ms",
		"--fanout", "1,3", "--fanout-size", "64K", "--first-size", "1M", "-o", "json")
	p.exits(0)
	var report bench.Report
	if err := json.Unmarshal([]byte(p.out.text()), &report); err != nil {
		t.Fatalf("%v in\n%s", err, p.out.text())
	}
	if report.Format != bench.ReportFormat || report.Machine.Cores == 0 || len(report.Latency) != 3 || len(report.Throughput) != 1 {
		t.Fatalf("report %+v", report)
	}
	for _, row := range report.Latency {
		for _, p := range row.Paths {
			if p.Messages != 20 || p.P50NS <= 0 || p.P99NS < p.P50NS || len(p.RoundP50NS) != 2 {
				t.Errorf("%d bytes: %+v", row.Bytes, p)
			}
		}
		want := bench.Names(bench.Own())
		if row.Bytes > 64 {
			want = slices.DeleteFunc(want, func(name string) bool { return name == bench.PathRelay })
		}
		if len(row.Paths) != len(want) {
			t.Errorf("%d bytes: %d paths, not %v", row.Bytes, len(row.Paths), want)
		}
	}
	for _, p := range report.Throughput[0].Paths {
		if p.PerSecond <= 0 || len(p.RoundPerSecond) != 2 {
			t.Errorf("back to back: %+v", p)
		}
	}
	if len(report.Fanout) == 0 || len(report.Fanout)%2 != 0 {
		t.Errorf("fan-out %+v", report.Fanout)
	}
	for _, f := range report.Fanout {
		if f.SendP50NS <= 0 || f.OneWayP50NS <= 0 {
			t.Errorf("fan-out %+v", f)
		}
	}
}

func TestBenchRefusesWhatItCannotMeasure(t *testing.T) {
	p := brokerctl(t, "", "bench", "--paths", "pigeon")
	p.exits(2)
}
