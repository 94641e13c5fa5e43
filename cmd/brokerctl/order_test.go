package main

import (
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/wire"
)

func TestSourcesFirst(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		want []string
	}{
		"a line backwards": {"nodes:\n  - {id: c, inputs: {x: b/x}}\n  - {id: b, outputs: [x], inputs: {x: a/x}}\n  - {id: a, outputs: [x]}\n", []string{"a", "b", "c"}},
		"a circle":         {"nodes:\n  - {id: a, outputs: [x], inputs: {x: b/x}}\n  - {id: b, outputs: [x], inputs: {x: a/x}}\n", []string{"b", "a"}},
		"itself and time":  {"nodes:\n  - {id: a, outputs: [x], inputs: {x: a/x, t: timer/secs/1}}\n", []string{"a"}},
		"a diamond":        {"nodes:\n  - {id: d, inputs: {x: b/x, y: c/x}}\n  - {id: c, outputs: [x], inputs: {x: a/x}}\n  - {id: b, outputs: [x], inputs: {x: a/x}}\n  - {id: a, outputs: [x]}\n", []string{"a", "b", "c", "d"}},
	} {
		flow, _, err := dataflow.Parse("flow.yml", []byte(c.yaml), dataflow.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := sourcesFirst(flow); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestEachLine(t *testing.T) {
	long := strings.Repeat("x", lineBytesMax+10)
	for text, want := range map[string][]string{
		"":               {},
		"a\nb":           {"a", "b"},
		"a\r\n\nb\n":     {"a", "", "b"},
		long + "\nafter": {long[:lineBytesMax], long[lineBytesMax:], "after"},
	} {
		got := []string{}
		eachLine(strings.NewReader(text), func(line string) { got = append(got, line) })
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%.20q: %d lines, want %d", text, len(got), len(want))
		}
	}
}

func TestEdgesShowTheirPath(t *testing.T) {
	s := &wire.Status{
		UptimeSeconds: 10,
		Edges: []wire.EdgeStatus{
			{From: "a/out", To: "b/in", Policy: "block", QueueSize: 4, Path: "lane", PathReason: "both ends local", Delivered: 1000},
			{From: "a/out", To: "c/in", Policy: "block", QueueSize: 4, Path: "brokered", PathReason: "receiver is remote: it runs in another container", Held: 2, LatencyP50MS: 0.25},
		},
	}
	before := &wire.Status{UptimeSeconds: 5, Edges: []wire.EdgeStatus{s.Edges[0], s.Edges[1]}}
	for _, c := range []struct {
		before  *wire.Status
		verbose bool
		want    []string // fields of the rows, and what follows
	}{
		{nil, false, []string{"a/out→b/in lane block 0/4 - 1,000 0 - -", "a/out→c/in brokered block 0/4 2 0 0 0.25 0",
			"1 edge brokered: receiver is remote: it runs in another container"}},
		{before, true, []string{"a/out→b/in lane block 0/4 - 0 - 0 1,000 0 - -", "a/out→c/in brokered block 0/4 2 0 0 0 0 0 0.25 0",
			"a/out→b/in: lane, both ends local", "a/out→c/in: brokered, receiver is remote: it runs in another container"}},
	} {
		lines := append(edgeTable(s, c.before).lines(false)[1:], pathLines(s, c.verbose)...)
		for i, line := range lines {
			lines[i] = strings.Join(strings.Fields(line), " ")
		}
		if !reflect.DeepEqual(lines, c.want) {
			t.Errorf("verbose %v: %q, want %q", c.verbose, lines, c.want)
		}
	}
}

func TestTableAligns(t *testing.T) {
	out := table{
		head: []cell{text("EDGE"), number("N"), text("WHY")},
		rows: [][]cell{{text("a→b"), number("1"), text("")}, {inked(red, text("longer→name")), number("1,000"), text("x")}},
	}
	want := "EDGE             N  WHY\na→b              1\nlonger→name  1,000  x"
	if got := strings.Join(out.lines(false), "\n"); got != want {
		t.Errorf("\n%s", got)
	}
	for _, line := range out.lines(true)[2:] {
		if !strings.Contains(line, "\x1b[31mlonger→name\x1b[0m  ") || !utf8.ValidString(line) {
			t.Errorf("%q", line)
		}
	}
}

func TestHumanNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 40 << 20: "40.0 MiB", 1 << 40: "1.00 TiB"} {
		if got := cli.Bytes(n); got != want {
			t.Errorf("%d bytes: %s", n, got)
		}
	}
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	for seconds, want := range map[float64]string{0.4: "0s", 59: "59s", 61: "1m01s", 3661: "1h01m", 90000: "1d1h"} {
		if got := span(seconds); got != want {
			t.Errorf("%f s: %s", seconds, got)
		}
	}
}

func TestProgramPath(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "plain"), "")
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
	if got, err := programPath("sh", dir); err != nil || got != sh {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := programPath(sh, dir); err != nil || got != sh {
		t.Errorf("%s, %v", got, err)
	}
	for path, want := range map[string]string{"./plain": "chmod +x", "./none": "does not exist", "../" + filepath.Base(dir): "is a directory"} {
		if _, err := programPath(path, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
