//go:build linux

package e2e

import (
	"fmt"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

const copiesFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: block
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 3}
  - id: oldest
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 2}
  - id: far
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 2}
`

const mib = 1 << 20

// cost is what a broker process has used so far.
type cost struct{ own, shared, read uint64 }

func (w *world) cost() cost {
	w.t.Helper()
	own, shared, err := memoryOf(w.broker.pid)
	if err != nil {
		w.t.Fatal(err)
	}
	io, err := procNumbers(w.broker.pid, "io")
	if err != nil {
		w.t.Fatal(err)
	}
	return cost{own, shared, io["rchar"]}
}

// Between local nodes the broker does not touch payloads; Send copies once, Loan
// never.
func TestNoCopies(t *testing.T) { bothPaths(t, noCopies) }

func noCopies(t *testing.T, lanes bool) {
	const messages, bytes = 150, 4 * mib
	w := newWorld(t, copiesFlow)
	w.lanes = lanes
	source := w.start("source", program{})
	receivers := []*child{w.start("block", program{Receive: true}), w.start("oldest", program{Receive: true})}
	source.do(order{Do: "await", Output: "frames", Count: 2})
	if lanes {
		w.onLanes("block/frames", "oldest/frames")
	}
	// The first messages pay for regions.
	source.send(order{Output: "frames", Sizes: []int{bytes}, Count: 10, Loan: true})
	w.eventually("first messages", settled)
	before := w.cost()

	source.send(order{Output: "frames", Sizes: []int{bytes}, Count: messages, Loan: true})
	if stats := source.report().Stats; stats.PayloadCopies != 0 || stats.PayloadCopyBytes != 0 || stats.Published != 10+messages {
		t.Errorf("after %d loans: %+v", messages, stats)
	}
	source.send(order{Output: "frames", Sizes: []int{bytes}, Count: messages})
	if stats := source.report().Stats; stats.PayloadCopies != messages || stats.PayloadCopyBytes != messages*bytes {
		t.Errorf("after %d more sends: %+v", messages, stats)
	}
	s := w.eventually("last messages", settled)
	if s.Counters.PayloadCopyBytes != 0 {
		t.Errorf("the broker copied %d bytes", s.Counters.PayloadCopyBytes)
	}
	if e := edgeTo(t, s, "block/frames"); e.Delivered != 10+2*messages {
		t.Errorf("%d of %d messages delivered", e.Delivered, 10+2*messages)
	}
	// Nor did it read or map them some other way: what it has read by system
	// calls, what it has in RAM of its own and of shared memory.
	after := w.cost()
	const passed = (10 + 2*messages) * bytes
	t.Logf("%d MiB published: broker's own memory %+d KiB, shared memory mapped and touched %+d KiB, read %d KiB",
		passed/mib, (int64(after.own)-int64(before.own))>>10, (int64(after.shared)-int64(before.shared))>>10, (after.read-before.read)>>10)
	if grown := int64(after.own) - int64(before.own); grown > 16*mib && !raceDetector {
		t.Errorf("the broker's own memory grew by %d bytes", grown)
	}
	if after.shared > 4*mib {
		t.Errorf("the broker has touched %d bytes of shared memory", after.shared)
	}
	if read := after.read - before.read; read > passed/50 {
		t.Errorf("the broker has read %d bytes while %d were published", read, passed)
	}
	for _, c := range receivers {
		if r := c.report(); r.Stats.PayloadCopies != 0 || r.Stats.Rejected != 0 {
			t.Errorf("%s: %+v", c.id, r.Stats)
		}
	}
}

// For a node without shared memory the broker copies exactly what it delivers
// there.
func TestCopiesForRemote(t *testing.T) {
	t.Parallel()
	const messages = 60
	sizes := []int{mib, 300_000, 100, 5 * mib, 4097}
	w := newWorld(t, copiesFlow)
	w.regionFiles = 2
	source := w.start("source", program{})
	local := w.start("block", program{Receive: true})
	far := w.start("far", program{Receive: true}, remote)
	source.do(order{Do: "await", Output: "frames", Count: 2})
	if s := source.send(order{Output: "frames", Sizes: sizes, Count: messages, Loan: true}); s.Sent != messages {
		t.Errorf("sent: %+v", s)
	} else {
		t.Logf("%d messages in %v, longest wait %v", s.Sent, s.Elapsed, s.MaxGap)
	}
	source.do(order{Do: "close_output", Output: "frames"})
	s := w.eventually("last messages", func(s wire.Status) error {
		for _, c := range []*child{local, far} {
			if in := c.report().Inputs["frames"]; in == nil || in.Closed == "" {
				return fmt.Errorf("%s is open", c.id)
			}
		}
		return settled(s)
	})
	var total, shared uint64
	for i := range messages {
		size := uint64(sizes[i%len(sizes)])
		total += size
		if size > 4096 {
			shared += size
		}
	}
	for _, to := range []string{"far/frames", "block/frames"} {
		if e := edgeTo(t, s, to); e.Delivered != messages || e.Bytes != total {
			t.Errorf("%s: %+v", to, e)
		}
	}
	if s.Counters.PayloadCopyBytes != shared {
		t.Errorf("the broker copied %d bytes for the remote node, it was sent %d out of shared memory", s.Counters.PayloadCopyBytes, shared)
	}
	if r := far.report(); r.Inputs["frames"].Lives[0].Bytes != total {
		t.Errorf("the remote node got %d bytes of %d", r.Inputs["frames"].Lives[0].Bytes, total)
	}
}
