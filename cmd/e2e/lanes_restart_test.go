//go:build linux

package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

const restartFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: block
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 256}
  - id: slow
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 8}
`

// The broker is killed while ten thousand messages a second run on lanes, again
// and again: nobody loses one that is not in the log of one of the brokers,
// nobody gets one twice, nobody waits.
func TestLanesBrokerKilled(t *testing.T) {
	t.Parallel()
	w := laneWorld(t, restartFlow)
	source := w.start("source", program{})
	receivers := map[string]*child{
		"block": w.start("block", program{Receive: true, Keep: 2}),
		"slow":  w.start("slow", program{Receive: true, Keep: 2, Sleep: time.Millisecond}),
	}
	source.do(order{Do: "await", Output: "frames", Count: 2})
	w.onLanes()
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{64, 512, 6000, 200}, Every: 100 * time.Microsecond})
	var brought entry
	for range rounds(t) {
		w.got(receivers["slow"], "frames", 300)
		moment()
		w.crash()
		begun := time.Now()
		w.got(receivers["slow"], "frames", 100) // nobody notices
		t.Logf("100 messages without a broker in %v", time.Since(begun).Round(time.Millisecond))
		moment()
		w.startBroker(w.broker.addr)
		brought = w.adopted(source, receivers["block"], receivers["slow"])
	}
	w.got(receivers["slow"], "frames", 300)
	source.do(order{Do: "halt"})
	s := source.result(reply)
	source.do(order{Do: "close_output", Output: "frames"})
	rate := float64(s.Sent) / s.Elapsed.Seconds()
	t.Logf("%d messages in %v, %.0f a second, the longest pause between two %v", s.Sent, s.Elapsed.Round(time.Millisecond), rate, s.MaxGap.Round(time.Millisecond))
	// A sender that is late catches up, so that a busy machine costs little of the rate.
	if rate < 5000 && !raceDetector {
		t.Errorf("the sender came to %.0f messages a second, 10000 were asked for and at least 5000 expected", rate)
	}
	ins := map[string]*inputReport{}
	for id, c := range receivers {
		ins[id] = w.closed(c, "frames")
		c.do(order{Do: "release"})
		if n := c.report().Stats.Reconnects; n < uint64(rounds(t)) {
			t.Errorf("%s has connected again %d times only", id, n)
		}
	}
	whole(t, "block", ins["block"], s.Sent)
	if gap := max(s.MaxGap, ins["block"].MaxGap); gap > goOnWithin {
		t.Errorf("no message for %v", gap)
	}
	w.eventually("the last messages", settled)
	w.slotsFree(source)
	w.finish()
	w.checkSlow(ins["slow"], s.Sent)
	observe(t, "brokerd is killed while messages run on lanes",
		"nobody notices: the messages go on, none is lost or comes twice. Nodes bring lanes and memory to the next brokerd, which logs what was dropped meanwhile",
		shown(brought, "lanes", "lanes_offered"))
	t.Logf("longest waits: block %v, slow %v", ins["block"].MaxGap.Round(time.Millisecond), ins["slow"].MaxGap.Round(time.Millisecond))
}

// checkSlow sets what a receiver of a dropping edge has got against the logs of
// all brokers.
func (w *world) checkSlow(in *inputReport, sent uint64) {
	w.t.Helper()
	var logged uint64
	var parts []uint64
	var records []wire.DropRecord
	for _, b := range append(w.past, w.broker) {
		sums, wrong := b.log.drops()
		for _, err := range wrong {
			w.t.Error(err)
		}
		var part uint64
		for key, sum := range sums {
			if key.to != "slow/frames" {
				w.t.Errorf("%d drops of %v", sum.count, key)
			}
			part += sum.count
		}
		parts = append(parts, part)
		logged += part
		records = append(records, b.log.records()...)
	}
	l := in.Lives[0]
	w.t.Logf("slow: %d received, %d logged as dropped by %d brokers %v, of %d", l.Count, logged, len(parts), parts, sent)
	if l.Count+logged != sent {
		w.t.Errorf("slow: %d received and %d logged as dropped are %d, of %d", l.Count, logged, l.Count+logged, sent)
	}
	tail := sent - l.Spans[len(l.Spans)-1][1]
	if missing := gapsOf(l.Spans, 1, sent).count; missing != logged || l.Dropped+tail != logged {
		w.t.Errorf("slow: %d numbers are missing, the messages announced %d and %d came after the last, the logs have %d", missing, l.Dropped, tail, logged)
	}
	w.checkNumbers(records, l.Spans)
}

// lateMax is how many drops of a record may have their numbers in the one beside it:
// of a sender that was off its processor between a drop and the note of its number.
const lateMax = 3

// checkNumbers sets the drop records of one edge, in any order, against the numbers
// that its receiver is missing: where records overlap, all of them together.
func (w *world) checkNumbers(records []wire.DropRecord, spans [][2]uint64) {
	w.t.Helper()
	slices.SortFunc(records, func(a, b wire.DropRecord) int { return cmp.Compare(a.SeqFirst, b.SeqFirst) })
	for i := 0; i < len(records); {
		first, last, count := records[i].SeqFirst, records[i].SeqLast, uint64(0)
		from := i
		for ; i < len(records) && records[i].SeqFirst <= last; i++ {
			last = max(last, records[i].SeqLast)
			count += records[i].Count
		}
		got := uint64(0)
		for _, span := range spans {
			if low, high := max(span[0], first), min(span[1], last); low <= high {
				got += high - low + 1
			}
		}
		if missing := last - first + 1 - got; max(missing, count)-min(missing, count) > lateMax {
			w.t.Errorf("%d records have %d drops from %d to %d, where %d are missing", i-from, count, first, last, missing)
		}
	}
}

// A receiver is stopped when its broker is killed, and does not come to the next
// one. What it holds stays as it is while it lives, and is its sender's again when it
// does not.
func TestLanesReceiverLostWithBroker(t *testing.T) {
	t.Parallel()
	w := prepare(t, restartFlow, "--adopt-grace", "500ms")
	w.lanes = true
	w.startBroker("127.0.0.1:0")
	source := w.start("source", program{})
	block := w.start("block", program{Receive: true})
	slow := w.start("slow", program{Receive: true, Keep: 3})
	source.do(order{Do: "await", Output: "frames", Count: 2})
	w.onLanes()
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{6000, 200}, Every: time.Millisecond})
	w.got(slow, "frames", 20)
	slow.signal(syscall.SIGSTOP)
	w.crash()
	w.startBroker(w.broker.addr)
	w.onLanes("block/frames")
	w.eventually("the lane is given up", func(s wire.Status) error {
		if e := edgeTo(t, s, "slow/frames"); e.Path == "lane" {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
	w.got(block, "frames", 20)
	source.do(order{Do: "halt"})
	sent := source.result(reply)
	source.do(order{Do: "close_output", Output: "frames"})
	whole(t, "block", w.closed(block, "frames"), sent.Sent)
	w.eventually("nobody else holds anything", settled)
	time.Sleep(lockedLook) // it must not be given back however long it takes
	if used := source.report().Stats.SlotsUsed; used < 3 {
		t.Errorf("a receiver that lives holds 3 messages, and %d slots are in use", used)
	}
	slow.kill()
	w.slotsFree(source)
	w.finish()
}

const strangeFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: near
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 64}
  - id: old
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 64}
`

// A broker grants a region and is killed before the receiver of a lane has met it. The
// messages in it went through the broker, too, so that their slots are lost; and their
// sender comes to the next broker last, later than a message waits for its region at
// other times. The receiver gets them all the same.
func TestLanesRegionOfBrokerNotMet(t *testing.T) {
	t.Parallel()
	w := prepare(t, strangeFlow, "--adopt-grace", "20s")
	w.lanes = true
	w.startBroker("127.0.0.1:0")
	source := w.start("source", program{})
	near := w.start("near", program{Receive: true})
	old := w.start("old", program{Receive: true, KeepAll: true}, noLanes)
	source.do(order{Do: "await", Output: "frames", Count: 2})
	w.onLanes("near/frames")
	source.send(order{Do: "send", Output: "frames", Sizes: []int{200}, Count: 8})
	w.has(near, "frames", 8)
	w.has(old, "frames", 8)

	near.signal(syscall.SIGSTOP)
	w.crash()
	w.startBroker(w.broker.addr)
	w.eventually("sender and old receiver are there", func(s wire.Status) error {
		if n := len(s.Nodes); n < 2 || edgeTo(t, s, "near/frames").Path != "lane" {
			return fmt.Errorf("%d nodes, %+v", n, s.Edges)
		}
		return nil
	})
	source.do(order{Do: "await", Output: "frames", Count: 1})
	source.send(order{Do: "send", Output: "frames", Sizes: []int{100 << 10}, Count: 8})
	w.has(old, "frames", 16)

	source.signal(syscall.SIGSTOP)
	w.crash()
	w.startBroker(w.broker.addr)
	near.signal(syscall.SIGCONT)
	w.broker.log.await(t, 0, "node brought what it uses from a broker that died", "node", "near")
	time.Sleep(5 * time.Second)
	source.signal(syscall.SIGCONT)
	w.onLanes("near/frames")
	w.has(near, "frames", 16)
	source.do(order{Do: "close_output", Output: "frames"})
	whole(t, "near", w.closed(near, "frames"), 16)
	old.do(order{Do: "release"})
	w.eventually("nothing is held", settled)
	w.slotsFree(source)
	w.finish()
}

// lockedLook is how often brokerd looks at processes that have memory of brokers
// before it, and a little more.
const lockedLook = 2500 * time.Millisecond

// got waits until a receiver has got so many more messages.
func (w *world) got(c *child, input string, more uint64) {
	w.t.Helper()
	w.has(c, input, c.count(input)+more)
}

// has waits until a receiver has got so many messages.
func (w *world) has(c *child, input string, goal uint64) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		n := c.count(input)
		if n >= goal {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s/%s gets nothing any more: %d messages, %d to come", c.id, input, n, goal-n)
		}
	}
}

// count returns how many messages have come on an input.
func (c *child) count(input string) (n uint64) {
	if in := c.report().Inputs[input]; in != nil {
		for _, l := range in.Lives {
			n += l.Count
		}
	}
	return n
}

// adopted waits until a new broker has everything that the nodes have: their
// lanes, and what the brokers before called otherwise. It returns what the broker
// says about the last of the nodes.
func (w *world) adopted(nodes ...*child) (e entry) {
	w.t.Helper()
	for _, c := range nodes {
		e = w.broker.log.await(w.t, 0, "node brought what it uses from a broker that died", "node", c.id)
		if e.number("lanes") != e.number("lanes_offered") || e.number("lanes") == 0 {
			w.t.Errorf("not all lanes of %s were taken over: %s", c.id, e.raw)
		}
	}
	s := w.onLanes()
	for _, n := range s.Nodes {
		if n.Node == "source" && n.Regions == 0 {
			w.t.Errorf("the sender's regions were not taken over: %+v", n)
		}
	}
	w.eventually("nothing is left of the brokers before", func(wire.Status) (err error) {
		w.foreignNames(func(format string, args ...any) { err = fmt.Errorf(format, args...) })
		return err
	})
	return e
}
