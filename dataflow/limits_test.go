package dataflow

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// repeat writes n lines.
func repeat(n int, line func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(line(i))
	}
	return b.String()
}

// TestLimits reads files that are just within and just past each limit. Those
// past it must fail with one message that says which limit it was, before they
// cost more than a large honest file.
func TestLimits(t *testing.T) {
	const head = "nodes:\n  - id: a\n"
	outputs := func(n int) string {
		return head + "    outputs:\n" + repeat(n, func(i int) string { return fmt.Sprintf("      - o%d\n", i) })
	}
	inputs := func(n int) string {
		return head + "    outputs: [o]\n    inputs:\n" + repeat(n, func(i int) string { return fmt.Sprintf("      i%d: a/o\n", i) })
	}
	env := func(n int) string {
		return head + "    env:\n" + repeat(n, func(i int) string { return fmt.Sprintf("      V%d: x\n", i) })
	}
	nodes := func(n int) string {
		return "nodes:\n" + repeat(n, func(i int) string { return fmt.Sprintf("  - id: n%d\n", i) })
	}
	shared := func(n int) string { // each node has the same thousand inputs
		return inputs(InputsMax) + repeat(n, func(i int) string { return fmt.Sprintf("  - id: n%d\n    inputs: *all\n", i) })
	}
	timer := func(rest string) string { return head + "    inputs: {t: timer/" + rest + "}\n" }
	alias := func(s string) string { return strings.Replace(s, "inputs:\n", "inputs: &all\n", 1) }
	tests := []struct {
		name, text, want string
	}{
		{"file", nodes(1) + strings.Repeat("#", FileBytesMax), "longer than 1048576 bytes"},
		{"nodes at the limit", nodes(NodesMax), ""},
		{"nodes", nodes(NodesMax + 1), "more than 1000 nodes"},
		{"outputs at the limit", outputs(OutputsMax), ""},
		{"outputs", outputs(OutputsMax + 1), "more than 1000 outputs of one node"},
		{"inputs at the limit", inputs(InputsMax), ""},
		{"inputs", inputs(InputsMax + 1), "more than 1000 inputs of one node"},
		{"edges at the limit", alias(shared(64)), ""},
		{"edges", alias(shared(65)), "more than 65536 inputs in one file"},
		{"env at the limit", env(EnvMax), ""},
		{"env", env(EnvMax + 1), "more than 256 environment variables"},
		{"args", head + "    args: " + strings.Repeat("x ", ArgsMax+1) + "\n", "more than 1000 args"},
		{"list of args", head + "    args: [" + strings.Repeat("x, ", ArgsMax+1) + "x]\n", "more than 1000 args"},
		{"text", head + "    path: " + strings.Repeat("x", TextBytesMax+1) + "\n", "32769 bytes, 32768 are allowed"},
		{"zeros in front of a timer", timer("millis/" + strings.Repeat("0", 2000) + "100"), "1024 are allowed"},
		{"some zeros in front of a timer", timer("millis/" + strings.Repeat("0", 900) + "100"), "has a zero in front"},
		{"zeros behind a timer", timer("hz/30." + strings.Repeat("0", 900)), "has more than 9 digits"},
		{"timer of nine digits", timer("hz/1.00000001"), ""},
		{"source", head + "    inputs: {i: a/" + strings.Repeat("o", wire.TextBytesMax) + "}\n", "1024 are allowed"},
		{"keys", head + "    env:\n" + repeat(60000, func(i int) string { return fmt.Sprintf("      V%d: x\n", i) }), "more than 1100 keys"},
		{"keys in braces", head + "    env: {" + repeat(60000, func(i int) string { return fmt.Sprintf("V%d: x, ", i) }) + "}\n", "more than 1100 keys"},
		{"long key", strings.Repeat("k", 300) + ":\n" + repeat(100, func(i int) string { return fmt.Sprintf("  k%d: x\n", i) }), "a key of 300 bytes"},
		{"documents", strings.Repeat("---\na\n", 100000), "a second document"},
		{"brackets", "nodes: " + strings.Repeat("[", 1000000), "nested deeper than 24"},
		{"braces", "nodes: " + strings.Repeat("{a: ", 200000), "nested deeper than 24"},
		{"dashes", strings.Repeat("- ", 400000), "nested deeper than 24"},
		{"indentation", repeat(100, func(i int) string { return strings.Repeat(" ", i) + "k:\n" }), "nested deeper than 24"},
		{"aliases", head + "    args: [&x x, " + strings.Repeat("*x, ", 1001) + "]\n", "more than 1000 aliases"},
		{"paths of keys", deepKeys(), "too many long keys"},
		{"empty lines", "a: |\n" + strings.Repeat(" \n", 400000), "more than 100 empty lines"},
		{"run of <", "a: " + strings.Repeat("<", 1000000), "100 characters < in a row"},
		{"tabs in quotes", "a: \"" + strings.Repeat("x\t", 400000), "more than 1000 tabs"},
		{"values left out", "nodes:\n" + strings.Repeat("-\n", 500000), "more than 4096 values left out"},
		{"keys without colon", head + "    env: {" + strings.Repeat("b,", 400000), "more than 1100 keys"},
		{"dashes in brackets", "a: [" + strings.Repeat("- ", 400000), "'- ' inside of brackets"},
		{"ends of documents", strings.Repeat("...\n", 200000), "the end of a document"},
		{"anchors", head + "    args: [" + repeat(1001, func(i int) string { return fmt.Sprintf("&a%d x, ", i) }) + "]\n", "more than 1000 anchors"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			flow, _, err := Parse("big.yml", []byte(tt.text), Options{})
			if tt.want == "" {
				if err != nil || flow == nil {
					t.Fatalf("flow %v, error %.300v", flow != nil, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %.300v, want %q", err, tt.want)
			}
		})
	}
}

// TestTextsFitTheWire: the longest texts that a file may have can be sent to a node.
func TestTextsFitTheWire(t *testing.T) {
	long := strings.Repeat("x", IDBytesMax)
	flow := mustParse(t, "name: "+long+"\nnodes:\n  - id: "+long+"\n    outputs: ["+long+"]\n    inputs: {"+long+": "+long+"/"+long+
		", t: dora/timer/hz/+1.0000000e-0, u: dora/timer/millis/86400000}\n")
	ports := &wire.Ports{Outputs: []wire.OutputPort{{ID: flow.Nodes[0].Outputs[0]}}}
	for _, in := range flow.Nodes[0].Inputs {
		ports.Inputs = append(ports.Inputs, wire.InputPort{ID: in.ID, Source: in.Source.Text})
	}
	wire.NewEncoder().Append(nil, ports) // panics at texts that are too long
}

// deepKeys has few keys that are long and deep, and many values below them.
func deepKeys() string {
	var b strings.Builder
	for i := range 20 {
		b.WriteString(strings.Repeat(" ", i) + strings.Repeat("k", keyBytesMax) + ":\n")
	}
	b.WriteString(strings.Repeat(" ", 20) + "list: [" + strings.Repeat("x,", 200000) + "]\n")
	return b.String()
}

// TestManyProblems: the list is bounded, the rest are counted.
func TestManyProblems(t *testing.T) {
	text := "nodes:\n" + repeat(NodesMax, func(i int) string {
		return fmt.Sprintf("  - id: n%d\n    inputs: {a: x%d/y, b: x%d/z}\n", i, i, i)
	})
	_, _, err := Parse("many.yml", []byte(text), Options{})
	var all *Errors
	if !errors.As(err, &all) {
		t.Fatal(err)
	}
	if len(all.List) != ProblemsMax || all.More != 2*NodesMax-ProblemsMax {
		t.Errorf("%d listed, %d more", len(all.List), all.More)
	}
	if !strings.HasSuffix(err.Error(), "and 1900 more") {
		t.Errorf("the text ends with %q", err.Error()[len(err.Error())-40:])
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "my flow.yaml")
	if err := os.WriteFile(path, []byte("nodes: [{id: a}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	flow, warnings, err := Load(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if flow.File != path || flow.Name != "my-flow" || len(warnings) != 1 {
		t.Errorf("file %q, name %q, warnings %v", flow.File, flow.Name, warnings)
	}
	if _, _, err := Load(filepath.Join(dir, "none.yml"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want one that wraps fs.ErrNotExist", err)
	}
	if _, _, err := Load(dir, Options{}); err == nil {
		t.Error("a folder was read")
	}
}

func TestNameOfFile(t *testing.T) {
	for file, want := range map[string]string{
		"a/b/camera.yml":                  "camera",
		"camera.yaml":                     "camera",
		"-x.yml":                          "x",
		"größe 1.yml":                     "gr--e-1",
		"":                                "dataflow",
		".yml":                            "dataflow",
		"/":                               "dataflow",
		strings.Repeat("n", 200) + ".yml": strings.Repeat("n", 128),
	} {
		if got := nameOfFile(file); got != want {
			t.Errorf("nameOfFile(%q) = %q, want %q", file, got, want)
		}
	}
}
