package dataflow

import (
	"slices"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// Limits of a dataflow file. They keep a hostile or mistaken file from costing
// more memory than a large honest one.
const (
	FileBytesMax   = 1 << 20 // the whole file
	NodesMax       = 1000    // a file
	OutputsMax     = 1000    // a node
	InputsMax      = 1000    // a node
	EdgesMax       = 65536   // a file: all inputs; the same for all outputs
	ArgsMax        = 1000    // a node
	EnvMax         = 256     // a node, and what the whole file gives to each
	TextBytesMax   = 32768   // one path, argument or environment value
	IDBytesMax     = 128     // a node, output, input or dataflow id
	QueueSizeMin   = 1       // messages
	QueueSizeMax   = 65536   // messages
	TimerMin       = time.Millisecond
	TimerMax       = 24 * time.Hour
	HoldTimeoutMax = 24 * time.Hour
)

// Defaults of an input.
const (
	QueueSizeDefault   = 10 // messages; what dora uses
	PolicyDefault      = wire.PolicyDropOldest
	HoldTimeoutDefault = 10 * time.Second
)

// Flow is one dataflow.
type Flow struct {
	// Name is what nodes say at the handshake. From the key name, else the
	// file's base name without its extension.
	Name string
	// File is where the flow was read from, as the caller spelled it.
	File string
	// Nodes in the order of the file.
	Nodes []Node
}

// Node is one process of a dataflow.
type Node struct {
	ID string
	// Path is the program to start, as written. Empty: somebody else starts
	// the node (no path given, or path: dynamic).
	Path string
	Args []string
	// Env holds the node's own variables and those of the whole file.
	Env     map[string]string
	Outputs []string // in the order of the file
	Inputs  []Input  // in the order of the file
}

// Input is one input of a node; with its source it makes an edge.
type Input struct {
	ID        string
	Source    Source
	QueueSize int // messages that may wait; QueueSizeMin to QueueSizeMax
	Policy    wire.Policy
	// HoldTimeout is how long a message may be held by this input before the
	// broker takes its slot out of use. 0: for ever.
	HoldTimeout time.Duration
}

// Source is where an input's messages come from: an output of a node, or a
// timer of the broker.
type Source struct {
	Node, Output string        // empty for a timer
	Timer        time.Duration // the period; > 0 for a timer
	Text         string        // as written in the file: camera/image, dora/timer/hz/30
}

// IsTimer reports whether the broker itself produces the messages.
func (s Source) IsTimer() bool { return s.Timer > 0 }

// String returns the source as written in the file.
func (s Source) String() string { return s.Text }

// Edge is one output (or timer) to one input.
type Edge struct {
	From  Source
	Node  string // the receiving node
	Input Input
}

// To returns the receiving end as node/input.
func (e Edge) To() string { return e.Node + "/" + e.Input.ID }

// String returns the edge in the form that logs use: camera/image→edges/frame.
func (e Edge) String() string { return e.From.Text + "→" + e.To() }

// Node returns the node of that id. The pointer is into the flow.
func (f *Flow) Node(id string) (*Node, bool) {
	for i := range f.Nodes {
		if f.Nodes[i].ID == id {
			return &f.Nodes[i], true
		}
	}
	return nil, false
}

// Edges returns every edge, in the order of the file.
func (f *Flow) Edges() []Edge {
	count := 0
	for i := range f.Nodes {
		count += len(f.Nodes[i].Inputs)
	}
	edges := make([]Edge, 0, count)
	for i := range f.Nodes {
		for k := range f.Nodes[i].Inputs {
			edges = append(edges, f.Nodes[i].edge(k))
		}
	}
	return edges
}

// edge is the one into input number i.
func (n *Node) edge(i int) Edge {
	return Edge{From: n.Inputs[i].Source, Node: n.ID, Input: n.Inputs[i]}
}

// Input returns the input of that id. The pointer is into the node.
func (n *Node) Input(id string) (*Input, bool) {
	for i := range n.Inputs {
		if n.Inputs[i].ID == id {
			return &n.Inputs[i], true
		}
	}
	return nil, false
}

// HasOutput reports whether the node declares that output.
func (n *Node) HasOutput(id string) bool { return slices.Contains(n.Outputs, id) }

// Dynamic reports whether somebody else than the runner starts this node.
func (n *Node) Dynamic() bool { return n.Path == "" }

// Environ returns Env as NAME=value, sorted, for exec.Cmd.
func (n *Node) Environ() []string {
	env := make([]string, 0, len(n.Env))
	for name, value := range n.Env {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}
