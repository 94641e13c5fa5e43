package dataflow

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func mustParse(t *testing.T, text string) *Flow {
	t.Helper()
	f, _, err := Parse("test.yml", []byte(text), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const before = `
nodes:
  - id: camera
    path: ./camera
    args: --fps 30
    env: { WIDTH: 640, OLD: x, TOKEN: secret-one }
    outputs: [image, depth]
    inputs: { tick: timer/millis/100 }
  - id: edges
    inputs: { frame: camera/image, depth: camera/depth }
    outputs: [edges]
  - id: gone
    inputs: { edges: edges/edges }
`

const after = `
nodes:
  - id: edges
    outputs: [edges]
    inputs:
      depth: camera/image
      frame: { source: camera/image, queue_size: 1, policy: block, hold_timeout: never }
  - id: camera
    path: dynamic
    args: [--fps, "60"]
    env: { WIDTH: 640, NEW: y, TOKEN: secret-two }
    outputs: [mask, image]
    inputs: { tick: dora/timer/hz/10 }
  - id: added
    inputs: { mask: { source: camera/mask, queue_size: 3 } }
`

func TestDiff(t *testing.T) {
	c := Diff(mustParse(t, before), mustParse(t, after))
	want := []string{
		"node gone removed",
		"node added added",
		"node camera changed: path ./camera → dynamic, args, env NEW added, env OLD removed, env TOKEN changed, output depth removed, output mask added",
		"edge camera/depth→edges/depth removed",
		"edge edges/edges→gone/edges removed",
		"edge camera/image→edges/depth added",
		"edge camera/mask→added/mask added (queue_size: 3)",
		"edge camera/image→edges/frame changed: queue_size 10 → 1, policy drop-oldest → block, hold_timeout 10s → never",
	}
	if got := c.Strings(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if c.Empty() || strings.Contains(c.String(), "secret") {
		t.Errorf("Empty %v, String %q", c.Empty(), c.String())
	}
}

func TestDiffOfNothing(t *testing.T) {
	f := mustParse(t, before)
	if c := Diff(f, f); !c.Empty() || c.String() != "no changes" {
		t.Errorf("a flow differs from itself: %s", c)
	}
	if c := Diff(nil, nil); !c.Empty() {
		t.Errorf("nothing differs from nothing: %s", c)
	}
	if c := Diff(nil, f); len(c.NodesAdded) != 3 || len(c.EdgesAdded) != 4 || len(c.NodesRemoved)+len(c.EdgesRemoved) != 0 {
		t.Errorf("from nothing: %s", c)
	}
	if c := Diff(f, nil); len(c.NodesRemoved) != 3 || len(c.EdgesRemoved) != 4 || len(c.NodesAdded)+len(c.EdgesAdded) != 0 {
		t.Errorf("to nothing: %s", c)
	}
}

// TestDiffMirrored: what one direction adds the other removes, and taking the
// changes into account explains every node and edge.
func TestDiffMirrored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genFlow().Draw(t, "a"), genFlow().Draw(t, "b")
		there, back := Diff(a, b), Diff(b, a)
		if !slices.Equal(there.NodesAdded, back.NodesRemoved) || !slices.Equal(there.NodesRemoved, back.NodesAdded) ||
			!slices.Equal(there.EdgesAdded, back.EdgesRemoved) || !slices.Equal(there.EdgesRemoved, back.EdgesAdded) ||
			len(there.NodesChanged) != len(back.NodesChanged) || len(there.EdgesChanged) != len(back.EdgesChanged) {
			t.Fatalf("there %s\nback %s", there, back)
		}
		if len(a.Nodes)-len(there.NodesRemoved)+len(there.NodesAdded) != len(b.Nodes) ||
			len(a.Edges())-len(there.EdgesRemoved)+len(there.EdgesAdded) != len(b.Edges()) {
			t.Fatalf("counts do not add up: %s", there)
		}
	})
}

// TestDiffOfManyEdges: the work grows with the flow, not with its square, also
// when everything has moved. With a search in place of an index it would take
// minutes.
func TestDiffOfManyEdges(t *testing.T) {
	const many = 100_000
	old := &Flow{Nodes: []Node{{ID: "a"}}}
	for i := range many {
		id := strconv.Itoa(i)
		old.Nodes[0].Outputs = append(old.Nodes[0].Outputs, id)
		old.Nodes[0].Inputs = append(old.Nodes[0].Inputs, Input{ID: id, Source: Source{Node: "a", Output: id}})
		old.Nodes = append(old.Nodes, Node{ID: id})
	}
	turned := &Flow{Nodes: []Node{{ID: "a", Outputs: slices.Clone(old.Nodes[0].Outputs), Inputs: slices.Clone(old.Nodes[0].Inputs)}}}
	slices.Reverse(turned.Nodes[0].Outputs)
	slices.Reverse(turned.Nodes[0].Inputs)
	turned.Nodes = append(turned.Nodes, old.Nodes[1:]...)
	slices.Reverse(turned.Nodes)
	start := time.Now()
	if c := Diff(old, turned); !c.Empty() {
		t.Errorf("%d changes", len(c.Strings()))
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	// What has not moved needs no index at all.
	if n := testing.AllocsPerRun(3, func() { Diff(old, old) }); n > 20 {
		t.Errorf("%v allocations for two equal flows", n)
	}
}

func TestLookups(t *testing.T) {
	f := mustParse(t, before)
	n, ok := f.Node("edges")
	if !ok || n != &f.Nodes[1] || !n.Dynamic() || !n.HasOutput("edges") || n.HasOutput("image") {
		t.Fatalf("node %+v, %v", n, ok)
	}
	in, ok := n.Input("depth")
	if !ok || in != &n.Inputs[1] || in.Source.String() != "camera/depth" {
		t.Errorf("input %+v, %v", in, ok)
	}
	if _, ok := n.Input("none"); ok {
		t.Error("an input that is not there was found")
	}
	if _, ok := f.Node("none"); ok {
		t.Error("a node that is not there was found")
	}
	camera, _ := f.Node("camera")
	if got := camera.Environ(); !slices.Equal(got, []string{"OLD=x", "TOKEN=secret-one", "WIDTH=640"}) {
		t.Errorf("Environ %q", got)
	}
	if e := f.Edges()[1]; e.String() != "camera/image→edges/frame" || e.To() != "edges/frame" {
		t.Errorf("edge %s to %s", e, e.To())
	}
}

// TestGraphEscapes: a flow made by a program may have any text in it.
func TestGraphEscapes(t *testing.T) {
	f := &Flow{Name: "a\"b", Nodes: []Node{{ID: "x\"y<z>#&\n\\"}}}
	if got := Mermaid(f); !strings.Contains(got, `n0["x#quot;y#lt;z#gt;#35;#amp; \"]`) {
		t.Error(got)
	}
	if got := DOT(f); !strings.Contains(got, `digraph "a\"b" {`) || !strings.Contains(got, `"x\"y<z>#&\n\\";`) {
		t.Error(got)
	}
}
