//go:build linux

package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// The bounds within which the processes that are left alone have to make
// progress, measured by themselves. What they usually take is in the log.
const (
	goOnWithin        = 2 * time.Second  // a node is killed or stopped
	goOnWithinRestart = 10 * time.Second // the broker is killed and started again
)

// rounds is how often each test of this file kills, and some of other files.
func rounds(t *testing.T) int {
	t.Helper()
	if torments == "" {
		return 4
	}
	n, err := strconv.Atoi(torments)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no count", tortureEnv, torments)
	}
	return n
}

// tortureFlow has two senders and two receivers of both. %s is the policy of the
// first receiver.
const tortureFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: other
    path: dynamic
    outputs: [frames]
  - id: first
    path: dynamic
    inputs:
      source: {source: source/frames, policy: %[1]s, queue_size: 4, hold_timeout: %[2]s}
      other: {source: other/frames, policy: %[1]s, queue_size: 4, hold_timeout: %[2]s}
  - id: second
    path: dynamic
    inputs:
      source: {source: source/frames, queue_size: 4, hold_timeout: %[2]s}
      other: {source: other/frames, policy: block, queue_size: 8, hold_timeout: %[2]s}
`

var (
	tortureSizes = []int{64, 100_000, 3000, 1 * mib, 20_000}
	steady       = order{Do: "send", Output: "frames", Sizes: tortureSizes, Every: time.Millisecond}
	// holding receivers read each message again two messages later.
	holding = program{Receive: true, Keep: 2}
)

// torture is a world in which everybody sends and receives.
type torture struct {
	*world
	sending map[string]<-chan answer // by node
	first   map[string]files         // by node: descriptors before the first kill
	far     bool                     // the second receiver has no shared memory
}

// startTorture starts everybody; second is the environment of the second
// receiver.
func startTorture(t *testing.T, lanes bool, policy, hold string, second ...string) *torture {
	t.Helper()
	w := &torture{world: newWorld(t, fmt.Sprintf(tortureFlow, policy, hold)), sending: map[string]<-chan answer{}, first: map[string]files{}}
	w.lanes = lanes
	w.far = slices.Contains(second, remote)
	w.start("first", holding)
	w.start("second", holding, second...)
	for _, id := range []string{"source", "other"} {
		w.start(id, program{})
		w.send(id)
	}
	w.flowing()
	w.allOnLanes()
	for _, c := range w.nodes {
		w.first[c.id] = w.filesOf(c)
		if c.id == "first" || c.id == "second" {
			c.do(order{Do: "mark"})
		}
	}
	base, err := filesOf(w.broker.pid)
	if err != nil {
		t.Fatal(err)
	}
	w.first[""] = base
	return w
}

// allOnLanes waits until every edge is on a lane that can be.
func (w *torture) allOnLanes() {
	w.t.Helper()
	switch {
	case w.lanes && w.far:
		w.onLanes("first/source", "first/other")
	case w.lanes:
		w.onLanes()
	}
}

func (w *torture) filesOf(c *child) files {
	w.t.Helper()
	f, err := filesOf(c.pid)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// node returns the living process of a node.
func (w *torture) node(id string) *child {
	w.t.Helper()
	for i := len(w.nodes) - 1; i >= 0; i-- {
		if c := w.nodes[i]; c.id == id && !c.ended() {
			return c
		}
	}
	w.t.Fatalf("node %s is not alive", id)
	return nil
}

func (w *torture) send(id string) { w.sending[id] = w.node(id).begin(steady) }

// flowing waits until every receiver has got a few more messages from every
// sender.
func (w *torture) flowing() {
	w.t.Helper()
	before := w.counts()
	deadline := time.Now().Add(patience)
	for {
		now, lacks := w.counts(), ""
		for _, to := range []string{"first/source", "first/other", "second/source", "second/other"} {
			if now[to] < before[to]+5 {
				lacks = to
			}
		}
		if lacks == "" {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s gets nothing any more: %v, before %v", lacks, now, before)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *torture) counts() map[string]uint64 {
	w.t.Helper()
	counts := map[string]uint64{}
	for _, id := range []string{"first", "second"} {
		for input, in := range w.node(id).report().Inputs {
			for _, l := range in.Lives {
				counts[id+"/"+input] += l.Count
			}
		}
	}
	return counts
}

// moment is a random time: kills have to hit every state.
func moment() { time.Sleep(time.Duration(rand.IntN(100_000)) * time.Microsecond) }

// end stops everything and looks at what the kills have left behind. bound is
// for the processes that are named.
func (w *torture) end(bound time.Duration, survivors ...string) {
	w.t.Helper()
	w.flowing()
	w.allOnLanes()
	var gaps []string
	note := func(who string, gap time.Duration) {
		gaps = append(gaps, fmt.Sprintf("%s %v", who, gap.Round(time.Millisecond)))
		if gap > bound {
			w.t.Errorf("%s made no progress for %v, the bound is %v", who, gap, bound)
		}
	}
	for _, name := range survivors {
		id, input, receives := strings.Cut(name, "/")
		if !receives {
			continue
		}
		in := w.node(id).report().Inputs[input]
		note(name, in.MaxGap)
		for _, l := range in.Lives {
			if l.Unexplained > 0 {
				w.t.Errorf("%s: %d messages are missing without a word", name, l.Unexplained)
			}
		}
	}
	for id, reply := range w.sending {
		c := w.node(id)
		c.do(order{Do: "halt"})
		s := c.result(reply)
		if s.NoMemory > 0 {
			w.t.Errorf("%s: %d messages without memory: %s", id, s.NoMemory, s.NoMemoryText)
		}
		for _, name := range survivors {
			if name == id {
				note(id, s.MaxGap)
			}
		}
	}
	w.t.Logf("longest times without progress: %s", strings.Join(gaps, ", "))
	for _, id := range []string{"first", "second"} {
		w.node(id).do(order{Do: "release"})
	}
	w.eventually("slots come back", settled)
	for _, id := range []string{"source", "other"} {
		w.slotsFree(w.node(id))
	}
	w.sameFiles()
}

// slotsFree waits until all of a sender's slots are free again.
func (w *world) slotsFree(c *child) {
	w.t.Helper()
	w.eventually(c.id+"'s slots", func(wire.Status) error {
		if used := c.report().Stats.SlotsUsed; used > 0 {
			return fmt.Errorf("%d are used", used)
		}
		return nil
	})
}

// sameFiles compares the descriptors of the broker and of the nodes with those
// before the first kill.
func (w *torture) sameFiles() {
	w.t.Helper()
	w.eventually("descriptors as before", func(s wire.Status) error {
		now, err := filesOf(w.broker.pid)
		if err != nil {
			return err
		}
		if base := w.first[""]; now.others > base.others || now.shm > 1+s.Memory.Regions*w.regionFiles {
			return fmt.Errorf("broker, with %d regions: now %v, before %v", s.Memory.Regions, now, base)
		}
		for id, base := range w.first {
			if id == "" {
				continue
			}
			if now := w.filesOf(w.node(id)); now.others > base.others || now.shm > base.shm {
				return fmt.Errorf("node %s: now %v, before %v", id, now, base)
			}
		}
		return nil
	})
}

// killReceiver, killSender and killBroker each do what they say, and have another
// process take the place.
func (w *torture) killReceiver() {
	w.t.Helper()
	w.node("first").kill()
	w.gone("first")
	moment()
	w.start("first", holding)
}

func (w *torture) killSender() {
	w.t.Helper()
	w.node("source").kill()
	w.gone("source")
	moment()
	w.start("source", program{})
	w.send("source")
}

func (w *torture) killBroker() {
	w.t.Helper()
	w.crash()
	moment()
	w.startBroker(w.broker.addr)
	w.eventually("nodes are back", func(s wire.Status) error {
		for _, n := range s.Nodes {
			if !n.Connected {
				return fmt.Errorf("%s is not", n.Node)
			}
		}
		var err error
		w.foreignNames(func(format string, args ...any) { err = fmt.Errorf(format, args...) })
		return err
	})
}

// foreignNames complains about what brokers before this one have left in shared
// memory.
func (w *world) foreignNames(complain func(format string, args ...any)) {
	for _, name := range shmNames(w.prefix) {
		if !strings.HasPrefix(name, w.prefix+"-"+w.broker.instance) {
			complain("left in %s by the broker before: %s", shmDir, name)
		}
	}
}

func TestTortureReceiver(t *testing.T) { bothPaths(t, tortureReceiver) }

func tortureReceiver(t *testing.T, lanes bool) {
	w := startTorture(t, lanes, "block", "10s")
	for range rounds(t) {
		moment()
		w.killReceiver()
		w.flowing()
	}
	w.end(goOnWithin, "source", "other", "second/source", "second/other")
}

func TestTortureSender(t *testing.T) { bothPaths(t, tortureSender) }

func tortureSender(t *testing.T, lanes bool) {
	w := startTorture(t, lanes, "block", "10s")
	for range rounds(t) {
		moment()
		w.killSender()
		w.flowing()
	}
	w.end(goOnWithin, "other", "first/other", "second/other")
}

func TestTortureBroker(t *testing.T) { bothPaths(t, tortureBroker) }

func tortureBroker(t *testing.T, lanes bool) {
	w := startTorture(t, lanes, "block", "10s")
	for range rounds(t) {
		moment()
		w.killBroker()
		w.flowing()
	}
	w.end(goOnWithinRestart, "source", "other", "first/source", "first/other", "second/source", "second/other")
	for _, id := range []string{"first", "second", "source", "other"} {
		if n := w.node(id).report().Stats.Reconnects; n < uint64(rounds(t)) {
			t.Errorf("%s reconnected %d times", id, n)
		}
	}
}

// Everything in one run, with a remote receiver among them.
func TestTortureMixed(t *testing.T) { bothPaths(t, tortureMixed) }

func tortureMixed(t *testing.T, lanes bool) {
	w := startTorture(t, lanes, "block", "10s", remote)
	w.regionFiles = 2
	kills := []func(){w.killReceiver, w.killSender, w.killBroker}
	for round := range rounds(t) {
		moment()
		kills[(round+rand.IntN(len(kills)))%len(kills)]()
		if round%2 == 0 { // else the next kill comes before things have settled
			w.flowing()
		}
	}
	w.end(goOnWithinRestart, "other", "second/other")
}

// A receiver that is stopped keeps what it holds, however long; nobody else
// notices.
func TestTortureStop(t *testing.T) { bothPaths(t, tortureStop) }

func tortureStop(t *testing.T, lanes bool) {
	w := startTorture(t, lanes, "drop-oldest", "300ms")
	for range min(rounds(t), 10) {
		moment()
		first := w.node("first")
		seen := w.broker.log.len()
		first.signal(syscall.SIGSTOP)
		// It holds messages at any moment, but of which sender is chance.
		w.broker.log.await(t, seen, "message held too long", "holder", flowName+"/first")
		w.broker.log.await(t, seen, "message dropped", "to", "first/", "reason", wire.DropQueueFull.String())
		moment()
		first.signal(syscall.SIGCONT)
		first.do(order{Do: "recheck"})
		w.flowing()
	}
	w.end(goOnWithin, "source", "other", "second/source", "second/other")
}
