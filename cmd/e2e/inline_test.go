//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// blockFlow has receivers that make their sender wait: of such a dataflow nothing
// may be lost, whatever way it takes.
const blockFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: sink
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 4, policy: block}
  - id: also
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 4, policy: block}
`

// all waits until both receivers have all that was sent, and none of it was lost.
func (team *shmTeam) all() wire.Status {
	w := team.w
	w.t.Helper()
	status := w.eventually("all messages", func(st wire.Status) error {
		for _, to := range []string{"sink/frames", "also/frames"} {
			if e := edgeTo(w.t, st, to); e.Queued != 0 || e.InFlight != 0 || e.Delivered != team.sent || e.Dropped != 0 {
				return fmt.Errorf("%d sent, %+v", team.sent, e)
			}
		}
		for _, c := range []*child{team.sink, team.also} {
			if l := c.report().Inputs["frames"].Lives[0]; l.Count < team.sent {
				return fmt.Errorf("%d sent, %s has %d", team.sent, c.id, l.Count)
			}
		}
		return nil
	})
	for _, c := range []*child{team.sink, team.also} {
		l := c.report().Inputs["frames"].Lives[0]
		if l.Count != team.sent || len(l.Spans) != 1 || l.Dropped != 0 || l.Unexplained != 0 {
			w.t.Errorf("%d sent, %s has %+v", team.sent, c.id, l)
		}
	}
	return status
}

// ship sends messages of which none may fail.
func (team *shmTeam) ship(loan bool, sizes ...int) {
	team.w.t.Helper()
	const count = 60
	s := team.source.send(order{Output: "frames", Sizes: sizes, Count: count, Every: 2 * time.Millisecond, Loan: loan})
	if team.sent += s.Sent; s.Sent != count {
		team.w.t.Errorf("%+v", s)
	}
}

// With shm_fallback inline a full /dev/shm costs time and nothing else: messages
// go through brokerd, in order, and on lanes again when there is room.
func TestInlineFallback(t *testing.T) {
	for _, c := range []struct {
		name        string
		lanes, loan bool
		event       string
	}{
		{"lanes", true, false, "/dev/shm is full, and `shm_fallback` is `inline`"},
		{"lanes_loan", true, true, ""},
		{"brokered", false, false, ""},
		{"brokered_loan", false, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if inShm(t, "size=64m", "", c.event) {
				inlineFallback(t, c.lanes, c.loan)
			}
		})
	}
}

func inlineFallback(t *testing.T, lanes, loan bool) {
	w := prepare(t, blockFlow, "--shm-fallback", "inline")
	w.lanes = lanes
	w.startBroker("127.0.0.1:0")
	team := w.team(true)
	if lanes {
		w.onLanes()
	}
	team.ship(loan, 40, 9000)
	team.all()
	shell(t, fillShm)
	seen := w.broker.log.len()
	team.ship(loan, 40, 1_500_000, 40, 100, 3_000_000)
	status := team.all()
	sink := edgeTo(t, status, "sink/frames")
	if sink.Path != "brokered" || sink.PathReason != "no shared memory; fall-back inline" {
		t.Errorf("path %s: %s", sink.Path, sink.PathReason)
	}
	n := status.Counters.InlineFallbackMessages
	if n < 24 || status.Counters.InlineFallbackBytes < 24*1_500_000 || team.source.report().Stats.InlineFallbacks != n {
		t.Errorf("counted: %+v, by the sender %d", status.Counters, team.source.report().Stats.InlineFallbacks)
	}
	told := w.broker.log.await(t, seen, "messages travel inline for want of shared memory", "from", "source/frames")
	if !strings.Contains(told.text("cause"), "shared memory file system is full") {
		t.Errorf("%s", told.raw)
	}
	shell(t, emptyShm)
	w.broker.log.await(t, seen, "messages need not travel inline any more", "from", "source/frames")
	if lanes {
		w.onLanes()
	}
	team.ship(loan, 40, 1_500_000)
	status = team.all()
	if now := status.Counters.InlineFallbackMessages; now != n {
		t.Errorf("%d messages inline although there is memory", now-n)
	}
	var logged uint64
	for _, e := range w.broker.log.all(seen) {
		if e.msg() == told.msg() {
			logged += uint64(e.number("count"))
		}
	}
	if logged != n {
		t.Errorf("%d messages inline, the log says %d", n, logged)
	}
	if lanes {
		tellObserved("nothing but time: its messages go through brokerd, up to `frame_max`, and so do all others of that output, in order; "+
			"`brokerctl status` says `"+sink.PathReason+"`. Ten seconds after the last of them the edge is on its lane again",
			shown(told, "from", "count", "bytes")+"\n"+shown(w.broker.log.await(t, seen, "messages need not travel inline any more"), "from", "total"))
	}
}

// A message that fits neither into shared memory nor into a frame gets the error
// that it got without the fall-back.
func TestInlineFallbackIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shmFlow, "--shm-fallback", "inline", "--frame-max", "1MiB", "--shm-limit", "16MiB", "--shm-node-limit", "2MiB", "--shm-cache", "0")
	w.lanes = true
	team := w.team(true)
	w.onLanes()
	team.expect(3*mib, "quota of this node")
	team.expect(40)
}

// A receiver that hoards messages does not keep its sender from going on: what
// comes inline lies in the receiver's own memory.
func TestInlineFallbackOfHoarder(t *testing.T) {
	bothPaths(t, func(t *testing.T, lanes bool) {
		w := newWorld(t, shmFlow, "--shm-fallback", "inline", "--shm-limit", "32MiB", "--shm-node-limit", "8MiB", "--shm-cache", "0")
		w.lanes = lanes
		sink, also := w.start("sink", program{Receive: true, KeepAll: true}), w.start("also", program{Receive: true})
		source := w.start("source", program{})
		source.do(order{Do: "await", Output: "frames", Count: 2})
		if lanes {
			w.onLanes()
		}
		seen := w.broker.log.len()
		s := source.send(order{Output: "frames", Sizes: []int{1_500_000}, Count: 40, Every: 20 * time.Millisecond})
		if s.Sent != 40 {
			t.Errorf("%+v", s)
		}
		told := w.broker.log.await(t, seen, "messages travel inline for want of shared memory", "from", "source/frames")
		if !strings.Contains(told.text("cause"), "quota of this node") {
			t.Errorf("%s", told.raw)
		}
		w.eventually("the messages", func(st wire.Status) error {
			for _, to := range []string{"sink/frames", "also/frames"} {
				if e := edgeTo(t, st, to); e.Queued != 0 || e.Published != e.Delivered+e.Dropped {
					return fmt.Errorf("%+v", e)
				}
			}
			return nil
		})
		kept := sink.report()
		if kept.Kept < 20 {
			t.Errorf("it keeps %d messages", kept.Kept)
		}
		sink.do(order{Do: "release"}) // and looks at every byte
		for _, l := range also.report().Inputs["frames"].Lives {
			if l.Unexplained != 0 {
				t.Errorf("%+v", l)
			}
		}
	})
}
