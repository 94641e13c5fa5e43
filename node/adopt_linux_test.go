package node

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// kill ends both connections, as if the broker were killed.
func (w *laneWorld) kill() {
	w.t.Helper()
	_ = w.cs.conn.Close()
	_ = w.cr.conn.Close()
	for _, n := range []*Node{w.sender, w.receiver} {
		eventually(w.t, "the node knows", func() bool { return n.current() == nil })
	}
}

// comeBack accepts both nodes as a broker of another instance, which adopts what
// keep says, and returns what each has offered.
func (w *laneWorld) comeBack(keep func(*wire.Adopt) *wire.Adopted) (sender, receiver *wire.Adopt) {
	w.t.Helper()
	for range 2 {
		c := w.p.accept()
		offer := c.adopt()
		// Both nodes have one id here: who sends offers the first bell.
		if offer.BellRegion == w.bells[0].id {
			sender, w.cs = offer, &laneConn{peerConn: c}
		} else {
			receiver, w.cr = offer, &laneConn{peerConn: c}
		}
	}
	w.cs, w.cr = w.serve(w.cs.peerConn), w.serve(w.cr.peerConn)
	w.cr.send(keep(receiver))
	w.cs.send(keep(sender))
	return sender, receiver
}

// adopt takes the handshake of a node that offers something to where it does.
func (c *peerConn) adopt() *wire.Adopt {
	c.p.t.Helper()
	w := c.p.welcome
	w.Version, w.Session = 1, c.session
	if w.Instance == "" {
		w.Instance = "another"
	}
	c.send(&w)
	if attach := expectFrom[*wire.Attach](c); !attach.Adopting {
		c.p.t.Fatalf("got %s", attach)
	}
	c.send(&wire.Ready{Local: true}, &c.p.ports)
	return expectFrom[*wire.Adopt](c)
}

// keepAll adopts everything, under new names.
func keepAll(offer *wire.Adopt) *wire.Adopted {
	a := &wire.Adopted{Bell: true}
	for _, r := range offer.Regions {
		a.Regions = append(a.Regions, wire.AdoptedRegion{Region: r.Region, Name: r.Name + "-2"})
	}
	for _, l := range offer.Lanes {
		a.Lanes = append(a.Lanes, l.Lane)
		a.Regions = append(a.Regions, wire.AdoptedRegion{Region: l.Lane, Name: l.Name + "-2"})
	}
	a.Regions = append(a.Regions, wire.AdoptedRegion{Region: offer.BellRegion, Name: offer.BellName + "-2"})
	return a
}

// keepLanes adopts lanes and bells.
func keepLanes(offer *wire.Adopt) *wire.Adopted {
	rest := *offer
	rest.Regions = nil
	return keepAll(&rest)
}

func keepNone(*wire.Adopt) *wire.Adopted { return &wire.Adopted{} }

// skipReconnected takes EventReconnected, which has no place among the messages on
// lanes, out of the queue.
func (w *laneWorld) skipReconnected() {
	w.t.Helper()
	r := &w.receiver.receiver
	eventually(w.t, "the receiver is back", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		found := false
		for range r.queue.len() {
			if q := r.queue.pop(); q.event == nil || q.event.Kind != EventReconnected {
				*r.queue.push() = q
			} else {
				found = true
			}
		}
		return found
	})
}

func TestLanesFlowWithoutBrokerAndAreAdopted(t *testing.T) {
	w := newLaneWorld(t)
	l := w.lane(8, wire.PolicyBlock, 3)
	w.send("before")
	w.kill()
	w.send("alone")
	w.wantNext(1, "before", 0)
	held := w.next()
	sender, receiver := w.comeBack(keepAll)
	if sender.Instance != "test" || sender.BellRegion != w.bells[0].id || len(sender.Regions) != 1 ||
		sender.Regions[0] != w.region(0).adoptable() || len(sender.Lanes) != 1 {
		t.Errorf("sender offers %s", sender)
	}
	if got := sender.Lanes[0]; got.Lane != l.region.id || got.Port != "out" || got.Peer != "edges/in" || got.Bit != 3 ||
		got.QueueSize != 8 || got.Policy != wire.PolicyBlock || got.Name != l.region.name || got.PeerBellRegion != w.bells[1].id {
		t.Errorf("sender offers %+v", got)
	}
	if len(receiver.Lanes) != 1 || receiver.Lanes[0].Role != wire.LaneReceiver || receiver.Lanes[0].Port != "in" {
		t.Errorf("receiver offers %s", receiver)
	}
	w.send("meanwhile")
	w.skipReconnected()
	w.wantNext(3, "meanwhile", 0)
	w.cs.send(&wire.Flow{Output: 0, Epoch: 1, Receivers: 1, Window: wire.WindowUnlimited})
	eventually(t, "flow", func() bool { return w.out.Receivers() == 1 })
	w.send("after")
	w.wantNext(4, "after", 0)
	w.wantUsed(1)
	held.Release()
	w.wantUsed(0)
	if w.p.locked(1) || w.p.locked(2) {
		t.Error("locks of the old sessions are still held")
	}

	// The names to offer next time are the new ones.
	w.kill()
	w.p.welcome.Instance = "third"
	sender, _ = w.comeBack(keepAll)
	if sender.Instance != "another" || sender.Regions[0].Name != w.region(0).name+"-2" ||
		sender.Lanes[0].Name != l.region.name+"-2" || sender.BellName != w.bells[0].name+"-2" {
		t.Errorf("sender offers %s", sender)
	}
}

func TestLanesThatAreNotAdopted(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(8, wire.PolicyBlock, 3)
	w.send("a")
	w.send("b")
	held := w.next()
	w.kill()
	w.send("c")
	w.comeBack(keepNone)
	eventually(t, "the lane is given up", func() bool { return w.out.Lanes() == 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := w.out.Send(ctx, []byte("d")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err) // there was no Flow yet
	}
	w.cs.send(&wire.Flow{Output: 0, Epoch: 4, Receivers: 1, Window: 10, Brokered: 1})
	w.send("d")
	p := expectLane[*wire.Publish](w.cs)
	if p.Seq != 4 || p.Epoch != 4 || string(p.Payload) != "d" {
		t.Errorf("got %s", p)
	}
	// What was on the lane comes before what the new broker brings.
	next := make(chan struct{})
	go func() {
		defer close(next)
		mustNext(t, w.receiver, EventReconnected)
	}()
	<-next
	w.wantNext(2, "b", 0)
	w.wantNext(3, "c", 0)
	go w.cr.send(&wire.Inputs{Items: []wire.Input{inline(4, "d")}})
	w.wantNext(4, "d", 0)
	held.Release()
	eventually(t, "regions that nobody adopted are given up", func() bool { return w.sender.Stats().Regions == 0 })
}

// TestOrphanWithoutItsRegion: messages on a lane that nobody has adopted lie in a
// region that nobody announces. They do not come behind later ones, whatever is
// announced after those.
func TestOrphanWithoutItsRegion(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(8, wire.PolicyDropOldest, 3)
	w.send("a")
	w.send("b")
	w.cr.send(&wire.RegionClose{Region: w.region(0).id}, &wire.Ping{Nonce: 1})
	expectLane[*wire.Pong](w.cr)
	w.kill()
	w.comeBack(keepNone)
	eventually(t, "the sender has ended the lane", func() bool { return w.out.Lanes() == 0 })
	mustNext(t, w.receiver, EventReconnected)
	go func() {
		r := &w.receiver.receiver
		eventually(t, "the receiver asks for messages", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.session != nil && r.session.recv.limit > 0
		})
		w.cr.send(&wire.Inputs{Items: []wire.Input{inline(4, "d")}})
	}()
	w.wantNext(4, "d", 2)
	open := w.region(0).open()
	open.Owner = w.bells[0].id
	w.cr.send(open, &wire.Ping{Nonce: 2})
	expectLane[*wire.Pong](w.cr)
	if n := w.receiver.Stats().Rejected; n != 2 {
		t.Errorf("%d rejected", n)
	}
	if ev, err := w.receiver.Next(canceled()); err == nil {
		t.Errorf("there is more: %+v", ev)
	}
}

// TestBrokeredSlotsAreLost: nobody can tell when their readers are done.
func TestBrokeredSlotsAreLost(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(8, wire.PolicyDropOldest, 3)
	w.cs.send(&wire.Flow{Output: 0, Epoch: 2, Receivers: 2, Window: wire.WindowUnlimited, Brokered: 1})
	eventually(t, "flow", func() bool { return w.out.Receivers() == 2 })
	w.send("both")
	expectLane[*wire.Publish](w.cs)
	loan, err := w.out.Loan(testContext(t), 5)
	if err != nil {
		t.Fatal(err)
	}
	copy(loan.Bytes(), "later")
	w.kill()
	sender, _ := w.comeBack(keepAll)
	if len(sender.Regions) != 1 || len(sender.Lanes) != 1 {
		t.Errorf("sender offers %s", sender)
	}
	w.cs.send(&wire.Flow{Output: 0, Epoch: 1, Receivers: 1, Window: wire.WindowUnlimited})
	if err := loan.Publish(testContext(t)); err != nil { // moves to a region of the new broker
		t.Fatal(err)
	}
	w.skipReconnected()
	if n := mapped(t, w.region(0).name); n != 3 {
		t.Errorf("a region with a message that is still to be read has %d mappings", n)
	}
	w.wantNext(1, "both", 0)
	w.used() // looks
	eventually(t, "the sender has unmapped the region", func() bool { return mapped(t, w.region(0).name) == 2 })
	w.wantNext(2, "later", 0)
	w.wantUsed(0)
}

// TestSlotsOfLaneNotAdopted: a message is on two lanes, of which one is not adopted.
// Its slot is lost, and its region is kept until the other lane's receiver has it.
func TestSlotsOfLaneNotAdopted(t *testing.T) {
	w := newLaneWorld(t)
	gone := w.lane(8, wire.PolicyDropOldest, 3)
	w.lane(8, wire.PolicyDropOldest, 4)
	w.send("both")
	w.kill()
	w.comeBack(func(offer *wire.Adopt) *wire.Adopted {
		rest := *offer
		rest.Lanes = slices.DeleteFunc(slices.Clone(offer.Lanes), func(l wire.AdoptLane) bool { return l.Lane == gone.region.id })
		return keepAll(&rest)
	})
	w.skipReconnected()
	eventually(t, "one lane is given up", func() bool { return w.out.Lanes() == 1 })
	if n := w.used(); n != 1 {
		t.Errorf("%d slots are used", n)
	}
	first, second := w.next(), w.next()
	if first.Seq() != 1 || second.Seq() != 1 {
		t.Errorf("got %d and %d", first.Seq(), second.Seq())
	}
	first.Release()
	second.Release()
	if n := w.used(); n != 0 {
		t.Errorf("%d slots are used", n)
	}
	if got := expectLane[*wire.RegionReturn](w.cs); got.Region != w.region(0).id {
		t.Errorf("got %s", got)
	}
}

// TestWhatIsLeftOfLaneNotAdopted: a lane is not adopted, but the region of what is on
// it is, and stays until its receiver has taken that.
func TestWhatIsLeftOfLaneNotAdopted(t *testing.T) {
	for name, gone := range map[string]bool{"read": false, "receiver is gone": true} {
		t.Run(name, func(t *testing.T) {
			w := newLaneWorld(t)
			w.lane(8, wire.PolicyDropOldest, 3)
			w.send("a")
			w.send("b")
			w.kill()
			sender, _ := w.comeBack(func(offer *wire.Adopt) *wire.Adopted {
				rest := *offer
				rest.Lanes = nil
				return keepAll(&rest)
			})
			eventually(t, "the lane is given up", func() bool { return w.out.Lanes() == 0 })
			if len(sender.Regions) != 1 {
				t.Errorf("sender offers %s", sender)
			}
			w.skipReconnected()
			if n := w.used(); n != 2 {
				t.Errorf("%d slots are used", n)
			}
			if gone { // for all that its sender knows
				w.sender.current().tendLanes(time.Now().Add(2 * staleMax))
			} else {
				w.wantNext(1, "a", 0)
				w.wantNext(2, "b", 0)
				w.used() // looks
			}
			if got := expectLane[*wire.RegionReturn](w.cs); got.Region != w.region(0).id {
				t.Errorf("got %s", got)
			}
		})
	}
}

// TestBlockedBrokeredReceiverHoldsSenderBack: without a broker a message would
// miss it.
func TestBlockedBrokeredReceiverHoldsSenderBack(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(8, wire.PolicyDropOldest, 3)
	w.cs.send(&wire.Flow{Output: 0, Epoch: 2, Receivers: 2, Window: 5, Brokered: 1})
	eventually(t, "flow", func() bool { return w.out.Receivers() == 2 })
	w.kill()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := w.out.Send(ctx, []byte("d")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

// TestSameBrokerAdoptsNothing: the connection was lost, the broker was not; it has
// ended the lanes itself.
func TestSameBrokerAdoptsNothing(t *testing.T) {
	w := newLaneWorld(t)
	l := w.lane(8, wire.PolicyDropOldest, 3)
	w.send("a")
	w.kill()
	if _, err := l.keeper.Cut(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.p.accept().welcomeIn()
	}
	eventually(t, "the lane is given up", func() bool { return w.out.Lanes() == 0 })
	mustNext(t, w.receiver, EventReconnected)
	if _, err := w.receiver.Next(canceled()); err == nil {
		t.Error("there is more")
	}
	eventually(t, "locks are given up", func() bool { return !w.p.locked(1) && !w.p.locked(2) })
}

// TestClosedLaneIsAdopted: the new broker ends what the old one had begun to end.
func TestClosedLaneIsAdopted(t *testing.T) {
	w := newLaneWorld(t)
	l := w.lane(8, wire.PolicyBlock, 3)
	w.send("a")
	w.send("b")
	held := w.next()
	if err := l.keeper.Close(); err != nil {
		t.Fatal(err)
	}
	w.cr.send(&wire.LaneClose{Lane: l.region.id}, &wire.Ping{Nonce: 1})
	expectLane[*wire.Pong](w.cr)
	w.kill()
	w.wantNext(2, "b", 0)
	if _, err := w.receiver.Next(canceled()); err == nil { // sees the end of the lane
		t.Fatal("there is more")
	}
	sender, receiver := w.comeBack(keepAll)
	if len(sender.Lanes) != 1 || len(receiver.Lanes) != 1 {
		t.Fatalf("offered: %s, %s", sender, receiver)
	}
	w.cs.send(&wire.Flow{Output: 0, Epoch: 2, Receivers: 1, Window: 9, Brokered: 1}, &wire.LaneClose{Lane: l.region.id})
	w.cr.send(&wire.LaneClose{Lane: l.region.id})
	if done := expectLane[*wire.LaneDone](w.cr); done.Lane != l.region.id {
		t.Errorf("got %s", done)
	}
	w.send("c")
	if p := expectLane[*wire.Publish](w.cs); p.Seq != 3 || p.Epoch != 2 {
		t.Errorf("got %s", p)
	}
	held.Release()
	if done := expectLane[*wire.LaneDone](w.cs); done.Lane != l.region.id {
		t.Errorf("got %s", done)
	}
}

// TestHeldInRegionNotAdopted: of a region that the broker does not know it is told
// nothing, however long a message in it is held.
func TestHeldInRegionNotAdopted(t *testing.T) {
	w := newLaneWorld(t)
	l := w.newLane(8, wire.PolicyDropOldest, 3)
	l.grant.HoldTimeoutMS = 50
	w.grant(l)
	w.send("on the lane")
	held := w.next()
	w.cs.send(&wire.Flow{Output: 0, Epoch: 2, Receivers: 2, Window: wire.WindowUnlimited, Brokered: 1})
	eventually(t, "flow", func() bool { return w.out.Receivers() == 2 })
	w.send("both ways") // in that region
	expectLane[*wire.Publish](w.cs)
	w.kill()
	if sender, _ := w.comeBack(keepLanes); len(sender.Regions) != 1 || len(sender.Lanes) != 1 {
		t.Fatalf("sender offers %s", sender)
	}
	w.skipReconnected()
	w.cs.send(&wire.Flow{Output: 0, Epoch: 1, Receivers: 1, Window: wire.WindowUnlimited})
	eventually(t, "flow", func() bool { return w.out.Receivers() == 1 })
	w.send("in a new region")
	if m := w.next(); m.Seq() != 2 {
		t.Fatalf("got seq %d", m.Seq())
	} else {
		m.Release()
	}
	later := w.next()
	if got := expectLane[*wire.LaneHeld](w.cs); got.Region != w.region(-1).id || got.Seq != later.Seq() || got.Count != 1 {
		t.Errorf("got %s", got)
	}
	held.Release()
	later.Release()
}

// TestHalfwayPublishedIsAdopted: a message that one lane has, and another, which
// was found closed, has not, when the broker dies that was to get it. The next
// broker gets it in a place that it knows.
func TestHalfwayPublishedIsAdopted(t *testing.T) {
	for name, test := range map[string]struct {
		lost bool // the dead broker keeps a slot of that region
		keep func(*wire.Adopt) *wire.Adopted
	}{
		"region":                  {false, keepAll},
		"region with a lost slot": {true, keepAll},
		"region is not adopted":   {true, keepLanes},
	} {
		t.Run(name, func(t *testing.T) {
			w := newLaneWorld(t)
			l := w.lane(8, wire.PolicyDropOldest, 3)
			w.cs.send(&wire.Flow{Output: 0, Epoch: 2, Receivers: 2, Window: 10, Brokered: 1})
			eventually(t, "flow", func() bool { return w.out.Receivers() == 2 })
			if test.lost {
				w.send("before")
				expectLane[*wire.Publish](w.cs)
			}
			if err := l.keeper.Close(); err != nil {
				t.Fatal(err)
			}
			w.send("half")
			if !w.halfway() {
				t.Fatal("not halfway")
			}
			w.kill()
			sender, _ := w.comeBack(test.keep)
			if len(sender.Regions) != 1 {
				t.Errorf("sender offers %s", sender)
			}
			w.cs.send(&wire.Flow{Output: 0, Epoch: 5, Receivers: 2, Window: 10, Brokered: 2},
				&wire.LaneClose{Lane: l.region.id, Reason: "closed by the broker before"})
			p, done := expectLane[*wire.Publish](w.cs), &wire.Done{}
			if name != "region is not adopted" {
				if p.Epoch != 5 || p.Length != 4 || p.Lanes != 0 || p.Region != w.region(0).id {
					t.Errorf("got %s", p)
				}
				done.Tokens = []wire.Token{p.Token}
			} else if p.Epoch != 5 || p.Region != 0 || p.Token != 0 || string(p.Payload) != "half" {
				t.Errorf("in a region that the broker does not know: %s", p)
			}
			w.cs.send(done, &wire.Ping{Nonce: 7})
			if pong, fault := expectEither[*wire.Pong, *wire.Error](w.cs); fault != nil || pong.Nonce != 7 {
				t.Errorf("got %v", fault)
			}
			if test.lost { // what is on the lane is still to be read
				if n := w.used(); n != 1 {
					t.Errorf("%d slots are used", n)
				}
				w.cs.send(&wire.LaneClose{Lane: l.region.id, Settled: true, Reason: "its receiver is gone"})
			}
			eventually(t, "the slot is free", func() bool { return w.used() == 0 })
			if name == "region with a lost slot" {
				if got := expectLane[*wire.RegionReturn](w.cs); got.Region != w.region(0).id {
					t.Errorf("got %s", got)
				}
			}
		})
	}
}

func (w *laneWorld) halfway() bool {
	w.out.mu.Lock()
	defer w.out.mu.Unlock()
	return w.out.half.active
}
