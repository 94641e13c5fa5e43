package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// display shows snapshots.
type display interface {
	update(Snapshot)
	close()
}

func (r *runner) newDisplay() display {
	if r.options.Live {
		return newTable(r.options.Out, r.options.Interrupt)
	}
	return &lines{out: r.options.Out}
}

// lines writes one line a second.
type lines struct {
	out  io.Writer
	next time.Duration
}

func (l *lines) update(s Snapshot) {
	if s.Elapsed < l.next {
		return
	}
	if l.next == 0 {
		fmt.Fprintf(l.out, "broker at %s; latencies are p50/p99 of a message's age in its receiver\n", s.Addr)
	}
	l.next = s.Elapsed.Truncate(time.Second) + time.Second
	var b strings.Builder
	fmt.Fprintf(&b, "%5.1fs  verified %d pictures %d pans", s.Elapsed.Seconds(), s.Sink.EdgesVerified, s.Sink.PansVerified)
	if wrong := s.Sink.EdgesWrong + s.Sink.PansWrong + s.Sink.Gaps; wrong > 0 {
		fmt.Fprintf(&b, ", %d WRONG OR MISSING", wrong)
	}
	for _, e := range s.Edges {
		fmt.Fprintf(&b, "  %s %.1f/s %s/%s ms", e.To, e.HZ, milliseconds(e.P50MS), milliseconds(e.P99MS))
		if e.Dropped > 0 {
			fmt.Fprintf(&b, " %d dropped", e.Dropped)
		}
	}
	fmt.Fprintln(l.out, b.String())
}

func (l *lines) close() {}

// milliseconds shows three digits, however large.
func milliseconds(ms float64) string {
	switch {
	case ms <= 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.2f", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}

// writeSummary prints the whole run and the checks, and reports whether one of
// them failed.
func writeSummary(out io.Writer, s Snapshot, checks []Check) (failed bool) {
	fmt.Fprintf(out, "\n%d pictures in %.1f s, as each receiver saw them:\n\n", s.Frames, s.Elapsed.Seconds())
	width := len("edge")
	for _, e := range s.Edges {
		width = max(width, edgeWidth(e))
	}
	// 80 columns with the demo's own names.
	fmt.Fprintf(out, "%s %-11s %8s %5s %5s %6s %6s %7s\n",
		pad("edge", width), "policy", "messages", "Hz", "MB/s", "p50 ms", "p99 ms", "dropped")
	for _, e := range s.Edges {
		fmt.Fprintf(out, "%s %-11s %8d %5.1f %5.1f %6s %6s %7d\n",
			pad(edgeName(e), width), e.Policy, e.Messages, e.HZ, e.MBPerSecond,
			milliseconds(e.P50MS), milliseconds(e.P99MS), e.Dropped)
	}
	fmt.Fprintln(out)
	for _, c := range checks {
		mark := "ok    "
		if !c.OK {
			mark, failed = "FAILED", true
		}
		fmt.Fprintf(out, "%s  %s: %s\n", mark, c.Name, c.Detail)
	}
	fmt.Fprintln(out)
	return failed
}

func edgeName(e EdgeRow) string { return e.From + "→" + e.To }

// edgeWidth counts characters: the arrow has three bytes.
func edgeWidth(e EdgeRow) int { return len(e.From) + 1 + len(e.To) }

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-len([]rune(s))))
}
