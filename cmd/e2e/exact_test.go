//go:build linux

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

const fanOut = `nodes:
  - id: source
    path: dynamic
    outputs: [small, large]
  - id: block
    path: dynamic
    inputs:
      small: {source: source/small, policy: block, queue_size: 200}
      large: {source: source/large, policy: block, queue_size: 4}
  - id: oldest
    path: dynamic
    inputs:
      small: {source: source/small, queue_size: 50}
      large: {source: source/large, queue_size: 4}
  - id: slow
    path: dynamic
    inputs:
      small: {source: source/small, queue_size: 1}
      large: {source: source/large, policy: drop-newest, queue_size: 1}
`

// Every message is delivered or logged as dropped, to the last one.
func TestExactness(t *testing.T) { bothPaths(t, exactness) }

func exactness(t *testing.T, lanes bool) {
	counts := map[string]uint64{"small": 100_000, "large": 2_000}
	sizes := map[string][]int{"small": {64, 512, 200}, "large": {1 << 20}}
	if raceDetector || testing.Short() {
		counts["small"], counts["large"] = 10_000, 200
	}
	w := newWorld(t, fanOut)
	w.lanes = lanes
	source := w.start("source", program{})
	receivers := map[string]*child{
		"block":  w.start("block", program{Receive: true}),
		"oldest": w.start("oldest", program{Receive: true}),
	}
	// The third comes late: what it misses has no receiver.
	const early = 50
	for output := range counts {
		source.do(order{Do: "await", Output: output, Count: 2})
		if lanes {
			w.onLanes("block/"+output, "oldest/"+output)
		}
		source.send(order{Output: output, Sizes: sizes[output], Count: early})
	}
	receivers["slow"] = w.start("slow", program{Receive: true, Sleep: time.Millisecond})
	var replies []<-chan answer
	if lanes {
		w.onLanes()
	}
	for output := range counts {
		source.do(order{Do: "await", Output: output, Count: 3})
		replies = append(replies, source.begin(order{Do: "send", Output: output, Sizes: sizes[output], Count: counts[output] - early, Loan: output == "large"}))
	}
	for _, reply := range replies {
		if s := source.result(reply); s.NoMemory > 0 {
			t.Errorf("%d messages without memory although an input blocks: %s", s.NoMemory, s.NoMemoryText)
		}
	}
	for output := range counts {
		source.do(order{Do: "close_output", Output: output})
	}
	reports := map[string]*report{}
	w.eventually("the last messages", func(s wire.Status) error {
		for id, c := range receivers {
			r := c.report()
			reports[id] = r
			for input := range counts {
				if in := r.Inputs[input]; in == nil || in.Closed == "" {
					return fmt.Errorf("%s/%s is open", id, input)
				}
			}
		}
		return settled(s)
	})
	status := w.status()

	// All slots are free again, and the memory goes back with the sender.
	w.slotsFree(source)
	if stats := source.report().Stats; stats.SendFailures != 0 {
		t.Errorf("sender: %+v", stats)
	}
	if in := status.Counters.MessagesIn; lanes && in > 0 {
		t.Errorf("%d messages went through the broker", in)
	}
	w.finish()
	drops, _ := w.broker.log.drops()
	for id, r := range reports {
		for input, published := range counts {
			compare(t, edgeTo(t, status, id+"/"+input), r.Inputs[input], published, drops)
		}
		if got := r.Stats.Received; lanes && r.Stats.LaneReceived != got || !lanes && r.Stats.LaneReceived > 0 {
			t.Errorf("%s: %d messages of %d came on lanes", id, r.Stats.LaneReceived, got)
		}
		if r.Stats.Held != 0 || r.Stats.Forgotten != 0 || r.Stats.Rejected != 0 {
			t.Errorf("%s: %+v", id, r.Stats)
		}
	}
	for input := range counts {
		if e := edgeTo(t, status, "block/"+input); e.Dropped != 0 {
			t.Errorf("the blocking edge lost %d of %s", e.Dropped, input)
		}
		// On lanes the broker does not see what has no receiver.
		e := edgeTo(t, status, "slow/"+input)
		if missed := counts[input] - e.Published + e.NoReceiver; e.Dropped == 0 || missed != early {
			t.Errorf("slow/%s: %d dropped, %d without receiver; the test wants drops and %d", input, e.Dropped, missed, early)
		}
	}
}

// compare sets what one receiver got against what the broker says and what the
// drop log says. The first messages may have come before the receiver: on lanes
// the broker does not see them.
func compare(t *testing.T, e wire.EdgeStatus, in *inputReport, published uint64, log map[dropKey]*dropSum) {
	t.Helper()
	if len(in.Lives) != 1 {
		t.Fatalf("%s: messages of %d senders", e.To, len(in.Lives))
	}
	got := in.Lives[0]
	var logged uint64
	missed := published - e.Published + e.NoReceiver
	gaps := gapsOf(got.Spans, missed+1, published)
	for reason := range e.Drops {
		sum := log[dropKey{e.From, e.To, reason}]
		if sum == nil {
			continue // reported by checkLog
		}
		logged += sum.count
		if sum.seqFirst < gaps.first || sum.seqLast > gaps.last {
			t.Errorf("%s: the log has drops for %s from %d to %d, the receiver misses %d to %d", e.To, reason, sum.seqFirst, sum.seqLast, gaps.first, gaps.last)
		}
	}
	t.Logf("%-12s %6d received, %6d dropped, %4d without receiver, of %6d; longest wait %v",
		e.To, got.Count, logged, missed, published, in.MaxGap.Round(time.Millisecond))
	if e.Delivered != got.Count || e.Bytes != got.Bytes && e.Bytes != 0 {
		t.Errorf("%s: the broker counts %d delivered with %d bytes; it was %d and %d", e.To, e.Delivered, e.Bytes, got.Count, got.Bytes)
	}
	if got.Count+logged+missed != published {
		t.Errorf("%s: %d received + %d logged as dropped + %d without receiver is not %d", e.To, got.Count, logged, missed, published)
	}
	if gaps.count != logged {
		t.Errorf("%s: %d numbers are missing, %d are logged as dropped", e.To, gaps.count, logged)
	}
	// What is dropped after the last message has nobody to be told to. With
	// drop-newest it has: the last message waited in the queue meanwhile.
	newest := e.Policy == wire.PolicyDropNewest.String()
	if tail := published - got.Spans[len(got.Spans)-1][1]; got.Dropped+tail != logged && !(newest && got.Dropped+tail > logged && got.Dropped <= logged) {
		t.Errorf("%s: the messages announced %d drops, and %d followed the last one; the log says %d", e.To, got.Dropped, tail, logged)
	}
	// And the message before a gap may announce it.
	if got.Unexplained != 0 && !newest {
		t.Errorf("%s: %d drops were announced by the wrong message", e.To, got.Unexplained)
	}
}

// gaps are the numbers that are missing.
type gaps struct{ count, first, last uint64 }

// gapsOf finds what is missing in spans between two numbers, both included.
func gapsOf(spans [][2]uint64, from, to uint64) gaps {
	g := gaps{first: to + 1}
	miss := func(first, last uint64) {
		if first <= last {
			g.count += last - first + 1
			g.first, g.last = min(g.first, first), last
		}
	}
	next := from
	for _, s := range spans {
		if s[0] > 0 {
			miss(next, s[0]-1)
		}
		next = s[1] + 1
	}
	miss(next, to)
	return g
}
