package node

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// tailWord is where a lane's memory says that it is closed.
const tailWord = 8

// A sender that opens its lane again after the broker has closed it does not keep
// the receiver from ending it.
func TestClosedLaneStaysClosed(t *testing.T) {
	h := newHostile(t)
	waits := make(chan struct{})
	go func() {
		defer close(waits)
		_, _ = h.receiver.Next(t.Context()) // ends with the node
	}()
	if err := h.lane.keeper.Close(); err != nil {
		t.Fatal(err)
	}
	atomic.StoreUint64(&h.lane.memory.Words()[tailWord], 0)
	h.cr.send(&wire.LaneClose{Lane: h.lane.region.id})
	expectLane[*wire.LaneDone](h.cr)
	if err := h.receiver.Close(); err != nil {
		t.Error(err)
	}
	<-waits
}

// The broker leases a region that came back to another sender, under the same id.
// Its first message may be faster than the news.
func TestRegionChangesHands(t *testing.T) {
	h := newHostile(t)
	x := h.p.newRegion(4096, 4)
	before := x.open()
	before.Owner = 777
	h.cr.send(before, &wire.Ping{Nonce: 1})
	expectLane[*wire.Pong](h.cr)
	h.push(lane.Descriptor{Seq: 1, Region: x.id, Offset: x.write(h.p, 1, []byte("good")), Length: 4})
	got := make(chan string, 1)
	go func() {
		defer close(got)
		if ev, err := h.receiver.Next(testContext(t)); err == nil && ev.Kind == EventInput {
			got <- string(ev.Message.Payload())
			ev.Message.Release()
		}
	}()
	eventually(t, "the message waits for its region", func() bool {
		r := &h.receiver.receiver
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.lanes.active) == 1 && r.lanes.active[0].parked.active
	})
	h.cr.send(&wire.RegionClose{Region: x.id}, h.announce(x))
	if payload := <-got; payload != "good" {
		t.Errorf("got %q", payload)
	}
}

// Send goes on as soon as a receiver has taken one message, also if it was quick
// before: it may take no other until that has come.
func TestRoomForOne(t *testing.T) {
	w := newLaneWorld(t)
	w.sender.sleeper.max = time.Hour // a wake-up that is lost stays lost
	w.lane(8, wire.PolicyBlock, 3)
	for range 8 {
		w.send("x")
	}
	for range 4 {
		for _, quick := range []bool{false, true} {
			w.out.mu.Lock()
			w.out.quickRoom = quick
			w.out.mu.Unlock()
			sent := make(chan struct{})
			go func() {
				w.send("y")
				close(sent)
			}()
			eventually(t, "the sender waits", func() bool { return w.sender.sleeper.waiting.Load() > 0 })
			time.Sleep(2 * quickRoom) // the receiver is slow
			w.next().Release()
			select {
			case <-sent:
			case <-time.After(testTimeout / 2):
				t.Fatalf("there is room for one, and Send waits; quick before: %v", quick)
			}
		}
	}
}
