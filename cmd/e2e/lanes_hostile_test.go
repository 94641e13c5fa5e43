//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

const laneHostileFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: sink
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 8}
  - id: guest
    path: dynamic
    outputs: [words]
    inputs:
      frames: {source: source/frames, queue_size: 8}
  - id: listener
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 64}
      words: {source: guest/words, queue_size: 8}
`

// intruder is a node without any library that has lanes: it can write wherever a
// node can.
type intruder struct {
	*peer
	w       *world
	probe   *shmpool.Probe
	grants  map[wire.LaneRole]*wire.LaneGrant
	lanes   map[wire.LaneRole]*lane.Memory
	bell    *lane.Memory // of the other end
	regions map[wire.RegionID]*shmpool.Mapping
	started map[wire.LaneRole]bool
	got     uint64 // messages through the broker
}

// intrude joins as guest, and goes on until it has a lane of that role.
func (w *world) intrude(t *testing.T, role wire.LaneRole) *intruder {
	t.Helper()
	in := &intruder{
		peer: w.peer(), w: w, grants: map[wire.LaneRole]*wire.LaneGrant{}, lanes: map[wire.LaneRole]*lane.Memory{},
		regions: map[wire.RegionID]*shmpool.Mapping{}, started: map[wire.LaneRole]bool{},
	}
	in.t = t
	h := hello("guest")
	h.Features = wire.FeatureLanes
	in.send(h)
	welcome, ok := in.must().(*wire.Welcome)
	if !ok || welcome.Features&wire.FeatureLanes == 0 {
		t.Fatalf("handshake: %v", welcome)
	}
	probe, nonce, err := shmpool.OpenProbe(welcome.ProbeName, welcome.ProbeOffset, welcome.ProbeLength)
	if err == nil {
		err = probe.Lock(welcome.Session)
	}
	if err != nil {
		t.Fatal(err)
	}
	in.probe = probe
	t.Cleanup(func() {
		in.leave()
		w.gone("guest")
	})
	in.send(&wire.Attach{Nonce: nonce})
	for !in.started[role] {
		in.obey(in.must(), role)
	}
	return in
}

func (in *intruder) must() wire.Message {
	in.t.Helper()
	m, err := in.next()
	if err != nil {
		in.t.Fatalf("instead of a lane: %v", err)
	}
	return m
}

// obey does what a node does, for lanes of the role that is wanted.
func (in *intruder) obey(m wire.Message, role wire.LaneRole) {
	in.t.Helper()
	switch m := m.(type) {
	case *wire.Error:
		in.t.Fatal(m)
	case *wire.RegionOpen:
		region, err := shmpool.Map(m.Name, m.Region, shmpool.Geometry{SlotBytes: m.SlotBytes, Slots: m.Slots}, shmpool.ReadLedger)
		if err != nil {
			in.t.Fatal(err)
		}
		if old := in.regions[m.Region]; old != nil {
			_ = old.Close()
		}
		in.regions[m.Region] = region
	case *wire.LaneGrant:
		if m.Role != role {
			in.send(&wire.LaneReady{Lane: m.Lane, Text: "not this one"})
			return
		}
		grant := *m
		in.grants[role] = &grant
		var err error
		if in.lanes[role], err = lane.Map(m.Name, m.Lane, m.SlotBytes); err == nil {
			in.bell, err = lane.Map(m.PeerBellName, m.PeerBellRegion, lane.BellSlotBytes)
		}
		if err != nil {
			in.t.Fatal(err)
		}
		in.send(&wire.LaneReady{Lane: m.Lane})
		if role == wire.LaneSender {
			in.send(&wire.LaneStart{Lane: m.Lane})
			in.started[role] = true
		}
	case *wire.Ready:
		if role == wire.LaneReceiver { // what comes before the lane has to be taken
			in.send(&wire.Next{Limit: 1 << 32})
		}
	case *wire.LaneStart:
		in.started[role] = true
	case *wire.Inputs:
		next := &wire.Next{Limit: 1 << 32}
		for _, item := range m.Items {
			in.got++
			if item.Token != 0 {
				next.Done = append(next.Done, item.Token)
			}
		}
		next.Consumed = in.got
		in.send(next)
	}
}

// leave lets go of everything, like a process that ends.
func (in *intruder) leave() {
	in.peer.close()
	for _, m := range in.lanes {
		_ = m.Close()
	}
	for _, m := range in.regions {
		_ = m.Close()
	}
	if in.bell != nil {
		_ = in.bell.Close()
	}
	_ = in.probe.Close()
}

// scribble calls do again and again for a while.
func scribble(do func()) {
	for begun := time.Now(); time.Since(begun) < 300*time.Millisecond; {
		for range 100 {
			do()
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// any64 is a random word, of a kind that does harm.
func any64() uint64 {
	switch rand.IntN(4) {
	case 0:
		return uint64(rand.IntN(4))
	case 1:
		return rand.Uint64() >> rand.IntN(64)
	case 2:
		return ^uint64(0) << rand.IntN(64)
	}
	return rand.Uint64()
}

func truncate(t *testing.T, name string) {
	t.Helper()
	if err := os.Truncate(filepath.Join(shmpool.Dir, name), 0); err != nil {
		t.Error(err)
	}
}

// Words of a lane; see docs/protocol.md.
const (
	tailAt    = 8
	headAt    = 16
	entriesAt = 128
)

// attacks are what an intruder does to memory that it may write to. fails says
// that the lane cannot go on.
var attacks = []struct {
	name  string
	role  wire.LaneRole
	fails bool
	do    func(t *testing.T, in *intruder, words []uint64)
}{
	{"receiver, all words", wire.LaneReceiver, true, func(_ *testing.T, _ *intruder, words []uint64) {
		scribble(func() { atomic.StoreUint64(&words[rand.IntN(len(words))], any64()) })
	}},
	{"receiver, constants", wire.LaneReceiver, false, func(_ *testing.T, _ *intruder, words []uint64) {
		scribble(func() { atomic.StoreUint64(&words[rand.IntN(tailAt)], any64()) })
	}},
	{"receiver, head", wire.LaneReceiver, true, func(_ *testing.T, _ *intruder, words []uint64) {
		scribble(func() { atomic.StoreUint64(&words[headAt], any64()) })
	}},
	{"receiver, claims without end", wire.LaneReceiver, true, func(_ *testing.T, _ *intruder, words []uint64) {
		scribble(func() { atomic.AddUint64(&words[headAt], 1) })
	}},
	{"receiver, bell", wire.LaneReceiver, false, func(_ *testing.T, in *intruder, _ []uint64) {
		bell := in.bell.Words()
		scribble(func() { atomic.StoreUint64(&bell[rand.IntN(len(bell))], any64()) })
	}},
	{"receiver, ledger", wire.LaneReceiver, false, func(_ *testing.T, in *intruder, _ []uint64) {
		// It sets what it likes, and clears its own. To clear others' is to have their
		// messages overwritten: nobody does that but a process of the same user.
		bit := in.grants[wire.LaneReceiver].Bit
		scribble(func() {
			for _, r := range in.regions {
				ledger := r.LedgerWords()
				k := rand.IntN(len(ledger))
				atomic.OrUint64(&ledger[k], any64())
				atomic.AndUint64(&ledger[k], ^(uint64(1) << bit))
			}
		})
	}},
	{"receiver, lane cut short", wire.LaneReceiver, true, func(t *testing.T, in *intruder, _ []uint64) {
		truncate(t, in.grants[wire.LaneReceiver].Name)
		time.Sleep(100 * time.Millisecond)
	}},
	{"sender, all words", wire.LaneSender, true, func(_ *testing.T, in *intruder, words []uint64) {
		bell := lane.NewBell(in.bell.Words())
		scribble(func() {
			atomic.StoreUint64(&words[rand.IntN(len(words))], any64())
			bell.Ring()
		})
	}},
	{"sender, descriptors of nothing", wire.LaneSender, true, func(_ *testing.T, in *intruder, words []uint64) {
		bell := lane.NewBell(in.bell.Words())
		regions := []wire.RegionID{0, 1, wire.RegionID(any64())}
		for id := range in.regions { // of source, which is not this lane's sender
			regions = append(regions, id)
		}
		scribble(func() {
			tail, head := atomic.LoadUint64(&words[tailAt]), atomic.LoadUint64(&words[headAt])
			if uint32(tail)-uint32(head)-uint32(head>>32) >= 8 || tail>>63 != 0 {
				return
			}
			entry := words[entriesAt+8*(tail&7):]
			for k, word := range []uint64{tail + 1, 0, uint64(regions[rand.IntN(len(regions))]), any64(), any64(), any64(), any64(), any64()} {
				atomic.StoreUint64(&entry[k], word)
			}
			atomic.CompareAndSwapUint64(&words[tailAt], tail, tail+1)
			bell.Ring()
		})
	}},
	{"sender, lane cut short", wire.LaneSender, true, func(t *testing.T, in *intruder, _ []uint64) {
		truncate(t, in.grants[wire.LaneSender].Name)
		lane.NewBell(in.bell.Words()).Ring()
		time.Sleep(100 * time.Millisecond)
	}},
	{"sender, bell cut short", wire.LaneSender, false, func(t *testing.T, in *intruder, _ []uint64) {
		truncate(t, in.grants[wire.LaneSender].PeerBellName)
		time.Sleep(100 * time.Millisecond)
	}},
}

// A node scribbles over the memory that it shares with others. The others go on,
// and so does the daemon; what is damaged is closed, said and counted.
func TestLanesHostile(t *testing.T) {
	t.Parallel()
	w := laneWorld(t, laneHostileFlow)
	w.vague = true
	listener := w.start("listener", program{Receive: true})
	bystanders := w.stand("source")
	for _, a := range attacks {
		t.Run(strings.ReplaceAll(a.name, ", ", "/"), func(t *testing.T) {
			seen := w.broker.log.len()
			in := w.intrude(t, a.role)
			edge := "guest/frames"
			if a.role == wire.LaneSender {
				edge = "listener/words"
			}
			// It hears what the broker says, until the connection ends.
			heard := make(chan error, 1)
			conn := in.conn
			go func() { heard <- drain(conn) }()
			before := edgeTo(t, w.status(), edge)
			a.do(t, in, in.lanes[a.role].Words())
			w.eventually("the sink's next messages", w.more(bystanders.sink, 20))
			w.eventually("the listener's next messages", w.more(listener, 20))
			var after wire.EdgeStatus
			if a.fails {
				w.eventually("the end of the lane", func(s wire.Status) error {
					if after = edgeTo(t, s, edge); after.Path != "brokered" || !strings.Contains(after.PathReason, "lane failed") {
						return fmt.Errorf("%s, %s", after.Path, after.PathReason)
					}
					return nil
				})
			}
			in.peer.close()
			<-heard
			w.gone("guest")
			said := "nothing"
			for _, e := range w.broker.log.all(seen) {
				if strings.HasPrefix(e.msg(), "lane ") && e.text("to") == edge {
					said = e.msg() + ": " + e.text("why") + e.text("error")
				}
			}
			if a.fails && said == "nothing" {
				t.Error("the broker's log says nothing about it")
			}
			if a.name == "receiver, head" {
				path := w.broker.log.await(t, seen, "edge path", "to", edge, "reason", "lane failed")
				observe(t, "a node writes nonsense to a lane",
					"the lane is closed, and what was on it counts as dropped; the edge goes through brokerd until one of its nodes connects again",
					shown(path, "to", "path"))
			}
			after = edgeTo(t, w.status(), edge)
			t.Logf("path reason: %s; log: %s; %d dropped: %v", after.PathReason, said, after.Dropped-before.Dropped, after.Drops)
		})
	}
	// Nothing of this is left: other nodes in the same places have lanes again. A
	// bell that was cut short goes with its node.
	listener.close()
	w.gone("listener")
	listener = w.start("listener", program{Receive: true})
	guest := w.start("guest", program{Receive: true})
	w.eventually("lanes of the next guest", func(s wire.Status) error {
		for _, to := range []string{"guest/frames", "listener/words"} {
			if e := edgeTo(t, s, to); e.Path != "lane" {
				return fmt.Errorf("%s is %s: %s", to, e.Path, e.PathReason)
			}
		}
		return nil
	})
	guest.send(order{Output: "words", Sizes: []int{64, 5000}, Count: 50})
	w.got(guest, "frames", 20)
	bystanders.check()
	guest.do(order{Do: "close_output", Output: "words"})
	w.closed(listener, "words")
	for _, c := range []*child{listener, bystanders.sink, bystanders.source, guest} {
		if c.ended() {
			t.Errorf("%s has ended", c.id)
		}
	}
}

// more returns a test whether a node has got so many more messages.
func (w *world) more(c *child, n uint64) func(wire.Status) error {
	goal := c.report().Stats.Received + n
	return func(wire.Status) error {
		if got := c.report().Stats.Received; got < goal {
			return fmt.Errorf("%d messages, %d to come", got, goal-got)
		}
		return nil
	}
}

// drain reads to the end of a connection.
func drain(conn net.Conn) error {
	_ = conn.SetReadDeadline(time.Time{})
	buffer := make([]byte, 1<<16)
	for {
		if _, err := conn.Read(buffer); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
	}
}
