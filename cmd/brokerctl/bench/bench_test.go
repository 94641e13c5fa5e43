package bench

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	if err := Defaults().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	wrong := Defaults()
	wrong.Paths, wrong.Sizes, wrong.Count, wrong.Rounds = []string{"pigeon"}, []int{8}, 0, 0
	err := wrong.Validate()
	if err == nil {
		t.Fatal("nothing is found wrong")
	}
	for _, part := range []string{"pigeon", "size 8", "count 0", "rounds 0"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not mentioned in: %v", part, err)
		}
	}
}

func TestPaceLeavesTimeForLargeMessages(t *testing.T) {
	s := Defaults()
	if got := s.pace(64); got != time.Millisecond {
		t.Errorf("64 B every %v", got)
	}
	if got := s.pace(40 << 20); got < 30*time.Millisecond {
		t.Errorf("40 MiB every %v: the next one would meet the last", got)
	}
	if n := s.count(40 << 20); n < 5 || n >= s.Count {
		t.Errorf("%d messages of 40 MiB a round", n)
	}
}

func TestPercentile(t *testing.T) {
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
	if percentile(nil, 0.5) != 0 {
		t.Error("percentile of nothing")
	}
}

func TestRatioIsTakenRoundByRound(t *testing.T) {
	s := SizeResult{Paths: map[string]*PathResult{
		PathBrokered: {RoundP50NS: []int64{100, 400, 90}},
		PathTCP:      {RoundP50NS: []int64{50, 200, 30}},
	}}
	got, ok := s.Ratio(PathBrokered, PathTCP)
	if want := (Spread{2, 2, 3}); !ok || got != want {
		t.Errorf("ratio %v, want %v", got, want)
	}
	if _, ok := s.Ratio(PathBrokered, PathLoan); ok {
		t.Error("a ratio to a path that was not measured")
	}
}

func TestReportNamesMachineAndPaths(t *testing.T) {
	spec := Defaults()
	spec.Sizes = []int{4096}
	r := newReport(spec)
	p := &PathResult{times: []int64{30_000, 10_000, 20_000}, RoundP50NS: []int64{20_000}, RoundPerSecond: []float64{1000}}
	p.finish()
	r.Sizes = []SizeResult{{Bytes: 4096, MemcpyP50NS: 150, Paths: map[string]*PathResult{PathBrokered: p, PathLoan: p, PathTCP: p, PathRelay: p}}}
	var out bytes.Buffer
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"cores", "go1.", "4 KiB", "brokered", "tcp", "20", "1.00"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is missing in\n%s", part, out.String())
		}
	}
}
