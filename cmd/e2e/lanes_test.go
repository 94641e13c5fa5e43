//go:build linux

package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// laneWorld is newWorld for nodes that have lanes.
func laneWorld(t *testing.T, flow string, args ...string) *world {
	t.Helper()
	w := newWorld(t, flow, args...)
	w.lanes = true
	return w
}

// closed waits for the end of an input, and returns its account.
func (w *world) closed(c *child, input string) *inputReport {
	w.t.Helper()
	var in *inputReport
	w.eventually("the end of "+c.id+"/"+input, func(wire.Status) error {
		if in = c.report().Inputs[input]; in == nil || in.Closed == "" {
			return fmt.Errorf("open: %+v", in)
		}
		return nil
	})
	return in
}

// whole complains about an input that has not got every message of one sender.
func whole(t *testing.T, who string, in *inputReport, sent uint64) {
	t.Helper()
	if len(in.Lives) != 1 {
		t.Errorf("%s: messages of %d senders", who, len(in.Lives))
		return
	}
	if l := in.Lives[0]; l.Count != sent || len(l.Spans) != 1 || l.Spans[0] != [2]uint64{1, sent} || l.Dropped != 0 {
		t.Errorf("%s got %d of %d messages, numbers %v, %d announced as dropped", who, l.Count, sent, l.Spans[:min(len(l.Spans), 10)], l.Dropped)
	}
}

const mixedFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: near
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 16}
  - id: old
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 16}
  - id: far
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 16}
`

// One message may go to a lane, to a client that has none, and to another
// machine.
func TestLanesMixed(t *testing.T) {
	t.Parallel()
	const messages = 1000
	w := laneWorld(t, mixedFlow)
	w.regionFiles = 2
	source := w.start("source", program{})
	receivers := []*child{
		w.start("near", program{Receive: true, Keep: 2}),
		w.start("old", program{Receive: true, Keep: 2}, noLanes),
		w.start("far", program{Receive: true, Keep: 2}, remote),
	}
	source.do(order{Do: "await", Output: "frames", Count: 3})
	status := w.onLanes("near/frames")
	for to, reason := range map[string]string{"old/frames": "speaks no lanes", "far/frames": "receiver is remote"} {
		if e := edgeTo(t, status, to); e.Path != "brokered" || !strings.Contains(e.PathReason, reason) {
			t.Errorf("%s: path %q, %q; want brokered, %q", to, e.Path, e.PathReason, reason)
		}
	}
	half := order{Output: "frames", Sizes: []int{64, 3000, 100_000, 300, mib}, Count: messages / 2}
	source.send(half)
	half.Loan = true
	source.send(half)
	source.do(order{Do: "close_output", Output: "frames"})
	for _, c := range receivers {
		whole(t, c.id, w.closed(c, "frames"), messages)
		r := c.report()
		if fromLane := c.id == "near"; r.Stats.LaneReceived == 0 == fromLane || r.Stats.Received != messages {
			t.Errorf("%s: %d messages, %d of them on lanes", c.id, r.Stats.Received, r.Stats.LaneReceived)
		}
		c.do(order{Do: "release"})
	}
	w.eventually("the last messages", settled)
	w.slotsFree(source)
}

// A sender has 63 lanes. The edges beyond that go through the broker, and say so. No
// node has a thread for each lane, neither the sender nor a receiver of many.
func TestLanesMany(t *testing.T) {
	t.Parallel()
	const messages, edges = 300, 70
	inputs := []int{40, 10, 10, 10} // of each sink
	var flow strings.Builder
	flow.WriteString("nodes:\n  - {id: source, path: dynamic, outputs: [frames]}\n")
	for i, n := range inputs {
		fmt.Fprintf(&flow, "  - id: sink%d\n    path: dynamic\n    inputs:\n", i)
		for k := range n {
			fmt.Fprintf(&flow, "      in%d: {source: source/frames, policy: block, queue_size: 8}\n", k)
		}
	}
	w := laneWorld(t, flow.String())
	const processors = "GOMAXPROCS=2" // Go has threads for each: those are not what is counted
	source := w.start("source", program{}, processors)
	var sinks []*child
	for i := range inputs {
		sinks = append(sinks, w.start(fmt.Sprintf("sink%d", i), program{Receive: true}, processors))
	}
	source.do(order{Do: "await", Output: "frames", Count: edges})
	most := 0 // lanes of the first sink
	w.eventually("63 lanes", func(s wire.Status) error {
		lanes, brokered := 0, 0
		most = 0
		for _, e := range s.Edges {
			switch {
			case e.Path == "lane":
				lanes++
				if strings.HasPrefix(e.To, "sink0/") {
					most++
				}
			case strings.Contains(e.PathReason, "63 lanes"):
				brokered++
			}
		}
		if lanes != 63 || brokered != edges-63 {
			return fmt.Errorf("%d lanes, %d brokered because of that", lanes, brokered)
		}
		return nil
	})
	s := source.send(order{Output: "frames", Sizes: []int{64, 20_000}, Count: messages})
	t.Logf("%d messages to %d inputs in %v, longest wait %v", messages, edges, s.Elapsed.Round(time.Millisecond), s.MaxGap.Round(time.Millisecond))
	for i, c := range sinks {
		w.eventually(c.id+" waits for more", func(wire.Status) error {
			if got, want := c.report().Stats.Received, uint64(inputs[i]*messages); got != want {
				return fmt.Errorf("%d messages of %d", got, want)
			}
			return nil
		})
	}
	// Go keeps the threads that it once had, so this is also the most while messages
	// ran and the sender waited for room.
	w.fewThreads(source, 63)
	w.fewThreads(sinks[0], most)
	source.do(order{Do: "close_output", Output: "frames"})
	for i, c := range sinks {
		for k := range inputs[i] {
			whole(t, fmt.Sprintf("%s/in%d", c.id, k), w.closed(c, fmt.Sprintf("in%d", k)), messages)
		}
	}
	w.eventually("the last messages", settled)
	w.slotsFree(source)
}

// fewThreads complains about a node with more threads than one that waits at one
// place needs, however many lanes it has.
func (w *world) fewThreads(c *child, lanes int) {
	w.t.Helper()
	const most = 16 // less than half as many as the lanes of any node that is looked at
	n, err := procNumbers(c.pid, "status")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Logf("%s, with %d lanes, has %d threads", c.id, lanes, n["Threads"])
	if lanes < 2*most {
		w.t.Errorf("%s has %d lanes only: too few to tell", c.id, lanes)
	}
	if n["Threads"] == 0 || n["Threads"] > most {
		w.t.Errorf("%s, with %d lanes, has %d threads, at most %d are expected", c.id, lanes, n["Threads"], most)
	}
}

// movesFlow has an edge whose policy changes, one that only gets another
// queue_size, one whose receiver comes with lanes and without, and one that
// stays, beside a timer of the same node.
const movesFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: policy
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: %s, queue_size: %d}
  - id: size
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: %d}
  - id: guest
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 8}
  - id: stays
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 8}
      tick: timer/hz/100
`

// Edges move from lane to lane, and between lanes and broker, in the middle of
// traffic: order and counts of each stay exact. A node that waits for a lane gets the
// ticks of its timer, too.
func TestLanesMoves(t *testing.T) {
	t.Parallel()
	w := laneWorld(t, fmt.Sprintf(movesFlow, "drop-oldest", 4, 4))
	source := w.start("source", program{})
	policy := w.start("policy", program{Receive: true, Sleep: 300 * time.Microsecond, Keep: 1})
	size := w.start("size", program{Receive: true})
	stays := w.start("stays", program{Receive: true, Keep: 2})
	source.do(order{Do: "await", Output: "frames", Count: 3})
	w.onLanes("policy/frames", "size/frames", "stays/frames")
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{64, 30_000, 500}, Every: 200 * time.Microsecond})
	var guests uint64
	policies := []string{"block", "drop-newest", "drop-oldest"}
	for i := range max(6, min(rounds(t), 60)) {
		env := []string{noLanes}
		if i%2 == 1 {
			env = nil
		}
		guest := w.start("guest", program{Receive: true}, env...)
		moment()
		seen := w.broker.log.len()
		flow := fmt.Sprintf(movesFlow, policies[i%3], 3+i%5, 4+5*(i%2))
		if err := os.WriteFile(w.flow, []byte(flow), 0o644); err != nil {
			t.Fatal(err)
		}
		w.signal(syscall.SIGHUP)
		w.broker.log.await(t, seen, "reloaded")
		if i%3 != 1 { // else the next change comes in the middle of this one
			edges := []string{"policy/frames", "size/frames"}
			if env == nil {
				edges = append(edges, "guest/frames")
			}
			w.onLanes(edges...)
		}
		moment()
		// The sender is at it, so that neither may come in place of the other.
		frames := stays.count("frames")
		w.got(stays, "tick", 3)
		w.has(stays, "frames", frames+3)
		guests += w.leave(guest)
		w.gone("guest")
	}
	source.do(order{Do: "halt"})
	s := source.result(reply)
	source.do(order{Do: "close_output", Output: "frames"})
	waits := []any{"longest waits: sender", s.MaxGap}
	for _, c := range []*child{size, stays} {
		in := w.closed(c, "frames")
		whole(t, c.id, in, s.Sent)
		waits = append(waits, c.id, in.MaxGap)
	}
	r := stays.report()
	if r.Stats.LaneReceived != s.Sent {
		t.Errorf("stays: %d messages of %d came on a lane", r.Stats.LaneReceived, s.Sent)
	}
	// What is too many for the queue is dropped, and announced like any other.
	if ticks := r.Inputs["tick"]; len(ticks.Lives) != 1 || ticks.Lives[0].Unexplained != 0 || ticks.Closed != "" {
		t.Errorf("stays: ticks: %+v", ticks)
	} else {
		t.Logf("stays: %d ticks and %d dropped, beside %d messages", ticks.Lives[0].Count, ticks.Lives[0].Dropped, s.Sent)
	}
	in := w.closed(policy, "frames")
	t.Log(append(waits, "policy", in.MaxGap)...)
	for _, c := range []*child{policy, stays} {
		c.do(order{Do: "release"})
	}
	status := w.eventually("the last messages", settled)
	w.slotsFree(source)
	if e := edgeTo(t, status, "guest/frames"); e.Delivered != guests {
		t.Errorf("guests got %d messages, the broker says %d", guests, e.Delivered)
	} else {
		t.Logf("%-12s %6d received, %6d dropped", e.To, guests, e.Dropped)
	}
	w.finish()
	drops, _ := w.broker.log.drops()
	e := edgeTo(t, status, "policy/frames")
	e.Policy = wire.PolicyDropNewest.String() // at times
	e.Bytes = 0                               // it knows those that went through it
	compare(t, e, in, s.Sent, drops)
}

// leave has a receiver with one input leave in good order, and returns how many
// messages it has got.
func (w *world) leave(c *child) uint64 {
	w.t.Helper()
	c.do(order{Do: "deafen"})
	r := c.report()
	c.close()
	var got uint64
	for _, l := range r.Inputs["frames"].Lives {
		got += l.Count
	}
	return got
}
