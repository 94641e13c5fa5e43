package node

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// hostile is the sending end of a lane in the hands of the test.
type hostile struct {
	*laneWorld
	lane     *testLane
	producer *lane.Producer
	region   testRegion
}

func newHostile(t *testing.T) *hostile {
	w := newLaneWorld(t)
	w.receiver.receiver.mu.Lock()
	w.receiver.receiver.lanes.park = 300 * time.Millisecond
	w.receiver.receiver.mu.Unlock()
	l := w.newLane(16, wire.PolicyDropOldest, 3)
	w.cr.send(w.forReceiver(l))
	expectLane[*wire.LaneReady](w.cr)
	producer, err := lane.NewProducer(l.memory.Words(), lane.Config{Lane: l.region.id, QueueSize: 16, Policy: wire.PolicyDropOldest})
	if err != nil {
		t.Fatal(err)
	}
	h := &hostile{laneWorld: w, lane: l, producer: producer, region: w.p.newRegion(4096, 4)}
	w.cr.send(h.announce(h.region), &wire.LaneStart{Lane: l.region.id})
	return h
}

func (h *hostile) announce(r testRegion) *wire.RegionOpen {
	open := r.open()
	open.Owner = h.bells[0].id
	return open
}

func (h *hostile) push(d lane.Descriptor) {
	h.t.Helper()
	if v, _, _ := h.producer.Push(&d, 1); v != lane.Pushed {
		h.t.Fatalf("push: %s", v)
	}
}

// lend sets the lane's bit for a slot, and returns a function that reports whether
// it is still set.
func (h *hostile) lend(r testRegion, slot uint32) func() bool {
	h.t.Helper()
	mapping, err := shmpool.Map(r.name, r.id, r.geometry, shmpool.ReadWrite)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = mapping.Close() })
	ledger := lane.NewLedger(mapping.LedgerWords())
	ledger.Lend(slot, 1<<h.lane.grant.Bit)
	return func() bool { return ledger.Held(slot, 1<<h.lane.grant.Bit) }
}

func TestHostileDescriptorsOnLanes(t *testing.T) {
	h := newHostile(t)
	stranger := h.p.newRegion(4096, 1) // of another node
	ours := h.region
	open := stranger.open()
	open.Owner = 12345
	h.cr.send(open, &wire.Ping{Nonce: 1})
	expectLane[*wire.Pong](h.cr)
	first := ours.geometry.SlotOffset(0)
	long := wire.AppendMetadata(nil, []Attr{Bytes("k", make([]byte, 2000))})
	ours.write(h.p, 2, long)
	bad := []lane.Descriptor{
		{Region: stranger.id, Offset: first, Length: 8},
		{Region: ours.id, Offset: 0, Length: 8},
		{Region: ours.id, Offset: first + 4000, Length: 97},
		{Region: ours.id, Offset: 1 << 63, Length: 1 << 63},
		{Region: h.lane.region.id, Offset: first, Length: 8},
		{Region: ours.id, Offset: first, Length: 8, MetaRegion: ours.id, MetaOffset: first, MetaLength: 16},
		{Region: ours.id, Offset: first, Length: 8, MetaRegion: ours.id, MetaOffset: first, MetaLength: wire.MetadataBytesMax + 1},
		{Region: ours.id, Offset: first, Length: 8, MetaRegion: stranger.id, MetaOffset: first, MetaLength: 1},
		{Region: ours.id, Offset: first, Length: 8, MetaRegion: ours.id, MetaOffset: ours.geometry.SlotOffset(2), MetaLength: uint64(len(long) - 1)},
	}
	for i, d := range bad {
		d.Seq = wire.Seq(i + 1)
		h.push(d)
	}
	h.push(lane.Descriptor{Seq: 100, Region: ours.id, Offset: ours.write(h.p, 1, []byte("good")), Length: 4,
		MetaRegion: ours.id, MetaOffset: ours.geometry.SlotOffset(2), MetaLength: uint64(len(long))})
	got := make(chan Message)
	go func() {
		ev, err := h.receiver.Next(testContext(t))
		if err != nil {
			t.Error(err)
		}
		got <- ev.Message
	}()
	// The first fault is told at once; the rest waits for the end of the lane.
	fault := expectLane[*wire.LaneFault](h.cr)
	if fault.Lane != h.lane.region.id || fault.Count != 1 || fault.SeqFirst != 1 || fault.Reason != wire.DropBadDescriptor || fault.Text == "" {
		t.Errorf("got %s", fault)
	}
	select {
	case m := <-got:
		t.Errorf("read on: %d", m.Seq())
	case <-time.After(20 * time.Millisecond):
	}
	_ = h.lane.keeper.Close()
	h.cr.send(&wire.LaneClose{Lane: h.lane.region.id})
	m := <-got
	if m.Seq() != 100 || string(m.Payload()) != "good" || m.Dropped() != uint64(len(bad)) || len(m.Metadata()) != len(long) {
		t.Errorf("got seq %d, %q, %d dropped", m.Seq(), m.Payload(), m.Dropped())
	}
	m.Release()
	if _, err := h.receiver.Next(canceled()); err == nil {
		t.Error("there is more")
	}
	if fault = expectLane[*wire.LaneFault](h.cr); fault.Count != uint64(len(bad)-1) || fault.SeqLast != wire.Seq(len(bad)) {
		t.Errorf("got %s", fault)
	}
	expectLane[*wire.LaneDone](h.cr)
	if n := h.receiver.Stats().Rejected; n != uint64(len(bad)) {
		t.Errorf("%d rejected", n)
	}
}

// TestLaneWaitsForItsRegion: broker and sender are not one connection.
func TestLaneWaitsForItsRegion(t *testing.T) {
	h := newHostile(t)
	late := h.p.newRegion(4096, 1)
	h.push(lane.Descriptor{Seq: 1, Region: late.id, Offset: late.write(h.p, 0, []byte("late")), Length: 4})
	h.push(lane.Descriptor{Seq: 2, Region: h.region.id, Offset: h.region.write(h.p, 1, []byte("next")), Length: 4})
	go func() {
		eventually(t, "Next sleeps", func() bool { return h.receiver.sleeper.waiting.Load() > 0 })
		h.cr.send(h.announce(late))
	}()
	h.wantNext(1, "late", 0)
	h.wantNext(2, "next", 0)

	// It does not wait for ever.
	begun := time.Now()
	h.push(lane.Descriptor{Seq: 3, Region: late.id + 1000, Offset: 4096, Length: 4})
	if _, err := h.receiver.Next(canceled()); err == nil {
		t.Error("there is more")
	}
	go func() { _, _ = h.receiver.Next(testContext(t)) }()
	if fault := expectLane[*wire.LaneFault](h.cr); fault.SeqFirst != 3 || time.Since(begun) < h.receiver.receiver.lanes.park {
		t.Errorf("got %s after %v", fault, time.Since(begun))
	}
	_ = h.receiver.Close()
}

// TestMetadataInLateRegion: while a message waits for the region of its metadata,
// its payload is not given back.
func TestMetadataInLateRegion(t *testing.T) {
	h := newHostile(t)
	h.cr.send(&wire.Ping{Nonce: 1})
	expectLane[*wire.Pong](h.cr)
	late := h.p.newRegion(4096, 1)
	meta := wire.AppendMetadata(nil, []Attr{String("n", "1")})
	payload := h.lend(h.region, 1)
	metadata := h.lend(late, 0)
	h.push(lane.Descriptor{Seq: 1, Region: h.region.id, Offset: h.region.write(h.p, 1, []byte("good")), Length: 4,
		MetaRegion: late.id, MetaOffset: late.write(h.p, 0, meta), MetaLength: uint64(len(meta))})
	if _, err := h.receiver.Next(canceled()); err == nil {
		t.Fatal("it was handed out without its metadata")
	}
	if !payload() || !metadata() {
		t.Errorf("given back while it waits: payload %v, metadata %v", !payload(), !metadata())
	}
	h.cr.send(h.announce(late))
	m := h.next()
	if !payload() || metadata() {
		t.Errorf("while it is held: payload given back %v, metadata given back %v", !payload(), !metadata())
	}
	if v, ok := m.Metadata().Lookup("n"); !ok || v.Text() != "1" {
		t.Errorf("metadata %v", m.Metadata())
	}
	m.Release()
	if payload() {
		t.Error("the payload is not given back")
	}
}

// TestLaneMemoryIsCutShort: no crash, and the lane is reported.
func TestLaneMemoryIsCutShort(t *testing.T) {
	w := newLaneWorld(t)
	l := w.lane(16, wire.PolicyDropOldest, 3)
	w.send("a")
	w.wantNext(1, "a", 0)
	if err := l.region.file.Truncate(shmpool.HeaderBytes); err != nil {
		t.Fatal(err)
	}
	next := make(chan error)
	go func() {
		_, err := w.receiver.Next(testContext(t))
		next <- err
	}()
	if fault := expectLane[*wire.LaneFault](w.cr); fault.Count != 0 || fault.Lane != l.region.id {
		t.Errorf("receiver: got %s", fault)
	}
	w.send("b") // goes to the broker, as soon as that knows: the lane is damaged
	if fault := expectLane[*wire.LaneFault](w.cs); fault.Count != 0 || fault.Lane != l.region.id {
		t.Errorf("sender: got %s", fault)
	}
	w.cs.send(&wire.Flow{Output: 0, Epoch: 2, Receivers: 1, Window: 9, Brokered: 1}, &wire.LaneClose{Lane: l.region.id, Settled: true})
	if p := expectLane[*wire.Publish](w.cs); p.Seq != 2 || p.Lanes != 0 || p.Epoch != 2 {
		t.Errorf("got %s", p)
	}
	w.cr.send(&wire.LaneClose{Lane: l.region.id})
	expectLane[*wire.LaneDone](w.cs)
	expectLane[*wire.LaneDone](w.cr)
	_ = w.receiver.Close()
	wantErr(t, <-next, ErrClosed)
}

// TestNonsenseOnLane: whatever is on a lane, it comes to an end.
func TestNonsenseOnLane(t *testing.T) {
	for range 5 {
		h := newHostile(t)
		stranger := h.p.newRegion(4096, 1)
		open := stranger.open()
		open.Owner = 12345
		h.cr.send(open)
		regions := []wire.RegionID{0, 1, stranger.id, h.region.id, wire.RegionID(rand.Uint64())}
		any64 := func() uint64 { return rand.Uint64() >> rand.IntN(64) }
		nonsense := func() lane.Descriptor {
			return lane.Descriptor{
				Seq: 1, Region: regions[rand.IntN(len(regions))], Offset: any64(), Length: any64(),
				MetaRegion: regions[rand.IntN(len(regions))], MetaOffset: any64(), MetaLength: any64(),
			}
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for ev := range h.receiver.Events(context.Background()) {
				ev.Message.Release()
			}
		}()
		for range 8 {
			h.push(nonsense())
		}
		lane.NewBell(h.bellOf(1)).Ring()
		expectLane[*wire.LaneFault](h.cr)
		h.push(nonsense())
		_ = h.lane.keeper.Close()
		h.cr.send(&wire.LaneClose{Lane: h.lane.region.id})
		for _, m := expectEither[*wire.LaneFault, *wire.LaneDone](h.cr); m == nil; _, m = expectEither[*wire.LaneFault, *wire.LaneDone](h.cr) {
		}
		_ = h.receiver.Close()
		<-ended
	}
}
