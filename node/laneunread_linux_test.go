package node

import (
	"strings"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// passOn does with the next fault of the receiver what the broker does.
func (w *laneWorld) passOn() *wire.LaneFault {
	w.t.Helper()
	f := expectLane[*wire.LaneFault](w.cr)
	w.cs.send(f)
	return f
}

// TestUnreadableIsGivenBack: a receiver that could not map a region cannot clear
// bits in it. What it has not read the sender gets back, and what it has read and
// holds the sender does not.
func TestUnreadableIsGivenBack(t *testing.T) {
	w := newLaneWorld(t)
	l := w.lane(8, wire.PolicyDropOldest, 3)
	large := strings.Repeat("x", 100_000)
	metadata := String("k", strings.Repeat("v", 1000)) // in a slot of its own
	w.send(large, String("in", "a region that can be mapped"))
	w.next().Release()
	bad := w.region(0) // of small messages
	w.send("held")
	held := w.next()
	w.cr.send(&wire.RegionClose{Region: bad.id}, &wire.Ping{Nonce: 1}) // as if it could not be mapped
	expectLane[*wire.Pong](w.cr)
	w.send("small")
	next := make(chan Message, 1)
	go func() {
		ev, err := w.receiver.Next(testContext(t))
		if err != nil {
			t.Error(err)
		}
		next <- ev.Message
	}()
	if f := w.passOn(); f.Count != 1 || f.SeqFirst != 3 || f.SeqLast != 3 {
		t.Errorf("got %s", f)
	}
	// It reads on when the lane is closed: not these two, and that one, and not the last.
	w.send("small")
	w.send("small")
	w.send(large)
	w.send("small", metadata)
	w.wantUsed(6) // with a slot of metadata
	if err := l.keeper.Close(); err != nil {
		t.Fatal(err)
	}
	w.cs.send(&wire.Flow{Output: 0, Epoch: 2, Receivers: 1, Window: wire.WindowUnlimited, Brokered: 1})
	w.cs.send(&wire.LaneClose{Lane: l.region.id, Reason: "lane failed"})
	w.cr.send(&wire.LaneClose{Lane: l.region.id, Reason: "lane failed"})
	read := <-next
	if read.Seq() != 6 || read.Dropped() != 3 {
		t.Errorf("got seq %d, %d dropped", read.Seq(), read.Dropped())
	}
	if f := w.passOn(); f.Count != 2 || f.SeqFirst != 4 || f.SeqLast != 5 {
		t.Errorf("got %s", f)
	}
	if _, err := w.receiver.Next(canceled()); err == nil {
		t.Error("there is more")
	}
	if f := w.passOn(); f.Count != 1 || f.SeqFirst != 7 {
		t.Errorf("got %s", f)
	}
	expectLane[*wire.LaneDone](w.cr)
	eventually(t, "what was not read is free", func() bool { return w.used() == 2 })
	if string(held.Payload()) != "held" || string(read.Payload()) != large {
		t.Error("what is held has changed")
	}
	held.Release()
	read.Release()
	expectLane[*wire.LaneDone](w.cs)
	w.wantUsed(0)
}

// TestFaultOfUnknownCount: a range that has more than what could not be read says
// nothing of any one message.
func TestFaultOfUnknownCount(t *testing.T) {
	w := newLaneWorld(t)
	l := w.lane(8, wire.PolicyDropOldest, 3)
	for range 3 {
		w.send("x")
	}
	for _, f := range []wire.LaneFault{
		{Lane: l.region.id, Count: 2, SeqFirst: 1, SeqLast: 3},
		{Lane: l.region.id, SeqFirst: 1, SeqLast: 3},
		{Lane: l.region.id + 1, Count: 3, SeqFirst: 1, SeqLast: 3},
	} {
		f.Reason = wire.DropBadDescriptor
		w.cs.send(&f)
	}
	w.cs.send(&wire.Ping{Nonce: 1})
	expectLane[*wire.Pong](w.cs)
	w.wantUsed(3)
}
