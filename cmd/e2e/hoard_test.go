//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

const hoardFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: hoard
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 16, hold_timeout: 200ms}
  - id: other
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 16, hold_timeout: 200ms}
`

// A receiver keeps every message for ever, on either path or on both at once. Its
// sender goes on far past its quota: what is held moves to the holder's own memory
// while it is read, over and over, and is there until it is let go of.
func TestHoard(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"brokered", "lanes", "both"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			hoard(t, mode)
		})
	}
}

func hoard(t *testing.T, mode string) {
	const quota, batch, batches = 24, 8, 12 // MiB, messages of 1 MiB each
	w := newWorld(t, hoardFlow, "--shm-node-limit", fmt.Sprintf("%dMiB", quota), "--shm-limit", "64MiB", "--shm-cache", "16MiB",
		"--held-max", "1GiB", "--http", "127.0.0.1:0")
	w.lanes = mode != "brokered"
	env := []string{}
	if mode == "both" {
		env = append(env, noLanes)
	}
	source := w.start("source", program{})
	holders := []*child{
		w.start("hoard", program{Receive: true, KeepAll: true, Watch: 2}),
		w.start("other", program{Receive: true, KeepAll: true, Watch: 1}, env...),
	}
	source.do(order{Do: "await", Output: "frames", Count: 2})
	if mode == "lanes" {
		w.onLanes()
	} else if mode == "both" {
		w.onLanes("hoard/frames")
	}
	before := ownMemory(t, holders[0].pid)
	small := order{Output: "frames", Sizes: []int{200, 6000, 100}, Count: 12, Every: time.Millisecond}
	sent := uint64(0)
	for range batches {
		for _, o := range []order{{Output: "frames", Sizes: []int{mib}, Count: batch}, small} {
			s := source.send(o)
			if s.NoMemory > 0 {
				t.Errorf("no memory for %d of %d messages: %s", s.NoMemory, s.Last, s.NoMemoryText)
			}
			sent += s.Sent
			w.received(holders, sent)
		}
		want := sent
		if mode == "brokered" {
			want -= framed(sent)
		}
		w.eventually("all is evacuated", func(s wire.Status) error { return evacuatedIs(s, want) })
	}
	evacuated := w.broker.log.await(t, 0, "message evacuated", "holder", flowName+"/hoard")
	s := w.status()
	for _, n := range s.Nodes {
		if (n.Node == "hoard" || n.Node == "other") && (n.KeptBytes < batches*batch*mib || n.Stuck > 0 || n.HeldBytes > mib) {
			t.Errorf("status of the holder: %+v", n)
		}
	}
	if e := edgeTo(t, s, "hoard/frames"); e.Dropped > 0 {
		t.Errorf("the holder has lost something: %+v", e)
	}
	held := ownMemory(t, holders[0].pid)
	t.Logf("%d messages held; the holder has %d MiB of its own in %d mappings, had %d MiB in %d",
		sent, held.anonymous/mib, held.mappings, before.anonymous/mib, before.mappings)
	for _, c := range holders {
		if r := c.report(); r.Kept != int(sent) || r.Watched == 0 {
			t.Errorf("%s holds %d messages of %d, and has read all of them %d times", c.id, r.Kept, sent, r.Watched)
		}
		c.do(order{Do: "release"})
	}
	w.eventually("nothing is kept", func(s wire.Status) error {
		for _, n := range s.Nodes {
			if n.KeptBytes != 0 || n.KeptMessages != 0 {
				return fmt.Errorf("%s keeps %d bytes", n.Node, n.KeptBytes)
			}
		}
		return settled(s)
	})
	after := ownMemory(t, holders[0].pid)
	t.Logf("released: %d MiB in %d mappings", after.anonymous/mib, after.mappings)
	if after.anonymous > before.anonymous+16*mib || after.mappings > before.mappings+40 {
		t.Errorf("the holder has let go of everything: %+v, had %+v at first and %+v at most", after, before, held)
	}
	if mode == "brokered" {
		observe(t, "a receiver that holds messages for ever",
			"nobody notices: after `hold_timeout` its library moves them to memory of its own, at the same addresses, up to `held_max`, and the sender has its slots again",
			shown(evacuated, "holder", "count", "kept_messages", "kept_bytes", "held_max"))
	}
}

// received waits until all of them have got so many messages.
func (w *world) received(receivers []*child, count uint64) {
	w.t.Helper()
	for _, c := range receivers {
		for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
			got := c.report().Stats.Received
			if got == count {
				break
			}
			if time.Now().After(deadline) || got > count {
				w.t.Fatalf("%s has got %d messages of %d", c.id, got, count)
			}
		}
	}
}

// framed is how many of the messages of TestHoard travel in frames, if there are no
// lanes, and are their receiver's own at once: of each 20 the 8 of 100 and 200 bytes.
func framed(sent uint64) uint64 { return sent / 20 * 8 }

// The broker is killed while somebody hoards: nobody needs it for that, and the
// next one hears of it.
func TestHoardWithoutBroker(t *testing.T) {
	t.Parallel()
	const quota, batch = 24, 8
	w := laneWorld(t, hoardFlow, "--shm-node-limit", fmt.Sprintf("%dMiB", quota), "--shm-limit", "64MiB", "--shm-cache", "16MiB")
	source := w.start("source", program{})
	holders := []*child{
		w.start("hoard", program{Receive: true, KeepAll: true, Watch: 1}),
		w.start("other", program{Receive: true, KeepAll: true, Watch: 1}),
	}
	source.do(order{Do: "await", Output: "frames", Count: 2})
	w.onLanes()
	frames := order{Output: "frames", Sizes: []int{mib}, Count: batch}
	sent := uint64(0)
	send := func() {
		t.Helper()
		if s := source.send(frames); s.NoMemory > 0 || s.Sent != batch {
			t.Fatalf("sent: %+v", s)
		}
		sent += batch
		w.received(holders, sent)
		for _, c := range holders {
			for deadline := time.Now().Add(patience); c.report().Stats.Evacuated != sent; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s: %+v", c.id, c.report().Stats)
				}
			}
		}
	}
	for range 3 {
		send()
	}
	w.eventually("the broker has heard of it", func(s wire.Status) error { return evacuatedIs(s, sent) })
	before := sent
	w.crash()
	for range 6 {
		send()
	}
	w.startBroker(w.broker.addr)
	w.adopted(append(holders, source)...)
	send()
	w.eventually("the new broker has heard of the rest", func(s wire.Status) error { return evacuatedIs(s, sent-before) })
	for _, c := range holders {
		c.do(order{Do: "recheck"})
		c.do(order{Do: "release"})
	}
	w.eventually("nothing is held", settled)
	w.slotsFree(source)
}

func evacuatedIs(s wire.Status, want uint64) error {
	for _, e := range s.Edges {
		if e.Evacuated != want {
			return fmt.Errorf("%s→%s: %d evacuated of %d", e.From, e.To, e.Evacuated, want)
		}
	}
	return nil
}

// processMemory is what a process has mapped.
type processMemory struct {
	anonymous uint64 // bytes, resident
	mappings  int
}

func ownMemory(t *testing.T, pid int) processMemory {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	numbers, err := procNumbers(pid, "smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	return processMemory{anonymous: numbers["Anonymous"], mappings: bytes.Count(maps, []byte("\n"))}
}
