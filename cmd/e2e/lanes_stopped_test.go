//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

const stoppedFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: block
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 16}
  - id: oldest
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 16}
  - id: frozen
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 8, hold_timeout: 300ms}
`

// A receiver is stopped: for the others nothing changes, the sender needs no more
// memory however long it takes, and then the receiver goes on where the queue's
// policy has brought it.
func TestLanesReceiverStopped(t *testing.T) {
	t.Parallel()
	long := 3 * time.Second
	if torments != "" {
		long = 10 * time.Second
	}
	w := laneWorld(t, stoppedFlow)
	source := w.start("source", program{})
	others := []*child{w.start("block", program{Receive: true}), w.start("oldest", program{Receive: true})}
	frozen := w.start("frozen", program{Receive: true, Keep: 2})
	source.do(order{Do: "await", Output: "frames", Count: 3})
	w.onLanes()
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{64, 50_000, 1000, 200_000}, Every: time.Millisecond})
	w.got(frozen, "frames", 100)
	before := w.span(others, long/2)
	memory := func() uint64 {
		for _, n := range w.status().Nodes {
			if n.Node == "source" {
				return n.RegionBytes
			}
		}
		return 0
	}
	bytes := memory()
	seen := w.broker.log.len()
	frozen.signal(syscall.SIGSTOP)
	during := w.span(others, long/2)
	bytesFirst := memory()
	during = append(during, w.span(others, long/2)...)
	bytesLast := memory()
	held := w.broker.log.await(t, seen, "message held too long", "holder", flowName+"/frozen")
	dropped := w.broker.log.await(t, seen, "message dropped", "to", "frozen/frames", "reason", wire.DropQueueFull.String())
	frozen.signal(syscall.SIGCONT)
	frozen.do(order{Do: "recheck"})
	w.got(frozen, "frames", 100)
	t.Logf("before the stop: %s", before)
	t.Logf("during it:       %s", during)
	t.Logf("the sender has %d KiB of regions before, %d KiB in the middle, %d KiB at the end", bytes>>10, bytesFirst>>10, bytesLast>>10)
	// What it holds is of a few regions, which are replaced, each once.
	if most := max(bytesFirst, bytesLast); most > 4*bytes+16*mib {
		t.Errorf("the sender's memory grows: %d, %d, %d bytes", bytes, bytesFirst, bytesLast)
	}
	for _, s := range during {
		if s.gap > goOnWithin || s.perSecond < before[0].perSecond/2 {
			t.Errorf("%s while another receiver is stopped, before: %s", s, before)
		}
	}
	source.do(order{Do: "halt"})
	s := source.result(reply)
	source.do(order{Do: "close_output", Output: "frames"})
	whole(t, "block", w.closed(others[0], "frames"), s.Sent)
	oldest, in := w.closed(others[1], "frames"), w.closed(frozen, "frames")
	frozen.do(order{Do: "release"})
	status := w.eventually("the last messages", settled)
	w.slotsFree(source)
	w.finish()
	drops, _ := w.broker.log.drops()
	compare(t, edgeTo(t, status, "frozen/frames"), in, s.Sent, drops)
	compare(t, edgeTo(t, status, "oldest/frames"), oldest, s.Sent, drops)
	observe(t, "a receiver on a lane is stopped (SIGSTOP)",
		"its lane overflows, or holds its sender back if it blocks; what it holds stays as it is, and the sender gets other memory in place of it; nobody else notices: "+
			"after SIGCONT it reads right bytes, and gets the newest messages",
		shown(held, "holder", "path")+"\n"+shown(dropped, "to", "reason", "count", "path"))
}

// span is how a receiver fared for a while.
type span struct {
	who           string
	perSecond     float64
	p50, p99, gap time.Duration
}

func (s span) String() string {
	return fmt.Sprintf("%s %.0f/s, age p50 %v, p99 %v, longest wait %v", s.who, s.perSecond,
		s.p50.Round(time.Microsecond), s.p99.Round(time.Microsecond), s.gap.Round(time.Millisecond))
}

// span watches receivers with an input frames for a while.
func (w *world) span(receivers []*child, long time.Duration) []span {
	w.t.Helper()
	begun := time.Now()
	var counts []uint64
	for _, c := range receivers {
		c.do(order{Do: "mark"})
		counts = append(counts, c.report().Stats.Received)
	}
	time.Sleep(long)
	var spans []span
	for i, c := range receivers {
		r := c.report()
		in := r.Inputs["frames"]
		spans = append(spans, span{c.id, float64(r.Stats.Received-counts[i]) / time.Since(begun).Seconds(), in.P50, in.P99, in.MaxGap})
	}
	return spans
}

// Ten nodes in a row that wait for messages on lanes, and their broker, use next
// to no processor time. What else the machine does can only add to it, so that one
// quiet window shows what they take.
func TestLanesIdle(t *testing.T) {
	t.Parallel()
	const (
		nodes    = 10
		watched  = 10 * time.Second // longer than the period of anything that comes again
		attempts = 3
		most     = 0.5 // per cent of a processor
	)
	var flow strings.Builder
	flow.WriteString("nodes:\n")
	for i := range nodes {
		fmt.Fprintf(&flow, "  - id: n%d\n    path: dynamic\n    outputs: [out]\n", i)
		if i > 0 {
			fmt.Fprintf(&flow, "    inputs:\n      in: n%d/out\n", i-1)
		}
	}
	w := laneWorld(t, flow.String())
	for i := range nodes {
		w.start(fmt.Sprintf("n%d", i), program{Receive: true})
	}
	w.onLanes()
	for i, c := range w.nodes[:nodes-1] {
		c.send(order{Output: "out", Sizes: []int{1000}, Count: 3})
		w.got(w.nodes[i+1], "in", 0)
	}
	w.eventually("the last messages", settled)
	time.Sleep(time.Second) // what comes after the start is over
	pids := []int{w.broker.pid}
	for _, c := range w.nodes {
		pids = append(pids, c.pid)
	}
	least := 100.0
	for range attempts {
		begun, before := time.Now(), w.processorTimes(pids)
		time.Sleep(watched)
		elapsed := time.Since(begun)
		var total, broker time.Duration
		for i, used := range w.processorTimes(pids) {
			total += used - before[i]
			if i == 0 {
				broker = total
			}
		}
		share := 100 * total.Seconds() / elapsed.Seconds()
		t.Logf("%d nodes and brokerd used %v in %v, %.3f %% of a processor; brokerd alone %v", nodes, total, elapsed.Round(time.Millisecond), share, broker)
		least = min(least, share)
		if least < most || raceDetector { // whose own time is in it
			return
		}
	}
	t.Errorf("idle, but at least %.2f %% of a processor are used, less than %.1f %% are expected", least, most)
}

// processorTimes is what each process has used so far, in user and kernel mode.
func (w *world) processorTimes(pids []int) []time.Duration {
	w.t.Helper()
	var times []time.Duration
	for _, pid := range pids {
		// Nanoseconds of each thread: utime and stime are the sum of these, in
		// hundredths of a second. A thread that ends takes its share along; idle ones
		// do not end.
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil || len(tasks) == 0 {
			w.t.Fatalf("process %d: %v, %d tasks", pid, err, len(tasks))
		}
		var used time.Duration
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if err != nil {
				continue
			}
			first, _, _ := strings.Cut(string(text), " ")
			ns, err := strconv.ParseInt(first, 10, 64)
			if err != nil {
				w.t.Fatalf("%s: %v", task, err)
			}
			used += time.Duration(ns)
		}
		times = append(times, used)
	}
	return times
}
