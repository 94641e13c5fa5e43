//go:build linux

package e2e

import (
	"fmt"
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
	w.broker.crash()
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
