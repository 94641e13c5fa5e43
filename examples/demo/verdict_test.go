package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// goodRun is what is known after a run in which all went well.
func goodRun() *watch {
	w := newWatch()
	input := func(id string, n, bytes uint64) InputReport {
		return InputReport{Input: id, TotalReceived: n, TotalBytes: bytes, TotalP50MS: 0.25, TotalP99MS: 12.5}
	}
	for _, r := range []Report{
		{Node: "camera", Published: 100, Inputs: []InputReport{input("tick", 100, 0)}},
		{Node: "edges", Published: 100, Inputs: []InputReport{input("frame", 100, 1e8)}},
		{Node: "motion", Published: 99, Inputs: []InputReport{input("frame", 100, 1e8)}},
		{Node: "slow", Inputs: []InputReport{input("frame", 60, 6e7)}},
		{Node: "sink", Inputs: []InputReport{input("edges", 100, 3e7), input("pan", 99, 800)},
			Sink: &SinkReport{EdgesVerified: 100, PansVerified: 99, Cuts: 1}},
	} {
		r.Final = true
		w.report(r)
	}
	edge := func(from, to, policy string, published, dropped uint64) wire.EdgeStatus {
		e := wire.EdgeStatus{Dataflow: "demo", From: from, To: to, Policy: policy, QueueSize: 4,
			Published: published, Delivered: published - dropped, Dropped: dropped}
		if dropped > 0 {
			e.Drops = map[string]uint64{"queue_full": dropped}
		}
		return e
	}
	w.update("demo", wire.Status{Edges: []wire.EdgeStatus{
		edge("timer/hz/30", "camera/tick", "drop-newest", 100, 0),
		edge("camera/image", "edges/frame", "block", 100, 0),
		edge("camera/image", "motion/frame", "block", 100, 0),
		edge("edges/image", "sink/edges", "block", 100, 0),
		edge("motion/pan", "sink/pan", "block", 99, 0),
		edge("camera/image", "slow/frame", "drop-oldest", 100, 40),
		{Dataflow: "another", From: "a/b", To: "c/d", Policy: "block", Dropped: 7},
	}})
	w.dropped(wire.DropRecord{From: "camera/image", To: "slow/frame", Count: 1})
	w.dropped(wire.DropRecord{From: "camera/image", To: "slow/frame", Count: 39})
	return w
}

func TestVerdict(t *testing.T) {
	const results, block, log, ends = 0, 1, 2, 3
	for name, test := range map[string]struct {
		change func(w *watch)
		fails  []int
		text   string // in the first failed check
	}{
		"all well":          {change: func(*watch) {}},
		"a wrong picture":   {func(w *watch) { w.reports["sink"].Sink.EdgesWrong = 1 }, []int{results}, "1 and 0 wrong"},
		"a wrong pan":       {func(w *watch) { w.reports["sink"].Sink.PansWrong = 2 }, []int{results}, "0 and 2 wrong"},
		"no picture at all": {func(w *watch) { w.reports["sink"].Sink.EdgesVerified = 0 }, []int{results}, "0 edge pictures"},
		"a gap":             {func(w *watch) { w.reports["sink"].Sink.Gaps = 3 }, []int{block}, "misses 3"},
		"a drop on a block edge": {func(w *watch) {
			w.status.Edges[1].Dropped = 1
			w.status.Edges[1].Drops = map[string]uint64{"queue_full": 1}
			w.logged[edge{"camera/image", "edges/frame"}] = 1
		}, []int{block}, "1 dropped"},
		"sent into the void": {func(w *watch) { w.status.Edges[3].NoReceiver = 1 }, []int{block}, "1 without receiver"},
		"received less than sent": {func(w *watch) { w.reports["motion"].Inputs[0].TotalReceived = 99 },
			[]int{block}, "100 sent, 99 received"},
		"published unseen by the broker": {func(w *watch) { w.status.Edges[4].Published = 98 }, []int{block}, "98 published"},
		"a drop that was not logged":     {func(w *watch) { w.status.Edges[5].Dropped = 41; w.status.Edges[5].Drops["queue_full"] = 41 }, []int{log}, "41 counted, 41 by reason, 40 logged"},
		"a drop that was not counted": {func(w *watch) { w.dropped(wire.DropRecord{From: "camera/image", To: "slow/frame", Count: 1}) },
			[]int{log}, "40 counted, 40 by reason, 41 logged"},
		"a drop without a reason": {func(w *watch) { w.status.Edges[5].Drops["queue_full"] = 39 }, []int{log}, "39 by reason"},
		"errors that cancel out": {func(w *watch) {
			w.logged[edge{"camera/image", "slow/frame"}] = 39
			w.logged[edge{"timer/hz/30", "camera/tick"}] = 1
		}, []int{log}, "39 logged"},
		"a log of an unknown edge": {func(w *watch) { w.logged[edge{"x/y", "z/z"}] = 1 }, []int{log}, "unknown"},
		"a node that crashed": {func(w *watch) {
			r := w.reports["slow"]
			r.Final = false
			w.reports["slow"] = r
		}, []int{ends}, "not so: slow"},
		"nothing": {func(w *watch) { *w = *newWatch() }, []int{results, block, log, ends}, "0 edge pictures"},
	} {
		t.Run(name, func(t *testing.T) {
			w := goodRun()
			test.change(w)
			checks := w.verdict()
			failed := make(map[int]bool)
			for _, i := range test.fails {
				failed[i] = true
			}
			for i, c := range checks {
				if c.OK == failed[i] {
					t.Errorf("%s: ok %v: %s", c.Name, c.OK, c.Detail)
				}
			}
			if len(test.fails) > 0 && !strings.Contains(checks[test.fails[0]].Detail, test.text) {
				t.Errorf("%q lacks %q", checks[test.fails[0]].Detail, test.text)
			}
		})
	}
}

func TestCopies(t *testing.T) {
	w := goodRun()
	if c := w.checkCopies(); !c.OK {
		t.Errorf("%+v", c)
	}
	w.status.Counters.PayloadCopyBytes = 1
	if c := w.checkCopies(); c.OK || !strings.Contains(c.Detail, "1 bytes copied") {
		t.Errorf("%+v", c)
	}
	w.update("demo", wire.Status{
		Nodes:    []wire.NodeStatus{{Dataflow: "demo", Node: "slow", Connected: true, LocalReason: "far away"}},
		Counters: wire.Counters{PayloadCopyBytes: 1},
	})
	if c := w.checkCopies(); !c.OK || !strings.Contains(c.Detail, "1 of 5 nodes") || !strings.Contains(c.Detail, "far away") {
		t.Errorf("%+v", c)
	}
}

func TestSettled(t *testing.T) {
	w := goodRun()
	if !w.settled() {
		t.Error("a log that has told everything is not settled")
	}
	w.status.Edges[5].Dropped++
	if w.settled() {
		t.Error("a log that is behind is settled")
	}
}

const wantSummary = `
100 pictures in 4.0 s, as each receiver saw them:

edge                      policy      messages    Hz  MB/s p50 ms p99 ms dropped
timer/hz/30→camera/tick   drop-newest      100  25.0   0.0   0.25   12.5       0
camera/image→edges/frame  block            100  25.0  25.0   0.25   12.5       0
camera/image→motion/frame block            100  25.0  25.0   0.25   12.5       0
edges/image→sink/edges    block            100  25.0   7.5   0.25   12.5       0
motion/pan→sink/pan       block             99  24.8   0.0   0.25   12.5       0
camera/image→slow/frame   drop-oldest       60  15.0  15.0   0.25   12.5      40

ok      every result verified: 100 edge pictures and 99 pans (1 cuts) are right, 0 and 0 wrong
ok      no message lost on a block edge: 399 messages on 4 edges, sent = published = delivered = received
ok      every drop logged: 40 counted, 40 logged, equal on each of 6 edges
ok      every node ended in good order: camera, edges, motion, sink, slow

`

func TestSummary(t *testing.T) {
	w := goodRun()
	var out bytes.Buffer
	if writeSummary(&out, w.snapshot(4*time.Second, "", true), w.verdict()) {
		t.Error("a good run failed")
	}
	if out.String() != wantSummary {
		t.Errorf("got\n%s\nwant\n%s", out.String(), wantSummary)
	}
	w.reports["sink"].Sink.EdgesWrong = 1
	out.Reset()
	if !writeSummary(&out, w.snapshot(4*time.Second, "", true), w.verdict()) || !strings.Contains(out.String(), "FAILED  every result verified") {
		t.Errorf("a bad run passed:\n%s", out.String())
	}
}

func TestLinesAreOneASecond(t *testing.T) {
	var out bytes.Buffer
	l := &lines{out: &out}
	snapshot := goodRun().snapshot(0, "running", false)
	for tenths := range 31 {
		snapshot.Elapsed = time.Duration(tenths) * 100 * time.Millisecond
		l.update(snapshot)
	}
	if n := strings.Count(out.String(), "verified 100 pictures"); n != 4 {
		t.Errorf("%d lines in 3 s:\n%s", n, out.String())
	}
	if !strings.Contains(out.String(), "slow/frame 0.0/s -/- ms 40 dropped") {
		t.Errorf("no drops shown:\n%s", out.String())
	}
}

func TestTable(t *testing.T) {
	interrupts := 0
	m := &tableModel{interrupt: func() { interrupts++ }, width: 100}
	m.Update(goodRun().snapshot(1500*time.Millisecond, "running", true))
	text := m.View().Content
	for _, want := range []string{"1.5 s", "100 pictures and 99 pans verified", "camera/image→slow/frame", "40", "dropped"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	m.width = 60
	for line := range strings.Lines(m.table()) {
		if n := len([]rune(stripStyles(line))); n > 61 { // and the line's end
			t.Errorf("%d columns on a terminal of 60: %q", n, line)
		}
	}
	m.Update(tableOver{})
	if m.View().Content != "" {
		t.Error("the table stays")
	}
}

// stripStyles removes escape sequences of colours.
func stripStyles(s string) string {
	var b strings.Builder
	escape := false
	for _, r := range s {
		switch {
		case r == 0x1b:
			escape = true
		case escape:
			escape = r != 'm'
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func TestFlowNamed(t *testing.T) {
	if got := flowNamed("demo-7"); !strings.Contains(got, "\nname: demo-7\n") || strings.Contains(got, "\nname: demo\n") {
		t.Error(got)
	}
}
