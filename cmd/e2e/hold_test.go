//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

const holdFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: hog
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 4, hold_timeout: 200ms}
  - id: good
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: %s, queue_size: 64, hold_timeout: 200ms}
`

// A receiver that never releases anything, and has as much evacuated as it may,
// costs its sender the quota, and nobody else anything: the sender goes on, is told who holds its memory, and has it
// back when the holder ends.
func TestHoldForever(t *testing.T) { bothPaths(t, holdForever) }

func holdForever(t *testing.T, lanes bool) {
	const quota = 24 * mib
	w := newWorld(t, fmt.Sprintf(holdFlow, "drop-oldest"), "--shm-node-limit", "24MiB", "--shm-limit", "64MiB", "--shm-cache", "16MiB",
		"--held-max", "8MiB")
	w.lanes = lanes
	source := w.start("source", program{})
	hog := w.start("hog", program{Receive: true, KeepAll: true, Watch: 1})
	good := w.start("good", program{Receive: true})
	source.do(order{Do: "await", Output: "frames", Count: 2})
	if lanes {
		w.onLanes()
	}
	frames := order{Do: "send", Output: "frames", Sizes: []int{mib}, Every: 3 * time.Millisecond}

	reply := source.begin(frames)
	stuck := w.broker.log.await(t, 0, "message cannot be evacuated", "node", "hog")
	held := w.broker.log.await(t, 0, "message held too long", "holder", flowName+"/hog")
	dropped := w.broker.log.await(t, 0, "message dropped", "reason", wire.DropNoMemory.String(), "to", "good/frames")
	source.do(order{Do: "halt"})
	s := source.result(reply)
	t.Logf("%d sent, %d refused, the last: %s", s.Sent, s.NoMemory, s.NoMemoryText)
	if s.NoMemory == 0 || !strings.Contains(s.NoMemoryText, "hog/frames h") || !strings.Contains(s.NoMemoryText, "quota") && !strings.Contains(s.NoMemoryText, "limit") {
		t.Errorf("the sender's error names neither limit nor holder: %q", s.NoMemoryText)
	}
	if !lanes {
		observe(t, "a receiver that holds more than `held_max` for ever",
			"what it has evacuated it keeps; its sender goes on until its memory is used up, then gets `ErrNoMemory`: "+numbers(s.NoMemoryText)+
				". With a `block` receiver the sender waits instead. All is back when the holder lets go or ends",
			shown(stuck, "node", "stuck", "kept_bytes", "held_max")+"\n"+shown(held, "holder", "held", "held_bytes")+"\n"+shown(dropped, "to", "reason", "count"))
	}
	status := w.status()
	for _, n := range status.Nodes {
		if n.Node == "hog" && (n.KeptBytes == 0 || n.KeptBytes > 8*mib || n.Stuck == 0 || n.StuckReason == "") {
			t.Errorf("status of the holder: %+v", n)
		}
		if n.Node == "source" && (n.RegionBytes > quota || n.RegionBytes < quota/2) {
			t.Errorf("the sender has %d bytes, its quota is %d", n.RegionBytes, quota)
		}
		if n.Node == "hog" && !lanes && (n.HeldMessages == 0 || n.HeldBytes != uint64(n.HeldMessages)*mib) {
			t.Errorf("status of the holder: %+v", n)
		}
	}
	// As long as there was memory, everybody else had every message.
	w.eventually("the other receiver's last message", func(wire.Status) error {
		if in := good.report().Inputs["frames"].Lives[0]; in.Count != s.Sent || in.Spans[0][0] != 1 || in.Spans[0][1] < 16 {
			return fmt.Errorf("%d messages had memory, it got %d: %v", s.Sent, in.Count, in.Spans)
		}
		return nil
	})
	if r := hog.report(); r.Kept < 8 {
		t.Errorf("the holder holds %d messages", r.Kept)
	}
	hog.do(order{Do: "recheck"})

	// Small messages need no memory, and still arrive.
	before := good.report().Stats.Received
	source.send(order{Output: "frames", Sizes: []int{100}, Count: 20, Every: time.Millisecond})
	w.eventually("small messages", func(wire.Status) error {
		if got := good.report().Stats.Received - before; got != 20 {
			return fmt.Errorf("%d of 20", got)
		}
		return nil
	})

	hog.do(order{Do: "recheck"})
	hog.kill()
	w.gone("hog")
	w.eventually("memory is back", settled)
	w.slotsFree(source)
	for range 5 {
		if s := source.send(order{Output: "frames", Sizes: []int{mib}, Count: 8}); s.NoMemory > 0 {
			t.Errorf("the holder is gone, and %d messages found no memory: %s", s.NoMemory, s.NoMemoryText)
		}
		w.eventually("a few messages", settled)
	}
}

// With a blocking receiver the sender waits for memory instead, and loses
// nothing.
func TestHoldForeverBlock(t *testing.T) { bothPaths(t, holdForeverBlock) }

func holdForeverBlock(t *testing.T, lanes bool) {
	w := newWorld(t, fmt.Sprintf(holdFlow, "block"), "--shm-node-limit", "16MiB", "--shm-limit", "64MiB", "--shm-cache", "16MiB",
		"--held-max", "0")
	w.lanes = lanes
	source := w.start("source", program{})
	hog := w.start("hog", program{Receive: true, KeepAll: true})
	good := w.start("good", program{Receive: true})
	source.do(order{Do: "await", Output: "frames", Count: 2})
	holder := []string{"held_by", "hog/frames"}
	if lanes {
		w.onLanes()
		holder = nil // only the sender knows
	}
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{mib}, Count: 100})
	denied := w.broker.log.await(t, 0, "region denied", holder...)
	t.Log(denied.raw)
	select {
	case a := <-reply:
		t.Fatalf("the sender did not wait: %+v", a.Sent)
	default:
	}
	hog.kill()
	if s := source.result(reply); s.Sent != 100 || s.NoMemory != 0 {
		t.Errorf("sent: %+v", s)
	}
	w.eventually("all messages", func(s wire.Status) error {
		if e := edgeTo(t, s, "good/frames"); e.Delivered != 100 {
			return fmt.Errorf("%d delivered", e.Delivered)
		}
		return settled(s)
	})
	w.has(good, "frames", 100) // taken off the lane is not yet in its account
	if in := good.report().Inputs["frames"].Lives[0]; in.Count != 100 || in.Dropped != 0 {
		t.Errorf("the blocking receiver: %+v", in)
	}
}
