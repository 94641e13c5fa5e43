package dataflow

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Changes is what differs between two versions of a dataflow. The lists are in
// the order of the new version, those of removed things in the order of the old.
type Changes struct {
	NodesAdded, NodesRemoved []string // ids
	NodesChanged             []NodeChange
	EdgesAdded, EdgesRemoved []Edge
	EdgesChanged             []EdgeChange
}

// NodeChange tells what differs in a node that is in both versions. Its inputs
// are edges and not part of it.
type NodeChange struct {
	ID   string
	What []string // e.g. "output mask added", "path ./a → ./b"
}

// String is one line for a log.
func (c NodeChange) String() string {
	return "node " + c.ID + " changed: " + strings.Join(c.What, ", ")
}

// EdgeChange is an edge (same source, same input) whose settings differ. An
// input that gets another source is one edge removed and one added.
type EdgeChange struct {
	Old, New Edge
	What     []string // e.g. "queue_size 10 → 1"
}

// String is one line for a log.
func (c EdgeChange) String() string {
	return "edge " + c.New.String() + " changed: " + strings.Join(c.What, ", ")
}

// Diff compares two versions of a dataflow. Either may be nil: an empty flow.
// The order of nodes, outputs and inputs does not count, and neither do the
// names of flow and file.
func Diff(old, new *Flow) Changes {
	if old == nil {
		old = &Flow{}
	}
	if new == nil {
		new = &Flow{}
	}
	var c Changes
	was, is := nodesByID(old), nodesByID(new)
	for i := range old.Nodes {
		if is[old.Nodes[i].ID] == nil {
			c.NodesRemoved = append(c.NodesRemoved, old.Nodes[i].ID)
		}
	}
	for i := range new.Nodes {
		n := &new.Nodes[i]
		before := was[n.ID]
		if before == nil {
			c.NodesAdded = append(c.NodesAdded, n.ID)
		} else if what := nodeChanges(before, n); len(what) > 0 {
			c.NodesChanged = append(c.NodesChanged, NodeChange{ID: n.ID, What: what})
		}
	}
	c.diffEdges(old, new)
	return c
}

func nodesByID(f *Flow) map[string]*Node {
	nodes := make(map[string]*Node, len(f.Nodes))
	for i := range f.Nodes {
		nodes[f.Nodes[i].ID] = &f.Nodes[i]
	}
	return nodes
}

func (c *Changes) diffEdges(old, new *Flow) {
	was, is := edgesByEnds(old), edgesByEnds(new)
	for _, e := range old.Edges() {
		if _, ok := is[endsOf(e)]; !ok {
			c.EdgesRemoved = append(c.EdgesRemoved, e)
		}
	}
	for _, e := range new.Edges() {
		before, ok := was[endsOf(e)]
		if !ok {
			c.EdgesAdded = append(c.EdgesAdded, e)
		} else if what := inputChanges(before.Input, e.Input); len(what) > 0 {
			c.EdgesChanged = append(c.EdgesChanged, EdgeChange{Old: before, New: e, What: what})
		}
	}
}

// ends is what makes an edge the same edge: source and input, however a timer
// is spelled.
type ends struct {
	source      Source // without Text
	node, input string
}

func endsOf(e Edge) ends {
	source := e.From
	source.Text = ""
	return ends{source: source, node: e.Node, input: e.Input.ID}
}

func edgesByEnds(f *Flow) map[ends]Edge {
	edges := map[ends]Edge{}
	for _, e := range f.Edges() {
		edges[endsOf(e)] = e
	}
	return edges
}

// nodeChanges lists what differs. Values of variables and arguments may be
// secret, so that they are not shown.
func nodeChanges(old, new *Node) []string {
	var what []string
	if old.Path != new.Path {
		what = append(what, fmt.Sprintf("path %s → %s", pathText(old), pathText(new)))
	}
	if !slices.Equal(old.Args, new.Args) {
		what = append(what, "args")
	}
	names := map[string]bool{}
	for name := range old.Env {
		names[name] = true
	}
	for name := range new.Env {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		before, was := old.Env[name]
		after, is := new.Env[name]
		switch {
		case !was:
			what = append(what, "env "+name+" added")
		case !is:
			what = append(what, "env "+name+" removed")
		case before != after:
			what = append(what, "env "+name+" changed")
		}
	}
	for _, out := range old.Outputs {
		if !new.HasOutput(out) {
			what = append(what, "output "+out+" removed")
		}
	}
	for _, out := range new.Outputs {
		if !old.HasOutput(out) {
			what = append(what, "output "+out+" added")
		}
	}
	return what
}

func pathText(n *Node) string {
	if n.Dynamic() {
		return "dynamic"
	}
	return n.Path
}

func inputChanges(old, new Input) []string {
	var what []string
	if old.QueueSize != new.QueueSize {
		what = append(what, fmt.Sprintf("queue_size %d → %d", old.QueueSize, new.QueueSize))
	}
	if old.Policy != new.Policy {
		what = append(what, fmt.Sprintf("policy %s → %s", old.Policy, new.Policy))
	}
	if old.HoldTimeout != new.HoldTimeout {
		what = append(what, fmt.Sprintf("hold_timeout %s → %s", holdText(old), holdText(new)))
	}
	return what
}

// Empty reports whether nothing differs.
func (c Changes) Empty() bool {
	return len(c.NodesAdded)+len(c.NodesRemoved)+len(c.NodesChanged)+
		len(c.EdgesAdded)+len(c.EdgesRemoved)+len(c.EdgesChanged) == 0
}

// Strings returns one line a change, for logs.
func (c Changes) Strings() []string {
	var lines []string
	for _, id := range c.NodesRemoved {
		lines = append(lines, "node "+id+" removed")
	}
	for _, id := range c.NodesAdded {
		lines = append(lines, "node "+id+" added")
	}
	for _, n := range c.NodesChanged {
		lines = append(lines, n.String())
	}
	for _, e := range c.EdgesRemoved {
		lines = append(lines, "edge "+e.String()+" removed")
	}
	for _, e := range c.EdgesAdded {
		line := "edge " + e.String() + " added"
		if settings := inputSettings(e.Input); len(settings) > 0 {
			line += " (" + strings.Join(settings, ", ") + ")"
		}
		lines = append(lines, line)
	}
	for _, e := range c.EdgesChanged {
		lines = append(lines, e.String())
	}
	return lines
}

// String returns all changes in one line.
func (c Changes) String() string {
	if c.Empty() {
		return "no changes"
	}
	return strings.Join(c.Strings(), "; ")
}
