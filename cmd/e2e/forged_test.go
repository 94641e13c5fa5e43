//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

const forgedFlow = `nodes:
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
      words: {source: guest/words, policy: block, queue_size: 4}
`

// objects lists the shared memory of all brokers of these tests.
func objects(t *testing.T) map[wire.RegionID]string {
	t.Helper()
	all := map[wire.RegionID]string{}
	paths, err := filepath.Glob(filepath.Join(shmDir, "e2e_*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		parts := strings.Split(filepath.Base(path), "-")
		if len(parts) != 4 {
			continue // a probe
		}
		id, err := strconv.ParseUint(parts[2], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		all[wire.RegionID(id)] = filepath.Base(path)
	}
	return all
}

// sentByBroker are the kinds that no node may send, whatever it is.
var sentByBroker = []wire.Kind{
	wire.KindWelcome, wire.KindReady, wire.KindPorts, wire.KindInputs, wire.KindFlow, wire.KindRegionGrant,
	wire.KindRegionDenied, wire.KindRegionRetire, wire.KindRegionOpen, wire.KindRegionClose, wire.KindInputClosed,
	wire.KindStop, wire.KindReply, wire.KindLaneGrant, wire.KindLaneClose, wire.KindAdopted,
}

// A node says everything that it may say, of things that belong to others: it is
// refused with the right word, or nothing comes of it; and the others, whose
// messages are in memory that it names, do not notice.
func TestForged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forgedFlow, "--shm-fallback", "inline")
	b := &bystanders{w: w, sink: w.start("sink", program{Receive: true, Keep: 4}), source: w.start("source", program{})}
	w.listener(t)
	b.source.do(order{Do: "await", Output: "frames", Count: 1})
	b.reply = b.source.begin(order{Do: "send", Output: "frames", Sizes: []int{50_000}, Every: 2 * time.Millisecond})
	w.eventually("the sink holds messages", func(s wire.Status) error {
		if held := edgeTo(t, s, "sink/frames").Held; held < 4 {
			return fmt.Errorf("%d held", held)
		}
		return nil
	})
	all := forgeries
	for _, kind := range sentByBroker {
		m := wire.NewMessage(kind)
		switch m := m.(type) { // what is empty is no message at all
		case *wire.LaneGrant:
			*m = wire.LaneGrant{Lane: 1, QueueSize: 1, Name: "x", SlotBytes: 2048, BellRegion: 2, BellName: "y", PeerBellRegion: 3, PeerBellName: "z", Peer: "a/b"}
		case *wire.LaneClose:
			m.Lane = 1
		}
		for _, as := range []forgerKind{greeted, able, operator} {
			all = append(all, forgery{kind.String() + ", the broker's, as " + strconv.Itoa(int(as)), as, wire.CodeWrongState, says(m)})
		}
	}
	said := map[wire.Kind]bool{
		// Nothing in them belongs to anybody.
		wire.KindPing: true, wire.KindPong: true, wire.KindBye: true, wire.KindError: true,
		// In TestForgedLanes.
		wire.KindLaneStart: true, wire.KindLaneFault: true, wire.KindLaneHeld: true,
	}
	for _, c := range all {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			f := w.forger(t, c.kind)
			if messages := c.say(f); len(messages) > 0 {
				f.send(messages...)
				for _, m := range messages {
					said[m.Kind()] = true
				}
			}
			if c.code == wire.CodeOK {
				f.unharmed()
			} else if e := f.refused(); e.Code != c.code {
				t.Errorf("refused with %v, want %v", e, c.code)
			}
			f.leave()
			w.gone("guest")
			s := w.status()
			if edge := edgeTo(t, s, "sink/frames"); edge.Held < 4 || edge.Dropped != 0 {
				t.Errorf("the sink's edge: %+v", edge)
			}
		})
	}
	for kind := wire.Kind(1); kind <= wire.KindMax; kind++ {
		if wire.NewMessage(kind) != nil && !said[kind] {
			t.Errorf("no node has said %v: what could be forged in it?", kind)
		}
	}
	if s := w.status(); s.Memory.RetiredRegions != 0 {
		t.Errorf("memory: %+v", s.Memory)
	}
	b.check()
	b.sink.do(order{Do: "recheck"})
}

// forgedLanes are what a node may say of lanes; nil as a result: there is nothing
// of that kind to try.
var forgedLanes = []struct {
	name string
	own  wire.LaneRole // that it has started
	code wire.Code
	say  func(lane wire.RegionID) wire.Message
}{
	{"lane_ready, a second one", wire.LaneReceiver, wire.CodeProtocol, func(l wire.RegionID) wire.Message { return &wire.LaneReady{Lane: l} }},
	{"lane_start of the receiver", wire.LaneReceiver, wire.CodeProtocol, func(l wire.RegionID) wire.Message { return &wire.LaneStart{Lane: l} }},
	{"lane_start, a second one", wire.LaneSender, wire.CodeProtocol, func(l wire.RegionID) wire.Message { return &wire.LaneStart{Lane: l} }},
	{"lane_done of an open lane", wire.LaneReceiver, wire.CodeProtocol, func(l wire.RegionID) wire.Message { return &wire.LaneDone{Lane: l} }},
	{"lane_done of an open lane, sender", wire.LaneSender, wire.CodeProtocol, func(l wire.RegionID) wire.Message { return &wire.LaneDone{Lane: l} }},
	{"lane_held of the receiver", wire.LaneReceiver, wire.CodeProtocol, func(l wire.RegionID) wire.Message { return &wire.LaneHeld{Lane: l, Region: 1, Count: 1} }},
	{"lane_held of nothing", wire.LaneSender, wire.CodeProtocol, func(l wire.RegionID) wire.Message { return &wire.LaneHeld{Lane: l} }},
	{"lane_fault for no reason", wire.LaneSender, wire.CodeProtocol, func(l wire.RegionID) wire.Message {
		return &wire.LaneFault{Lane: l, Reason: 200, Count: 1, SeqFirst: 1, SeqLast: 1}
	}},
	{"lane_fault of more than there are numbers", wire.LaneReceiver, wire.CodeProtocol, func(l wire.RegionID) wire.Message {
		return &wire.LaneFault{Lane: l, Reason: wire.DropBadDescriptor, Count: 1 << 60, SeqFirst: 1, SeqLast: 5}
	}},
}

// The same of lanes: of its own at the wrong time, and of all that others have.
func TestForgedLanes(t *testing.T) {
	t.Parallel()
	w := laneWorld(t, forgedFlow)
	b := &bystanders{w: w, sink: w.start("sink", program{Receive: true, Keep: 4}), source: w.start("source", program{})}
	w.start("listener", program{Receive: true})
	b.source.do(order{Do: "await", Output: "frames", Count: 1})
	w.onLanes("sink/frames")
	b.reply = b.source.begin(order{Do: "send", Output: "frames", Sizes: []int{100, 50_000}, Every: 2 * time.Millisecond})
	try := func(name string, role wire.LaneRole, code wire.Code, m func(*intruder) wire.Message) {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			i := w.intrude(t, role)
			i.send(m(i))
			if code == wire.CodeOK {
				i.send(&wire.Ping{Nonce: 3})
				for {
					if pong, ok := i.must().(*wire.Pong); ok && pong.Nonce == 3 {
						break
					}
				}
			} else if e := i.refused(); e.Code != code {
				t.Errorf("refused with %v, want %v", e, code)
			}
			i.leave()
			w.gone("guest")
			if edge := edgeTo(t, w.status(), "sink/frames"); edge.Path != "lane" || edge.Dropped != 0 {
				t.Errorf("the sink's edge: %+v", edge)
			}
		})
	}
	for _, c := range forgedLanes {
		try(c.name, c.own, c.code, func(i *intruder) wire.Message { return c.say(i.grants[c.own].Lane) })
	}
	// All shared memory that there is, and that is not its own: regions, bells, and
	// among them the lane from source to sink.
	i := w.intrude(t, wire.LaneReceiver)
	own := i.grants[wire.LaneReceiver].Lane
	others := objects(t)
	delete(others, own)
	i.leave()
	w.gone("guest")
	if len(others) < 4 {
		t.Fatalf("shared memory: %v", others)
	}
	for id := range others {
		if _, err := os.Stat(filepath.Join(shmDir, others[id])); errors.Is(err, os.ErrNotExist) {
			continue // the intruder's, or another test's
		}
		for _, m := range []wire.Message{
			&wire.LaneReady{Lane: id}, &wire.LaneReady{Lane: id, Text: "cannot"}, &wire.LaneStart{Lane: id}, &wire.LaneDone{Lane: id},
			&wire.LaneFault{Lane: id, Reason: wire.DropBadDescriptor, Text: "damaged"}, &wire.LaneHeld{Lane: id, Region: id, Count: 1},
		} {
			try(fmt.Sprintf("%v of %x", m.Kind(), uint64(id)), wire.LaneReceiver, wire.CodeNotYours, func(*intruder) wire.Message { return m })
		}
	}
	// It may say that somebody holds its messages for too long, and which region they
	// are in: if that is not its own, it is not taken out of use.
	for id := range others {
		try(fmt.Sprintf("lane_held in region %x", uint64(id)), wire.LaneSender, wire.CodeOK, func(i *intruder) wire.Message {
			return &wire.LaneHeld{Lane: i.grants[wire.LaneSender].Lane, Region: id, Count: 1}
		})
	}
	if s := w.status(); s.Memory.RetiredRegions != 0 {
		t.Errorf("memory: %+v", s.Memory)
	}
	b.check()
	b.sink.do(order{Do: "recheck"})
}

// Who only says that it shares memory is treated as one who does not.
func TestForgedLocality(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forgedFlow)
	other := w.forgerAs(t, "listener", nearby)
	for _, c := range []struct {
		name, reason string
		attach       func(*forger) []byte
	}{
		{"another nonce", "another shared memory", func(f *forger) []byte { return make([]byte, len(f.nonce)) }},
		{"half a nonce", "another shared memory", func(f *forger) []byte { return f.nonce[:len(f.nonce)/2] }},
		{"no lock", "no lock", func(f *forger) []byte { return f.nonce }},
		{"somebody else's lock", "no lock", func(f *forger) []byte {
			if err := f.probe.Lock(other.session); err != nil {
				t.Fatal(err)
			}
			return f.nonce
		}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			f := w.forger(t, greeted)
			f.t = t
			f.send(&wire.Attach{Nonce: c.attach(f)})
			f.until(func(m wire.Message) bool { return m.Kind() == wire.KindReady })
			if f.ready.Local || !strings.Contains(f.ready.Reason, c.reason) {
				t.Errorf("%+v", f.ready)
			}
			f.send(&wire.RegionRequest{SlotBytes: 4096, Slots: 1})
			if e := f.refused(); e.Code != wire.CodeWrongState {
				t.Errorf("refused with %v", e)
			}
			f.leave()
			w.gone("guest")
		})
	}
}
