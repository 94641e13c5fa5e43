//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

const killFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: sink
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 8}
  - id: slow
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: %s, queue_size: 8, hold_timeout: 200ms}
`

// withoutErrno cuts what the kernel adds, which depends on the moment.
func withoutErrno(e entry) entry {
	reason, _, _ := strings.Cut(e.text("reason"), ": read:")
	fields := map[string]any{}
	for key, value := range e.fields {
		fields[key] = value
	}
	fields["reason"] = reason
	return entry{raw: e.raw, fields: fields}
}

func TestReceiverKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fmt.Sprintf(killFlow, "block"))
	source := w.start("source", program{})
	w.start("sink", program{Receive: true})
	slow := w.start("slow", program{Receive: true, Sleep: time.Hour})
	source.do(order{Do: "await", Output: "frames", Count: 2})
	// The slow one takes the first message and no other: the sender has to wait.
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{50_000}, Count: 100})
	w.eventually("slow's queue is full", func(s wire.Status) error {
		if e := edgeTo(t, s, "slow/frames"); e.Queued+e.InFlight < e.QueueSize {
			return fmt.Errorf("%d queued, %d in flight", e.Queued, e.InFlight)
		}
		return nil
	})
	seen := w.broker.log.len()
	slow.kill()
	killed := time.Now()
	s := source.result(reply)
	t.Logf("the sender had finished %v after the kill", time.Since(killed).Round(time.Millisecond))
	if s.Sent != 100 {
		t.Errorf("sent: %+v", s)
	}
	gone := w.broker.log.await(t, seen, "node left", "node", "slow")
	dropped := w.broker.log.await(t, seen, "message dropped", "to", "slow/frames")
	status := w.eventually("the rest", func(s wire.Status) error {
		if e := edgeTo(t, s, "sink/frames"); e.Delivered != 100 {
			return fmt.Errorf("%d delivered", e.Delivered)
		}
		return settled(s)
	})
	if e := edgeTo(t, status, "slow/frames"); e.Drops[wire.DropReceiverGone.String()] != e.Dropped || e.NoReceiver == 0 {
		t.Errorf("the killed receiver's edge: %+v", e)
	}
	w.slotsFree(source)
	observe(t, "a receiver is killed",
		"a sender that waited for it (`block`) goes on at once; all slots it held are the sender's again",
		shown(withoutErrno(gone), "node", "reason", "dropped", "held")+"\n"+shown(dropped, "to", "reason", "count"))
}

func TestSenderKilled(t *testing.T) {
	t.Parallel()
	const messages = 6
	w := newWorld(t, fmt.Sprintf(killFlow, "drop-oldest"))
	source := w.start("source", program{})
	sink := w.start("sink", program{Receive: true})
	slow := w.start("slow", program{Receive: true, Sleep: 150 * time.Millisecond})
	source.do(order{Do: "await", Output: "frames", Count: 2})
	source.send(order{Output: "frames", Sizes: []int{50_000, 2 * mib, 40}, Count: messages})
	w.eventually("all have reached the broker", func(s wire.Status) error {
		if e := edgeTo(t, s, "slow/frames"); e.Published != messages {
			return fmt.Errorf("%d published", e.Published)
		}
		return nil
	})
	seen := w.broker.log.len()
	source.kill()
	gone := w.broker.log.await(t, seen, "node left", "node", "source")
	reason := ""
	w.eventually("the last messages and the end", func(s wire.Status) error {
		for _, c := range []*child{sink, slow} {
			in := c.report().Inputs["frames"]
			if in == nil || in.Closed == "" {
				return fmt.Errorf("%s: no InputClosed yet", c.id)
			}
			if l := in.Lives[0]; l.Count != messages || l.Dropped != 0 {
				return fmt.Errorf("%s: %+v at the end, want %d messages", c.id, l, messages)
			}
			reason, _, _ = strings.Cut(in.Closed, ": read:")
		}
		if s.Memory.Regions != s.Memory.CachedRegions {
			return fmt.Errorf("memory %+v", s.Memory)
		}
		return settled(s)
	})
	// A new one starts where nobody remembers the old one.
	again := w.start("source", program{})
	again.do(order{Do: "await", Output: "frames", Count: 2})
	again.send(order{Output: "frames", Sizes: []int{1000}, Count: 3})
	w.eventually("messages of the next sender", func(s wire.Status) error {
		in := slow.report().Inputs["frames"]
		if len(in.Lives) != 2 || in.Lives[1].Count != 3 || in.Closed != "" {
			return fmt.Errorf("%+v", in)
		}
		return settled(s)
	})
	observe(t, "a sender is killed",
		fmt.Sprintf("receivers get its last messages, which stay readable, then `InputClosed`: %s; a new process of the node may go on", reason),
		shown(withoutErrno(gone), "node", "reason"))
}

func TestReceiverStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fmt.Sprintf(killFlow, "drop-oldest"))
	source := w.start("source", program{})
	sink := w.start("sink", program{Receive: true})
	slow := w.start("slow", program{Receive: true, Keep: 1})
	source.do(order{Do: "await", Output: "frames", Count: 2})
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{50_000}, Every: 2 * time.Millisecond})
	w.eventually("slow holds a message", func(s wire.Status) error {
		if kept := slow.report().Kept; kept == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
	seen := w.broker.log.len()
	slow.signal(syscall.SIGSTOP)
	held := w.broker.log.await(t, seen, "message held too long")
	dropped := w.broker.log.await(t, seen, "message dropped", "to", "slow/frames", "reason", "queue_full")
	slow.signal(syscall.SIGCONT)
	slow.do(order{Do: "recheck"})
	source.do(order{Do: "halt"})
	s := source.result(reply)
	if s.MaxGap > goOnWithin || s.NoMemory > 0 {
		t.Errorf("the sender: %+v", s)
	}
	slow.do(order{Do: "release"})
	status := w.eventually("the last messages", settled)
	if e := edgeTo(t, status, "sink/frames"); e.Delivered != s.Sent || sink.report().Inputs["frames"].MaxGap > goOnWithin {
		t.Errorf("the other receiver: %+v, of %d", e, s.Sent)
	}
	observe(t, "a receiver is stopped (SIGSTOP)",
		"its queue overflows, or holds its sender back if it blocks; what it holds stays as it is: after SIGCONT it reads right bytes, and gets the newest messages",
		shown(held, "holder", "held", "held_bytes")+"\n"+shown(dropped, "to", "reason", "policy", "count"))
}

func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fmt.Sprintf(killFlow, "drop-oldest"))
	source := w.start("source", program{})
	sink := w.start("sink", program{Receive: true, Keep: 3})
	slow := w.start("slow", program{Receive: true})
	source.do(order{Do: "await", Output: "frames", Count: 2})
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{50_000, mib}, Every: 2 * time.Millisecond})
	received := func(at least) func(wire.Status) error {
		return func(wire.Status) error {
			for _, c := range []*child{sink, slow} {
				if r := c.report(); r.Stats.Received < at.messages || r.Stats.Reconnects < at.reconnects {
					return fmt.Errorf("%s: %+v", c.id, r.Stats)
				}
			}
			return nil
		}
	}
	w.eventually("first messages", received(least{20, 0}))
	w.crash()
	// The nodes live on, and what they hold stays readable, with no broker at all.
	if r := sink.report(); r.Kept == 0 {
		t.Errorf("sink: %+v", r)
	}
	sink.do(order{Do: "recheck"})
	addr := w.broker.addr
	w.startBroker(addr)
	before := sink.report().Stats.Received
	w.eventually("messages after the restart", received(least{before + 20, 1}))
	swept := w.broker.log.await(t, 0, "shared memory of dead brokers removed")
	source.do(order{Do: "halt"})
	if s := source.result(reply); s.NoMemory > 0 {
		t.Errorf("sender: %+v", s)
	}
	sink.do(order{Do: "release"})
	w.eventually("the last messages", settled)
	observe(t, "brokerd is killed",
		"nodes try to connect again, with growing pauses, until it is back: `Send` waits, receivers get `Reconnected`; "+
			"messages under way are lost, messages that are held stay readable; the next start removes what is left in /dev/shm",
		shown(swept, "count"))
}

// least is what a receiver must have reached.
type least struct{ messages, reconnects uint64 }

// While the broker is stopped everybody waits; then it goes on as if nothing had
// been.
func TestBrokerStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fmt.Sprintf(killFlow, "block"), "--heartbeat", "100ms", "--slow-timeout", "200ms")
	w.regionFiles = 2
	source := w.start("source", program{})
	sink := w.start("sink", program{Receive: true})
	far := w.start("slow", program{Receive: true}, remote)
	source.do(order{Do: "await", Output: "frames", Count: 2})
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{50_000, 100}, Count: 200, Every: time.Millisecond})
	w.eventually("first messages", func(wire.Status) error {
		if sink.report().Stats.Received < 20 {
			return errors.New("too few")
		}
		return nil
	})
	w.signal(syscall.SIGSTOP)
	time.Sleep(150 * time.Millisecond) // longer than the heartbeat, shorter than what remote nodes put up with
	w.signal(syscall.SIGCONT)
	if s := source.result(reply); s.Sent != 200 || s.MaxGap < 100*time.Millisecond {
		t.Errorf("sent: %+v", s)
	}
	w.eventually("all messages", func(wire.Status) error {
		for _, c := range []*child{sink, far} {
			r := c.report()
			if l := r.Inputs["frames"].Lives[0]; l.Count != 200 || l.Dropped != 0 || r.Stats.Reconnects != 0 {
				return fmt.Errorf("%s: %+v, %d reconnects", c.id, l, r.Stats.Reconnects)
			}
		}
		return nil
	})
	observe(t, "brokerd is stopped for a while (SIGSTOP, SIGCONT)",
		"everybody waits, then goes on; `block` loses nothing. Remote nodes put up with three heartbeats, then they connect again", "")
}

// A broker that is told to stop tells its nodes, gives everything back, and logs
// what is lost with it.
func TestDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fmt.Sprintf(killFlow, "drop-oldest"), "--drain-timeout", "300ms")
	source := w.start("source", program{Receive: true})
	sink := w.start("sink", program{Receive: true, Keep: 2})
	w.start("slow", program{Receive: true, Sleep: 20 * time.Millisecond})
	source.do(order{Do: "await", Output: "frames", Count: 2})
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{50_000, 100}, Every: time.Millisecond})
	w.eventually("first messages", func(wire.Status) error {
		if sink.report().Stats.Received < 20 {
			return errors.New("too few")
		}
		return nil
	})
	w.ended = true
	b := w.broker
	w.signal(syscall.SIGTERM)
	if status := b.exit(t); status != 0 {
		t.Errorf("brokerd ended with %d", status)
	}
	draining := b.log.await(t, 0, "draining")
	dropped := b.log.await(t, 0, "message dropped", "to", "slow/frames", "reason", wire.DropShutdown.String())
	if names := shmNames(w.prefix); len(names) > 0 {
		t.Errorf("left in %s: %v", shmDir, names)
	}
	if _, wrong := b.log.drops(); len(wrong) > 0 {
		t.Errorf("drop log: %v", wrong)
	}
	sink.do(order{Do: "recheck"})
	for _, c := range w.nodes {
		if notes := strings.Join(c.report().Notes, "\n"); !strings.Contains(notes, "stop: ") {
			t.Errorf("%s was not told to stop: %s", c.id, notes)
		}
	}
	source.do(order{Do: "halt"})
	source.result(reply)
	for _, c := range w.nodes {
		c.close() // without a broker
		c.check()
	}
	observe(t, "brokerd is told to stop (SIGTERM)",
		"nodes get `Stop`, and `drain_timeout` to leave; then exit status 0, with nothing left in /dev/shm. Nodes that stay wait for the next brokerd; what they hold stays readable",
		shown(draining)+"\n"+shown(dropped, "to", "reason", "count"))
}

// A reload does not touch the edges that stay.
func TestReloadUnderTraffic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hostileFlow)
	w.reloaded = true
	bystanders := w.stand("source")
	text, err := os.ReadFile(w.flow)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		flow := string(text)
		if i%2 == 0 {
			flow += fmt.Sprintf("      again%d: {source: source/frames, queue_size: 2}\n", i)
		}
		if err := os.WriteFile(w.flow, []byte(flow), 0o644); err != nil {
			t.Fatal(err)
		}
		seen := w.broker.log.len()
		w.signal(syscall.SIGHUP)
		w.broker.log.await(t, seen, "reloaded")
		if i == 4 {
			guest := w.start("guest", program{Receive: true})
			w.eventually("messages on a new edge", func(wire.Status) error {
				if in := guest.report().Inputs["again4"]; in == nil {
					return errors.New("none")
				}
				return nil
			})
		}
	}
	bystanders.check()
}
