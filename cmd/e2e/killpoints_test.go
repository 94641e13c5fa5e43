//go:build linux

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// killers is this test with kill points in shared memory: a node that runs it
// kills itself before the store that its environment names.
var killers struct {
	once sync.Once
	path string
	err  error
}

func killersPath(t *testing.T) string {
	t.Helper()
	brokerdPath(t) // makes the directory
	killers.once.Do(func() {
		killers.path = filepath.Join(build.dir, "killpoints.test")
		args := []string{"test", "-c", "-tags", "killpoints", "-buildvcs=false", "-o", killers.path}
		if raceDetector {
			args = append(args, "-race")
		}
		out, err := exec.Command("go", append(args, "github.com/brokerd/brokerd/cmd/e2e")...).CombinedOutput()
		if err != nil {
			killers.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if killers.err != nil {
		t.Fatalf("build with kill points: %v", killers.err)
	}
	return killers.path
}

// doom starts a node that kills itself before its n-th store to shared memory.
func (w *world) doom(id string, p program, n int) *child {
	w.t.Helper()
	w.binary = killersPath(w.t)
	defer func() { w.binary = "" }()
	return w.launchNode(id, p, fmt.Sprintf("%s=%d,any", lane.KillAtEnv, n))
}

// died waits until a doomed node has killed itself.
func (c *child) died() {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		c.t.Fatalf("node %s lives\n%s", c.id, c.stderr)
	}
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGKILL {
		c.t.Fatalf("node %s ended with %v\n%s", c.id, c.cmd.ProcessState, c.stderr)
	}
}

const doomedSenderFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: other
    path: dynamic
    outputs: [frames]
  - id: block
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 2}
      other: {source: other/frames, policy: block, queue_size: 2}
  - id: drops
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: %s, queue_size: 1}
      other: {source: other/frames, policy: block, queue_size: 2}
`

// killPoints is how many stores of a process are tried. By then a sender has sent
// several messages on two lanes, with evictions and full queues among them, and a
// receiver has received dozens.
func killPoints() int {
	switch {
	case raceDetector, testing.Short():
		return 12
	case torments != "":
		return 600
	}
	return 120
}

// A sender dies before every single one of its stores to shared memory.
// Everybody else's books are right all the same.
func TestKillPointsSender(t *testing.T) {
	t.Parallel()
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			killPointsSender(t, policy)
		})
	}
}

func killPointsSender(t *testing.T, policy wire.Policy) {
	w := laneWorld(t, fmt.Sprintf(doomedSenderFlow, policy))
	w.vague = true
	receivers := []*child{
		w.start("block", program{Receive: true, Sleep: 300 * time.Microsecond}),
		w.start("drops", program{Receive: true, Sleep: 300 * time.Microsecond}),
	}
	other := w.start("other", program{})
	reply := other.begin(order{Do: "send", Output: "frames", Sizes: []int{64, 9000}, Every: 2 * time.Millisecond})
	var messages uint64
	for n := 1; n <= killPoints(); n++ {
		auto := order{Output: "frames", Sizes: []int{64, 9000}}
		w.doom("source", program{Auto: &auto, AutoLanes: len(receivers)}, n).died()
		w.gone("source")
		messages += w.settledAfter(n, receivers)
	}
	other.do(order{Do: "halt"})
	s := other.result(reply)
	other.do(order{Do: "close_output", Output: "frames"})
	for _, c := range receivers {
		whole(t, c.id+"/other", w.closed(c, "other"), s.Sent)
	}
	w.eventually("the last messages", settled)
	w.slotsFree(other)
	t.Logf("%d senders killed, after %d messages; the others' longest wait %v", killPoints(), messages, s.MaxGap.Round(time.Millisecond))
}

// settledAfter waits until all that a sender has sent before it died is settled,
// and compares what the receivers got with what the broker says. It returns how
// many messages the blocking receiver got of it.
func (w *world) settledAfter(n int, receivers []*child) (messages uint64) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("settled after kill point %d", n), func(s wire.Status) error {
		for _, c := range receivers {
			e := edgeTo(w.t, s, c.id+"/frames")
			if e.Queued != 0 || e.InFlight != 0 || e.Held != 0 || e.Published != e.Delivered+e.Dropped+e.NoReceiver {
				return fmt.Errorf("%+v", e)
			}
			in := c.report().Inputs["frames"]
			if in == nil {
				in = &inputReport{}
			}
			if len(in.Lives) > 0 && in.Closed == "" {
				return fmt.Errorf("%s: open", c.id)
			}
			var got uint64
			for _, l := range in.Lives {
				got += l.Count
			}
			if got != e.Delivered {
				return fmt.Errorf("%s got %d messages, the broker says %d", c.id, got, e.Delivered)
			}
			if c.id != "block" {
				continue
			}
			for _, l := range in.Lives {
				if l.Dropped != 0 || len(l.Spans) != 1 || l.Spans[0] != [2]uint64{1, l.Count} {
					w.t.Fatalf("kill point %d: the blocking receiver lost something: %+v", n, l)
				}
				messages = l.Count
			}
			if e.Dropped != 0 {
				w.t.Fatalf("kill point %d: the blocking edge dropped something: %+v", n, e)
			}
		}
		return nil
	})
	return messages
}

const doomedReceiverFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: block
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 4}
  - id: victim
    path: dynamic
    inputs:
      block: {source: source/frames, policy: block, queue_size: 2}
      oldest: {source: source/frames, queue_size: 1}
`

// A receiver dies before every single one of its stores to shared memory. Its
// sender goes on and has all its slots back, the other receiver has every
// message.
func TestKillPointsReceiver(t *testing.T) {
	t.Parallel()
	const batch = 40
	w := laneWorld(t, doomedReceiverFlow)
	source := w.start("source", program{})
	block := w.start("block", program{Receive: true, Keep: 1})
	w.onLanes("block/frames")
	var sent uint64
	var gap time.Duration
	for n := 1; n <= killPoints(); n++ {
		victim := w.doom("victim", program{Receive: true, Keep: 1}, n)
		select {
		case <-victim.unasked:
		case <-victim.done:
		case <-time.After(patience):
			t.Fatalf("kill point %d: neither ready nor dead", n)
		}
		begun := time.Now()
		for !victim.ended() {
			s := source.send(order{Output: "frames", Sizes: []int{64, 9000}, Count: batch})
			sent += s.Sent
			gap = max(gap, s.MaxGap)
			if s.Sent != batch || time.Since(begun) > patience {
				t.Fatalf("kill point %d: sent %+v, for %v", n, s, time.Since(begun))
			}
			if time.Since(begun) > time.Second { // it may be dead, and nobody has come to say so
				time.Sleep(10 * time.Millisecond)
			}
		}
		victim.died()
		w.gone("victim")
		w.eventually(fmt.Sprintf("settled after kill point %d", n), func(s wire.Status) error {
			for _, e := range s.Edges {
				if e.Published != e.Delivered+e.Dropped+e.NoReceiver || e.Queued != 0 || e.To == "victim/block" && e.Held != 0 {
					return fmt.Errorf("%+v", e)
				}
			}
			return nil
		})
		if n%40 == 0 {
			w.eventually(fmt.Sprintf("slots after kill point %d", n), func(wire.Status) error {
				if used := source.report().Stats.SlotsUsed; used > 1 { // block keeps one message
					return fmt.Errorf("%d are used", used)
				}
				return nil
			})
		}
	}
	source.do(order{Do: "close_output", Output: "frames"})
	whole(t, "block", w.closed(block, "frames"), sent)
	block.do(order{Do: "release"})
	w.eventually("the last messages", settled)
	w.slotsFree(source)
	t.Logf("%d receivers killed, %d messages, the sender's longest wait %v", killPoints(), sent, gap.Round(time.Millisecond))
}
