package node

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// newShortWorld is a lane world whose broker has no memory but for the first
// small region, and lets nodes go inline.
func newShortWorld(t *testing.T, queue uint32, policy wire.Policy) (*laneWorld, *testLane) {
	t.Helper()
	p := newPeer(t)
	p.welcome.Features = wire.FeatureInline
	w := newLaneWorldOf(t, p)
	l := w.lane(queue, policy, 3)
	w.refuse()
	return w, l
}

// closeLane closes a lane as the router does.
func (w *laneWorld) closeLane(l *testLane) {
	w.t.Helper()
	if err := l.keeper.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.cs.send(&wire.Flow{Output: 0, Epoch: 9, Receivers: 1, Window: wire.WindowUnlimited, Brokered: 1})
	w.cs.send(&wire.LaneClose{Lane: l.region.id, Reason: "no shared memory"})
	w.cr.send(&wire.LaneClose{Lane: l.region.id, Reason: "no shared memory"})
}

// begin sends in the background.
func (w *laneWorld) begin(ctx context.Context, payload string, loan bool, metadata ...Attr) <-chan error {
	sent := make(chan error, 1)
	go func() {
		if !loan {
			sent <- w.out.Send(ctx, []byte(payload), metadata...)
			return
		}
		l, err := w.out.Loan(ctx, len(payload))
		if err == nil {
			defer l.Discard()
			copy(l.Bytes(), payload)
			err = l.Publish(ctx, metadata...)
		}
		sent <- err
	}()
	return sent
}

func (w *laneWorld) wantShortage(size uint64) {
	w.t.Helper()
	if s := expectLane[*wire.Shortage](w.cs); s.Output != 0 || s.Bytes != size {
		w.t.Errorf("got %s", s)
	}
}

// published returns the next message that the broker gets, and passes over what the
// sender says of lanes that are closed.
func (w *laneWorld) published() *wire.Publish {
	w.t.Helper()
	for {
		select {
		case got := <-w.cs.got:
			if p, ok := got.(*wire.Publish); ok {
				return p
			}
			if _, done := got.(*wire.LaneDone); !done {
				w.t.Fatalf("got %s", got)
			}
		case <-testContext(w.t).Done():
			w.t.Fatal("no message has come")
		}
	}
}

// TestInlineForWantOfMemory: a message that gets no slot has the lanes closed, and
// follows what is on them through the broker.
func TestInlineForWantOfMemory(t *testing.T) {
	for _, loan := range []bool{false, true} {
		w, l := newShortWorld(t, 8, wire.PolicyDropOldest)
		w.send("on the lane")
		big := strings.Repeat("x", 100_000)
		sent := w.begin(testContext(t), big, loan, Int("n", 1))
		w.wantShortage(100_000)
		select {
		case err := <-sent:
			t.Fatalf("it has not waited for the end of the lane: %v", err)
		case got := <-w.cs.got:
			t.Fatalf("got %s before the end of the lane", got)
		case <-time.After(20 * time.Millisecond):
		}
		w.closeLane(l)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if p := w.published(); p.Seq != 2 || p.Epoch != 9 || string(p.Payload) != big || p.Region != 0 || len(p.Metadata) == 0 {
			t.Errorf("got %s", p)
		}
		// The next one of that size does not even ask: that would take a round trip.
		asked := w.requests()
		if err := <-w.begin(testContext(t), big, loan); err != nil {
			t.Fatal(err)
		}
		if p := w.published(); p.Seq != 3 || len(p.Payload) != len(big) {
			t.Errorf("got %s", p)
		}
		if now := w.requests(); now > asked+1 { // one, if the machine took its time
			t.Errorf("%d region requests", now-asked)
		}
		w.wantNext(1, "on the lane", 0)
		if s := w.sender.Stats(); s.InlineFallbacks != 2 || s.SendFailures != 0 || s.Published != 3 {
			t.Errorf("%+v", s)
		}
		w.wantUsed(0)
		if done := expectLane[*wire.LaneDone](w.cs); done.Lane != l.region.id {
			t.Errorf("got %s", done)
		}
		// On the next lane it starts anew.
		l = w.newLane(8, wire.PolicyDropOldest, 4)
		w.grant(l)
		eventually(t, "the flow of the lane", func() bool {
			w.out.mu.Lock()
			defer w.out.mu.Unlock()
			return w.out.brokered == 0
		})
		w.send("small")
		sent = w.begin(testContext(t), big, loan)
		w.wantShortage(100_000)
		w.closeLane(l)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		w.wantNext(4, "small", 0)
	}
}

// requests is how many slots were asked for.
func (w *laneWorld) requests() uint32 {
	m := w.sender.currentEstate().memory
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.request
}

// TestInlineWaitsForASlotFirst: a sender that a receiver may hold back waits for
// memory as ever, for a while.
func TestInlineWaitsForASlotFirst(t *testing.T) {
	w, l := newShortWorld(t, 500, wire.PolicyBlock)
	for range smallSlots {
		w.send("x")
	}
	begun := time.Now()
	sent := w.begin(testContext(t), "y", false)
	eventually(t, "the sender waits", func() bool { return w.sender.sleeper.waiting.Load() > 0 })
	w.wantNext(1, "x", 0)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < inlinePatience && w.sender.Stats().InlineFallbacks > 0 {
		t.Error("it went inline although a slot was free in time")
	}
	sent = w.begin(testContext(t), "z", false)
	begun = time.Now()
	w.wantShortage(1)
	if took := time.Since(begun); took < inlinePatience/2 {
		t.Errorf("it gave up after %v", took)
	}
	w.closeLane(l)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if p := w.published(); string(p.Payload) != "z" || p.Seq != smallSlots+2 {
		t.Errorf("got %s", p)
	}
	for i := range smallSlots - 1 {
		w.wantNext(wire.Seq(2+i), "x", 0)
	}
	w.wantNext(smallSlots+1, "y", 0)
	w.wantUsed(0)
}

// TestInlineWithoutBroker: what waits for the lanes to be closed takes a slot if
// the broker is gone and the lanes are not.
func TestInlineWithoutBroker(t *testing.T) {
	w, _ := newShortWorld(t, 500, wire.PolicyDropOldest)
	var held []Message
	for range smallSlots {
		w.send("x")
		held = append(held, w.next())
	}
	sent := w.begin(testContext(t), "y", false)
	w.wantShortage(1)
	w.kill()
	eventually(t, "the broker is gone", func() bool { return w.sender.current() == nil })
	select {
	case err := <-sent:
		t.Fatalf("without slot and broker: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	held[0].Release()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	w.wantNext(smallSlots+1, "y", 0)
	for _, m := range held[1:] {
		m.Release()
	}
	w.wantUsed(0)
	if s := w.sender.Stats(); s.InlineFallbacks != 0 {
		t.Errorf("%+v", s)
	}
}

// TestInlineIsBounded: what does not fit into a frame, metadata of any size
// included, is an error as ever, and so is it if the broker does not allow it.
func TestInlineIsBounded(t *testing.T) {
	w, _ := newShortWorld(t, 8, wire.PolicyDropOldest)
	most := int(w.sender.current().inlineMax())
	wantErr(t, w.out.Send(testContext(t), make([]byte, most+1)), ErrNoMemory)
	if f := expectLane[*wire.SendFailed](w.cs); f.Count != 1 || f.Reason != wire.DropNoMemory {
		t.Errorf("got %s", f)
	}
	wantErr(t, w.out.Reserve(testContext(t), 100_000, 3), ErrNoMemory)
	if w.sender.current().welcome.FrameMax-uint64(most) < wire.MetadataBytesMax {
		t.Error("no room for metadata")
	}

	plain := newLaneWorld(t)
	plain.lane(8, wire.PolicyDropOldest, 3)
	plain.refuse()
	wantErr(t, plain.out.Send(testContext(t), make([]byte, 100_000)), ErrNoMemory)
}

// TestInlineForMetadata: a message whose metadata get no slot of their own goes
// inline, and gives its own slot back.
func TestInlineForMetadata(t *testing.T) {
	for _, loan := range []bool{false, true} {
		w, l := newShortWorld(t, 8, wire.PolicyDropOldest)
		sent := w.begin(testContext(t), "small", loan, String("key", strings.Repeat("k", 5000)))
		w.wantShortage(5)
		w.closeLane(l)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if p := w.published(); p.Seq != 1 || string(p.Payload) != "small" || len(p.Metadata) < 5000 {
			t.Errorf("got %s", p)
		}
		w.wantUsed(0)
	}
}

// TestInlineForMetadataOfLarge: metadata that could go inline are no help to a payload
// that could not.
func TestInlineForMetadataOfLarge(t *testing.T) {
	p := newPeer(t)
	p.welcome.Features = wire.FeatureInline
	w := newLaneWorldOf(t, p)
	w.lane(8, wire.PolicyDropOldest, 3)
	size := int(shmpool.SlotClass(w.sender.current().inlineMax() + 1)) // all of a slot
	loan, err := w.out.Loan(testContext(t), size)
	if err != nil {
		t.Fatal(err)
	}
	defer loan.Discard()
	w.refuse()
	wantErr(t, loan.Publish(testContext(t), String("key", strings.Repeat("k", 5000))), ErrNoMemory)
	if f := expectLane[*wire.SendFailed](w.cs); f.Count != 1 || f.Reason != wire.DropNoMemory {
		t.Errorf("got %s", f)
	}
}
