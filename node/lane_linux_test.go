package node

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

func TestLaneCarriesMessages(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(4, wire.PolicyDropOldest, 5)
	w.send("one")
	w.send("two", Int("n", 2))
	big := strings.Repeat("x", 100_000)
	w.send(big, String("k", strings.Repeat("v", 1000)))
	w.send("")
	w.wantNext(1, "one", 0)
	m := w.next()
	if v, ok := m.Metadata().Lookup("n"); !ok || v.Int() != 2 {
		t.Errorf("metadata %v", m.Metadata())
	}
	m.Release()
	m = w.next()
	if v, ok := m.Metadata().Lookup("k"); !ok || len(v.Text()) != 1000 || string(m.Payload()) != big {
		t.Errorf("metadata of %d bytes, payload of %d", len(m.Metadata()), len(m.Payload()))
	}
	w.wantUsed(2)
	m.Release()
	w.wantNext(4, "", 0)
	w.wantUsed(0)
	if s, r := w.sender.Stats(), w.receiver.Stats(); s.LaneSent != 4 || s.Published != 4 || r.LaneReceived != 4 || r.Received != 4 {
		t.Errorf("stats %+v %+v", s, r)
	}
	if len(w.cs.got) != 0 {
		t.Errorf("the broker got %s", <-w.cs.got)
	}
}

// TestLaneWakes: a receiver that sleeps in Next is woken by the sender.
func TestLaneWakes(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(4, wire.PolicyDropOldest, 0)
	for i := range 50 {
		got := make(chan Message)
		go func() {
			ev, err := w.receiver.Next(testContext(t))
			if err != nil {
				t.Error(err)
			}
			got <- ev.Message
		}()
		if i%2 == 0 {
			eventually(t, "Next sleeps", func() bool { return w.receiver.sleeper.waiting.Load() > 0 })
		}
		begun := time.Now()
		w.send("hello")
		m := <-got
		if took := time.Since(begun); took > sleepMax/2 {
			t.Errorf("woken after %v", took)
		}
		m.Release()
	}
}

func TestLanePolicies(t *testing.T) {
	t.Run("drop-oldest", func(t *testing.T) {
		w := newLaneWorld(t)
		w.lane(3, wire.PolicyDropOldest, 0)
		for _, s := range []string{"a", "b", "c", "d", "e"} {
			w.send(s, String("key", strings.Repeat(s, 600))) // metadata in slots of their own
		}
		w.wantUsed(6)
		w.wantNext(3, "c", 2)
		w.wantNext(4, "d", 0)
		w.wantNext(5, "e", 0)
		w.wantUsed(0)
	})
	t.Run("drop-newest", func(t *testing.T) {
		w := newLaneWorld(t)
		w.lane(3, wire.PolicyDropNewest, 0)
		for _, s := range []string{"a", "b", "c", "d", "e"} {
			w.send(s)
		}
		w.wantUsed(3)
		w.wantNext(1, "a", 2)
		w.send("f")
		w.wantNext(2, "b", 0)
		w.wantNext(3, "c", 0)
		w.wantNext(6, "f", 0)
		w.wantUsed(0)
	})
	t.Run("block", func(t *testing.T) {
		w := newLaneWorld(t)
		w.lane(2, wire.PolicyBlock, 0)
		w.send("a")
		w.send("b")
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if err := w.out.Send(ctx, []byte("late")); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		sent := make(chan error)
		go func() { sent <- w.out.Send(testContext(t), []byte("c")) }()
		eventually(t, "the sender sleeps", func() bool { return w.sender.sleeper.waiting.Load() > 0 })
		begun := time.Now()
		w.wantNext(1, "a", 0)
		if err := <-sent; err != nil || time.Since(begun) > sleepMax/2 {
			t.Fatalf("%v after %v", err, time.Since(begun))
		}
		w.wantNext(2, "b", 0)
		w.wantNext(3, "c", 0)
		w.wantUsed(0)
	})
}

// TestLaneAndBroker: one message goes both ways at once.
func TestLaneAndBroker(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(4, wire.PolicyDropOldest, 7)
	w.cs.send(&wire.Flow{Output: 0, Epoch: 2, Receivers: 2, Window: wire.WindowUnlimited, Brokered: 1})
	eventually(t, "the flow arrives", func() bool { return w.out.Receivers() == 2 })
	w.send("both", Int("n", 1))
	p := expectLane[*wire.Publish](w.cs)
	if p.Lanes != 1<<7 || p.Seq != 1 || p.Epoch != 2 || p.Token == 0 || p.Length != 4 || len(p.Metadata) == 0 {
		t.Errorf("got %s", p)
	}
	w.wantNext(1, "both", 0)
	w.wantUsed(1)
	w.cs.send(&wire.Done{Tokens: []wire.Token{p.Token}})
	eventually(t, "the slot is free", func() bool { return w.used() == 0 })
	// The other order.
	w.send("both")
	p = expectLane[*wire.Publish](w.cs)
	w.cs.send(&wire.Done{Tokens: []wire.Token{p.Token}}, &wire.Ping{Nonce: 1})
	expectLane[*wire.Pong](w.cs)
	w.wantUsed(1)
	w.wantNext(2, "both", 0)
	w.wantUsed(0)
}

// TestLaneStartsBehindTheBroker: what came through the broker is read first.
func TestLaneStartsBehindTheBroker(t *testing.T) {
	w := newLaneWorld(t)
	l := w.newLane(4, wire.PolicyDropOldest, 0)
	w.cr.send(w.forReceiver(l))
	expectLane[*wire.LaneReady](w.cr)
	first := make(chan Event)
	go func() {
		ev, err := w.receiver.Next(testContext(t))
		if err != nil {
			t.Error(err)
		}
		first <- ev
	}()
	w.cs.send(w.forSender(l))
	expectLane[*wire.LaneStart](w.cs)
	eventually(t, "the lane is started", func() bool { return w.out.Lanes() > 0 })
	w.send("second")
	eventually(t, "Next asks", func() bool {
		r := &w.receiver.receiver
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.session.recv.limitMax > 1
	})
	w.cr.send(&wire.Inputs{Items: []wire.Input{inline(7, "zero"), inline(8, "first")}}, &wire.LaneStart{Lane: l.region.id, Dropped: 5})
	if m := (<-first).Message; m.Seq() != 7 {
		t.Errorf("got seq %d", m.Seq())
	}
	w.wantNext(8, "first", 0)
	w.wantNext(1, "second", 5)
}

func TestLoanOnLane(t *testing.T) {
	w := newLaneWorld(t)
	ctx := testContext(t)
	early, err := w.out.Loan(ctx, 6) // on the heap
	if err != nil {
		t.Fatal(err)
	}
	copy(early.Bytes(), "early!")
	w.lane(8, wire.PolicyDropOldest, 0)
	loan, err := w.out.Loan(ctx, 100)
	if err != nil {
		t.Fatal(err)
	}
	copies := w.sender.Stats().PayloadCopies
	copy(loan.Bytes(), "in place")
	loan.Truncate(8)
	if err := loan.Publish(ctx, Int("n", 1)); err != nil {
		t.Fatal(err)
	}
	if got := w.sender.Stats().PayloadCopies; got != copies {
		t.Errorf("%d copies", got-copies)
	}
	if err := early.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	unused, err := w.out.Loan(ctx, 10)
	if err != nil {
		t.Fatal(err)
	}
	w.wantUsed(3)
	unused.Discard()
	w.wantNext(1, "in place", 0)
	w.wantNext(2, "early!", 0)
	w.wantUsed(0)
}

// TestLaneClosedWithReceiver: the receiver lives, nothing is lost, and what comes
// after goes through the broker.
func TestLaneClosedWithReceiver(t *testing.T) {
	w := newLaneWorld(t)
	l := w.lane(8, wire.PolicyBlock, 3)
	for _, s := range []string{"a", "b", "c"} {
		w.send(s)
	}
	m := w.next() // held
	if err := l.keeper.Close(); err != nil {
		t.Fatal(err)
	}
	// The broker has not said yet what becomes of the edge: its epoch is missing.
	sent := make(chan error, 1)
	go func() { sent <- w.out.Send(testContext(t), []byte("d")) }()
	eventually(t, "the sender waits", func() bool { return w.sender.sleeper.waiting.Load() > 0 })
	w.cs.send(&wire.Flow{Output: 0, Epoch: 9, Receivers: 1, Window: 5, Brokered: 1})
	w.cs.send(&wire.LaneClose{Lane: l.region.id, Reason: "queue_size has changed"})
	w.cr.send(&wire.LaneClose{Lane: l.region.id, Reason: "queue_size has changed"})
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if p := expectLane[*wire.Publish](w.cs); p.Seq != 4 || p.Epoch != 9 || p.Lanes != 0 {
		t.Errorf("got %s", p)
	}
	w.wantNext(2, "b", 0)
	w.wantNext(3, "c", 0)
	if _, err := w.receiver.Next(canceled()); err == nil {
		t.Error("there is more")
	}
	if done := expectLane[*wire.LaneDone](w.cr); done.Lane != l.region.id {
		t.Errorf("got %s", done)
	}
	select {
	case got := <-w.cs.got:
		t.Errorf("got %s while a message is held", got)
	case <-time.After(3 * closingPause):
	}
	m.Release()
	if done := expectLane[*wire.LaneDone](w.cs); done.Lane != l.region.id {
		t.Errorf("got %s", done)
	}
	// Bit and edge may have a lane again.
	l = w.newLane(2, wire.PolicyDropOldest, 3)
	w.grant(l)
	w.send("e")
	w.wantNext(5, "e", 0)
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestReceiverOfLaneIsGone: what it had not taken and what it held is settled.
func TestReceiverOfLaneIsGone(t *testing.T) {
	w := newLaneWorld(t)
	l := w.lane(8, wire.PolicyDropOldest, 3)
	for _, s := range []string{"a", "b", "c", "d"} {
		w.send(s)
	}
	held := w.next()
	w.wantUsed(4)
	cut, err := l.keeper.Cut()
	if err != nil || cut.Count != 3 {
		t.Fatalf("%+v, %v", cut, err)
	}
	w.cs.send(&wire.Flow{Output: 0, Epoch: 2, Window: wire.WindowUnlimited, Brokered: 1})
	w.cs.send(&wire.LaneClose{Lane: l.region.id, From: cut.From, Withdrawn: cut.Count, Reason: "receiver has left"})
	eventually(t, "what was withdrawn is free", func() bool { return w.used() == 1 })
	w.cs.send(&wire.LaneClose{Lane: l.region.id, Settled: true, Reason: "receiver has left"})
	eventually(t, "all is free", func() bool { return w.used() == 0 })
	if done := expectLane[*wire.LaneDone](w.cs); done.Lane != l.region.id {
		t.Errorf("got %s", done)
	}
	held.Release()
}

func TestLaneMemoryRunsOut(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(8, wire.PolicyDropOldest, 3)
	w.refuse()
	var held []Message
	for range smallSlots {
		w.send("x")
		held = append(held, w.next())
	}
	err := w.out.Send(testContext(t), []byte("x"))
	wantErr(t, err, ErrNoMemory)
	if !strings.Contains(err.Error(), "edges/in has 128 messages") {
		t.Errorf("the holder is not named: %v", err)
	}
	if f := expectLane[*wire.SendFailed](w.cs); f.Count != 1 || f.Reason != wire.DropNoMemory {
		t.Errorf("got %s", f)
	}
	held[5].Release()
	w.send("y")
	m := w.next()
	if m.Seq() != smallSlots+2 || m.Dropped() != 1 {
		t.Errorf("seq %d, %d dropped", m.Seq(), m.Dropped())
	}
	m.Release()
	for _, m := range held {
		m.Release()
	}
	w.wantUsed(0)
}

// TestBlockedSenderGetsMemory: the receiver's Release wakes a sender that waits
// for a slot.
func TestBlockedSenderGetsMemory(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(500, wire.PolicyBlock, 3)
	w.refuse()
	for range smallSlots {
		w.send("x")
	}
	sent := make(chan error, 1)
	go func() { sent <- w.out.Send(testContext(t), []byte("y")) }()
	m := w.next()
	eventually(t, "the sender sleeps", func() bool { return w.sender.sleeper.waiting.Load() > 0 })
	m.Release()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func TestLaneHeldTooLong(t *testing.T) {
	w := newLaneWorld(t)
	l := w.newLane(8, wire.PolicyDropOldest, 3)
	l.grant.HoldTimeoutMS = 50
	w.grant(l)
	for _, s := range []string{"a", "bb", "c"} {
		w.send(s)
	}
	held := []Message{w.next(), w.next()} // the third still waits: nobody's fault
	got := expectLane[*wire.LaneHeld](w.cs)
	if got.Lane != l.region.id || got.Seq != 1 || got.HeldMS < 50 || got.Region != w.region(0).id {
		t.Errorf("got %s", got)
	}
	count, sum := got.Count, got.Bytes
	for count < 2 { // the second was taken so much later
		got = expectLane[*wire.LaneHeld](w.cs)
		count, sum = count+got.Count, sum+got.Bytes
	}
	if count != 2 || sum != 3 {
		t.Errorf("%d messages of %d bytes", count, sum)
	}
	w.cs.send(&wire.RegionRetire{Region: w.region(0).id})
	for _, m := range held {
		m.Release()
	}
	w.wantNext(3, "c", 0)
	if back := expectLane[*wire.RegionReturn](w.cs); back.Region != w.region(0).id {
		t.Errorf("got %s", back)
	}
}

func TestLaneOfClosedReceiver(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(8, wire.PolicyDropOldest, 3)
	payload := bytes.Repeat([]byte("z"), 5000)
	if err := w.out.Send(testContext(t), payload); err != nil {
		t.Fatal(err)
	}
	m := w.next()
	if err := w.receiver.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.Payload(), payload) {
		t.Error("a held message is gone with its node")
	}
	w.wantUsed(1)
	m.Release()
	w.wantUsed(0)
	if !eventuallyUnmapped(t, w) {
		t.Error("still mapped")
	}
}

func eventuallyUnmapped(t *testing.T, w *laneWorld) bool {
	return mapped(t, w.region(-1).name) <= 2 // the sender's own
}
