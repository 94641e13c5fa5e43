//go:build linux

package node

import (
	"sync"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// laneWorld is a scripted broker with two nodes, and lanes in real shared memory
// from the sender's output "out" to the receiver's input "in".
type laneWorld struct {
	t        testing.TB
	p        *peer
	sender   *Node
	receiver *Node
	out      *Output
	cs, cr   *laneConn
	bells    [2]testRegion // the sender's, the receiver's

	mu      sync.Mutex   // guards what follows
	regions []testRegion // of the sender
	deny    *wire.RegionDenied
}

// laneConn serves one connection: it grants regions, and keeps what a test may
// wait for.
type laneConn struct {
	*peerConn
	got chan wire.Message
}

// testLane is a lane as the router has it.
type testLane struct {
	region testRegion
	memory *lane.Memory
	keeper *lane.Keeper
	grant  wire.LaneGrant
}

func newLaneWorld(t testing.TB) *laneWorld { return newLaneWorldOf(t, newPeer(t)) }

func newLaneWorldOf(t testing.TB, p *peer) *laneWorld {
	t.Helper()
	p.welcome.Features |= wire.FeatureLanes
	w := &laneWorld{t: t, p: p}
	w.bells = [2]testRegion{p.newRegion(lane.BellSlotBytes, 1), p.newRegion(lane.BellSlotBytes, 1)}
	var c *peerConn
	w.sender, c = p.connect(p.config())
	w.cs = w.serve(c)
	w.receiver, c = p.connect(p.config())
	w.cr = w.serve(c)
	w.out = mustOutput(t, w.sender, "out")
	return w
}

func (w *laneWorld) serve(c *peerConn) *laneConn {
	lc := &laneConn{peerConn: c, got: make(chan wire.Message, 4096)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			m, err := c.receive()
			if err != nil {
				return
			}
			switch m := m.(type) {
			case *wire.RegionRequest:
				w.answer(lc, m)
			case *wire.Next, *wire.Done, *wire.Ping:
			default:
				select {
				case lc.got <- m:
				default:
				}
			}
		}
	}()
	w.t.Cleanup(func() {
		_ = c.conn.Close()
		<-ended
	})
	return lc
}

// answer announces a region before it grants it, as the broker does.
func (w *laneWorld) answer(c *laneConn, m *wire.RegionRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deny != nil {
		denied := *w.deny
		denied.Request = m.Request
		c.send(&denied)
		return
	}
	r := w.p.newRegion(m.SlotBytes, m.Slots)
	w.regions = append(w.regions, r)
	open := r.open()
	open.Owner = w.bells[0].id
	w.cr.send(open)
	c.send(r.grant(m.Request))
}

// refuse denies all regions from now on.
func (w *laneWorld) refuse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deny = &wire.RegionDenied{Code: wire.CodeQuota, Text: "node quota"}
}

// region returns the sender's i-th region, from the end if i is negative.
func (w *laneWorld) region(i int) testRegion {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i < 0 {
		i += len(w.regions)
	}
	return w.regions[i]
}

// expectLane returns the next message of kind M that is not about memory.
func expectLane[M wire.Message](c *laneConn) M {
	c.p.t.Helper()
	var want M
	for {
		select {
		case m := <-c.got:
			if m, ok := m.(M); ok {
				return m
			}
			switch m.(type) {
			case *wire.RegionReturn, *wire.LaneReady:
			default:
				c.p.t.Fatalf("peer: waiting for %s, got %s", want.Kind(), m)
			}
		case <-time.After(testTimeout):
			c.p.t.Fatalf("peer: waiting for %s", want.Kind())
		}
	}
}

// expectEither returns the next message of one of two kinds; the other is nil.
func expectEither[A, B wire.Message](c *laneConn) (a A, b B) {
	c.p.t.Helper()
	for {
		select {
		case m := <-c.got:
			switch m := m.(type) {
			case A:
				return m, b
			case B:
				return a, m
			}
		case <-time.After(testTimeout):
			c.p.t.Fatalf("peer: waiting for %s or %s", a.Kind(), b.Kind())
		}
	}
}

// bellOf maps a bell: the sender's (0) or the receiver's (1).
func (w *laneWorld) bellOf(end int) []uint64 {
	w.t.Helper()
	memory, err := lane.Map(w.bells[end].name, w.bells[end].id, lane.BellSlotBytes)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = memory.Close() })
	return memory.Words()
}

// lane grants both ends of a lane, and starts it.
func (w *laneWorld) lane(queue uint32, policy wire.Policy, bit uint8) *testLane {
	w.t.Helper()
	l := w.newLane(queue, policy, bit)
	w.grant(l)
	return l
}

func (w *laneWorld) newLane(queue uint32, policy wire.Policy, bit uint8) *testLane {
	w.t.Helper()
	g := lane.Geometry(queue)
	r := w.p.newRegion(g.SlotBytes, 1)
	memory, err := lane.Map(r.name, r.id, g.SlotBytes)
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := lane.Config{Lane: r.id, QueueSize: queue, Policy: policy}
	lane.Init(memory.Words(), cfg)
	l := &testLane{region: r, memory: memory, grant: wire.LaneGrant{
		Lane: r.id, Bit: bit, QueueSize: queue, Policy: policy, Name: r.name, SlotBytes: g.SlotBytes,
	}}
	l.keeper = lane.NewKeeper(memory.Words(), cfg, func() { _ = memory.Close() })
	w.t.Cleanup(l.keeper.Release)
	return l
}

// forSender and forReceiver are the two grants of a lane.
func (w *laneWorld) forSender(l *testLane) *wire.LaneGrant {
	g := l.grant
	g.Role, g.Peer = wire.LaneSender, "edges/in"
	g.BellRegion, g.BellName = w.bells[0].id, w.bells[0].name
	g.PeerBellRegion, g.PeerBellName = w.bells[1].id, w.bells[1].name
	return &g
}

func (w *laneWorld) forReceiver(l *testLane) *wire.LaneGrant {
	g := l.grant
	g.Role, g.Peer = wire.LaneReceiver, "camera/image"
	g.BellRegion, g.BellName = w.bells[1].id, w.bells[1].name
	g.PeerBellRegion, g.PeerBellName = w.bells[0].id, w.bells[0].name
	return &g
}

func (w *laneWorld) grant(l *testLane) {
	w.t.Helper()
	w.cr.send(w.forReceiver(l))
	if ready := expectLane[*wire.LaneReady](w.cr); ready.Lane != l.region.id || ready.Text != "" {
		w.t.Fatalf("receiver: %s", ready)
	}
	w.cs.send(w.forSender(l))
	if start := expectLane[*wire.LaneStart](w.cs); start.Lane != l.region.id {
		w.t.Fatalf("sender: %s", start)
	}
	w.cs.send(&wire.Flow{Output: 0, Epoch: 1, Receivers: 1, Window: wire.WindowUnlimited})
	w.cr.send(&wire.LaneStart{Lane: l.region.id})
	eventually(w.t, "the lane is started", func() bool { return w.out.Lanes() > 0 })
}

// send publishes on the lane.
func (w *laneWorld) send(payload string, metadata ...Attr) {
	w.t.Helper()
	if err := w.out.Send(testContext(w.t), []byte(payload), metadata...); err != nil {
		w.t.Fatal(err)
	}
}

// next returns the receiver's next message.
func (w *laneWorld) next() Message {
	w.t.Helper()
	return mustNext(w.t, w.receiver, EventInput).Message
}

// wantNext takes the next message and checks it.
func (w *laneWorld) wantNext(seq wire.Seq, payload string, dropped uint64) {
	w.t.Helper()
	m := w.next()
	if m.Seq() != seq || string(m.Payload()) != payload || m.Dropped() != dropped {
		w.t.Fatalf("got seq %d %q, %d dropped; want seq %d %q, %d dropped",
			m.Seq(), m.Payload(), m.Dropped(), seq, payload, dropped)
	}
	m.Release()
}

// used returns how many of the sender's slots are not free, after it has looked.
func (w *laneWorld) used() int {
	m := w.sender.currentEstate().memory
	m.mu.Lock()
	m.poll(pollAll)
	m.mu.Unlock()
	return w.sender.Stats().SlotsUsed
}

func (w *laneWorld) wantUsed(n int) {
	w.t.Helper()
	if got := w.used(); got != n {
		w.t.Fatalf("%d slots in use, want %d", got, n)
	}
}

func (r testRegion) adoptable() wire.AdoptRegion {
	return wire.AdoptRegion{Region: r.id, Name: r.name, SlotBytes: r.geometry.SlotBytes, Slots: r.geometry.Slots}
}
