package main

import (
	"encoding/json"
	"testing"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
)

// TestBench runs the benchmark with real processes, as short as it goes: what it
// finds is not judged here, only that every path has delivered every message.
func TestBench(t *testing.T) {
	p := brokerctl(t, "", "bench", "--sizes", "64,256K", "--count", "20", "--rounds", "2", "--unpaced", "50ms", "-o", "json")
	p.exits(0)
	var report bench.Report
	if err := json.Unmarshal([]byte(p.out.text()), &report); err != nil {
		t.Fatalf("%v in\n%s", err, p.out.text())
	}
	if len(report.Sizes) != 2 || report.Machine.Cores == 0 {
		t.Fatalf("report %+v", report)
	}
	for _, size := range report.Sizes {
		for _, path := range bench.Paths() {
			if path == bench.PathRelay && size.Bytes > 64 {
				continue
			}
			r := size.Paths[path]
			if r == nil || r.Messages != 40 || r.P50NS <= 0 || r.P99NS < r.P50NS || r.PerSecond <= 0 {
				t.Errorf("%d bytes, %s: %+v", size.Bytes, path, r)
			}
		}
	}
}

func TestParseSizes(t *testing.T) {
	got, err := parseSizes("64, 4K,40M")
	if err != nil || len(got) != 3 || got[0] != 64 || got[1] != 4<<10 || got[2] != 40<<20 {
		t.Errorf("sizes %v, %v", got, err)
	}
	for _, text := range []string{"", "many", "-4", "4G", "9999999M"} {
		if _, err := parseSizes(text); err == nil {
			t.Errorf("%q is taken for sizes", text)
		}
	}
}
