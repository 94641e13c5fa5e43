package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	flowName = "soak"
	kib      = 1 << 10
	mib      = 1 << 20
	// sizeMin has room for a payload's stamp.
	sizeMin = 64
)

// role is what a node does beside sending and receiving.
type role uint8

const (
	roleWorker  role = iota
	roleVeteran      // is never killed: what leaks in it shows
	roleSlow         // takes a while for each message
	roleFrozen       // is stopped for long, and holds messages meanwhile
	roleHoarder      // holds many messages, for long
)

// nodeSpec is one node of the dataflow.
type nodeSpec struct {
	id      string
	role    role
	environ string // variables of its own
	outputs []outputSpec
	inputs  []inputSpec
}

// outputSpec is an output and what is sent on it.
type outputSpec struct {
	id       string
	min, max int // bytes of a payload; their logarithms are spread evenly
	rate     int // messages a second
}

// inputSpec is an input.
type inputSpec struct {
	id, source string
	policy     string
	queue      int
}

// holdTimeout is that of all inputs: short, so that it runs out often.
const holdTimeout = time.Second

// nodes are the twelve of the soak. Two send and receive through the broker only,
// one has no shared memory at all, as if it were on another machine.
var nodes = []nodeSpec{
	{id: "camera", outputs: []outputSpec{{"frames", 64 * kib, 8 * mib, 8}, {"ticks", sizeMin, 4 * kib, 300}}},
	{id: "lidar", role: roleVeteran, outputs: []outputSpec{{"scans", sizeMin, mib, 60}}},
	{id: "radar", environ: "BROKERD_NO_LANES=1", outputs: []outputSpec{{"echoes", sizeMin, 256 * kib, 60}}},
	{
		id: "detect", outputs: []outputSpec{{"boxes", sizeMin, 64 * kib, 150}},
		inputs: []inputSpec{{"frames", "camera/frames", "drop-oldest", 2}},
	},
	{
		id: "plan", outputs: []outputSpec{{"plans", sizeMin, 512, 300}},
		inputs: []inputSpec{{"boxes", "detect/boxes", "block", 8}, {"scans", "lidar/scans", "block", 16}},
	},
	{
		id: "logger", role: roleVeteran,
		inputs: []inputSpec{
			{"frames", "camera/frames", "drop-oldest", 4}, {"ticks", "camera/ticks", "drop-oldest", 64},
			{"scans", "lidar/scans", "drop-oldest", 16}, {"echoes", "radar/echoes", "drop-oldest", 16},
			{"boxes", "detect/boxes", "drop-oldest", 16}, {"plans", "plan/plans", "drop-oldest", 64},
			{"notes", "far/notes", "drop-oldest", 16},
		},
	},
	{
		id: "slow", role: roleSlow,
		inputs: []inputSpec{{"scans", "lidar/scans", "drop-oldest", 4}, {"ticks", "camera/ticks", "drop-newest", 8}, {"echoes", "radar/echoes", "drop-oldest", 4}},
	},
	{
		id: "frozen", role: roleFrozen,
		inputs: []inputSpec{{"frames", "camera/frames", "drop-oldest", 2}, {"ticks", "camera/ticks", "drop-oldest", 16}, {"echoes", "radar/echoes", "drop-oldest", 8}},
	},
	{
		id: "hoard", role: roleHoarder,
		inputs: []inputSpec{{"frames", "camera/frames", "drop-oldest", 4}, {"scans", "lidar/scans", "drop-newest", 8}, {"echoes", "radar/echoes", "drop-oldest", 8}},
	},
	{
		id: "old", environ: "BROKERD_NO_LANES=1",
		inputs: []inputSpec{{"scans", "lidar/scans", "block", 32}, {"echoes", "radar/echoes", "block", 8}, {"plans", "plan/plans", "drop-oldest", 4}},
	},
	{
		id: "far", environ: "BROKERD_NO_SHM=1", outputs: []outputSpec{{"notes", sizeMin, 256 * kib, 30}},
		inputs: []inputSpec{{"frames", "camera/frames", "drop-oldest", 2}, {"boxes", "detect/boxes", "drop-newest", 16}, {"plans", "plan/plans", "block", 16}},
	},
	{
		id:     "hub",
		inputs: []inputSpec{{"notes", "far/notes", "block", 8}, {"ticks", "camera/ticks", "block", 64}, {"plans", "plan/plans", "drop-newest", 2}},
	},
}

func specOf(id string) (*nodeSpec, error) {
	for i := range nodes {
		if nodes[i].id == id {
			return &nodes[i], nil
		}
	}
	return nil, fmt.Errorf("the soak has no node %q", id)
}

// flowText is the dataflow as brokerd reads it.
func flowText() string {
	var b strings.Builder
	b.WriteString("nodes:\n")
	for _, n := range nodes {
		fmt.Fprintf(&b, "  - id: %s\n    path: dynamic\n", n.id)
		if len(n.outputs) > 0 {
			ids := make([]string, len(n.outputs))
			for i, o := range n.outputs {
				ids[i] = o.id
			}
			fmt.Fprintf(&b, "    outputs: [%s]\n", strings.Join(ids, ", "))
		}
		if len(n.inputs) > 0 {
			b.WriteString("    inputs:\n")
		}
		for _, in := range n.inputs {
			fmt.Fprintf(&b, "      %s: {source: %s, policy: %s, queue_size: %d, hold_timeout: %dms}\n",
				in.id, in.source, in.policy, in.queue, holdTimeout.Milliseconds())
		}
	}
	return b.String()
}

// input finds the place of an input among those of its node.
func (n *nodeSpec) input(id string) int {
	return slices.IndexFunc(n.inputs, func(in inputSpec) bool { return in.id == id })
}
