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
	was, is := findNodes(old.Nodes), findNodes(new.Nodes)
	for i := range old.Nodes {
		n := &old.Nodes[i]
		after := is.find(i, n.ID)
		if after == nil {
			c.NodesRemoved = append(c.NodesRemoved, n.ID)
		}
		c.EdgesRemoved = append(c.EdgesRemoved, edgesWithout(n, after)...)
	}
	for i := range new.Nodes {
		n := &new.Nodes[i]
		before := was.find(i, n.ID)
		if before == nil {
			c.NodesAdded = append(c.NodesAdded, n.ID)
		} else if what := nodeChanges(before, n); len(what) > 0 {
			c.NodesChanged = append(c.NodesChanged, NodeChange{ID: n.ID, What: what})
		}
		c.EdgesAdded = append(c.EdgesAdded, edgesWithout(n, before)...)
		c.EdgesChanged = append(c.EdgesChanged, edgesChanged(before, n)...)
	}
	return c
}

// finder finds the elements of a list by their ids. Two versions of a flow are
// mostly the same, so that it looks at the same place first, and makes an index
// when something is elsewhere.
type finder[T any] struct {
	list   []T
	id     func(*T) string
	places map[string]int
}

func findNodes(list []Node) *finder[Node] {
	return &finder[Node]{list: list, id: func(n *Node) string { return n.ID }}
}

func findInputs(list []Input) *finder[Input] {
	return &finder[Input]{list: list, id: func(in *Input) string { return in.ID }}
}

func findOutputs(list []string) *finder[string] {
	return &finder[string]{list: list, id: func(out *string) string { return *out }}
}

// find returns the element of that id, nil if there is none. place is where it
// probably is.
func (f *finder[T]) find(place int, id string) *T {
	if place < len(f.list) && f.id(&f.list[place]) == id {
		return &f.list[place]
	}
	if f.places == nil {
		f.places = make(map[string]int, len(f.list))
		for i := range f.list {
			f.places[f.id(&f.list[i])] = i
		}
	}
	if i, ok := f.places[id]; ok {
		return &f.list[i]
	}
	return nil
}

// sameEdge reports whether two inputs of one id, of two versions of a node, make
// the same edge: the source is the same, however a timer is spelled.
func sameEdge(a, b *Input) bool {
	return a.Source.Node == b.Source.Node && a.Source.Output == b.Source.Output && a.Source.Timer == b.Source.Timer
}

// edgesWithout returns the edges into n that are not in the other version of the
// node. That may be nil.
func edgesWithout(n, other *Node) []Edge {
	var inputs []Input
	if other != nil {
		inputs = other.Inputs
	}
	found := findInputs(inputs)
	var edges []Edge
	for i := range n.Inputs {
		in := &n.Inputs[i]
		if there := found.find(i, in.ID); there == nil || !sameEdge(there, in) {
			edges = append(edges, n.edge(i))
		}
	}
	return edges
}

// edgesChanged returns the edges that are in both versions of a node, with
// other settings. old may be nil.
func edgesChanged(old, new *Node) []EdgeChange {
	if old == nil {
		return nil
	}
	found := findInputs(old.Inputs)
	var changes []EdgeChange
	for i := range new.Inputs {
		in := &new.Inputs[i]
		before := found.find(i, in.ID)
		if before == nil || !sameEdge(before, in) {
			continue
		}
		if what := inputChanges(before, in); len(what) > 0 {
			was := Edge{From: before.Source, Node: old.ID, Input: *before}
			changes = append(changes, EdgeChange{Old: was, New: new.edge(i), What: what})
		}
	}
	return changes
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
	what = append(what, envChanges(old.Env, new.Env)...)
	is := findOutputs(new.Outputs)
	for i, out := range old.Outputs {
		if is.find(i, out) == nil {
			what = append(what, "output "+out+" removed")
		}
	}
	was := findOutputs(old.Outputs)
	for i, out := range new.Outputs {
		if was.find(i, out) == nil {
			what = append(what, "output "+out+" added")
		}
	}
	return what
}

func envChanges(old, new map[string]string) []string {
	if maps.Equal(old, new) {
		return nil
	}
	names := map[string]bool{}
	for name := range old {
		names[name] = true
	}
	for name := range new {
		names[name] = true
	}
	var what []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		before, was := old[name]
		after, is := new[name]
		switch {
		case !was:
			what = append(what, "env "+name+" added")
		case !is:
			what = append(what, "env "+name+" removed")
		case before != after:
			what = append(what, "env "+name+" changed")
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

func inputChanges(old, new *Input) []string {
	var what []string
	if old.QueueSize != new.QueueSize {
		what = append(what, fmt.Sprintf("queue_size %d → %d", old.QueueSize, new.QueueSize))
	}
	if old.Policy != new.Policy {
		what = append(what, fmt.Sprintf("policy %s → %s", old.Policy, new.Policy))
	}
	if old.HoldTimeout != new.HoldTimeout {
		what = append(what, fmt.Sprintf("hold_timeout %s → %s", holdText(*old), holdText(*new)))
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
