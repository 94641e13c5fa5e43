//go:build linux

package node

import (
	"os"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// TestMemoryOutlivesConnection: messages and loans of a lost connection stay
// good, and the broker can see that they are still there.
func TestMemoryOutlivesConnection(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	region := p.newRegion(8192, 2)
	offset := region.write(p, 1, []byte("from before"))
	go func() {
		expectFrom[*wire.Next](c)
		c.send(region.open(), &wire.Inputs{Items: []wire.Input{
			{Seq: 1, Token: 1, Region: region.id, Offset: offset, Length: 11},
			{Seq: 2, Token: 2, Region: region.id, Offset: offset, Length: 11},
			{Seq: 3, Token: 3, Region: region.id, Offset: offset, Length: 11},
		}})
	}()
	held, second := mustNext(t, n, EventInput).Message, mustNext(t, n, EventInput).Message
	loaned := make(chan Loan, 1)
	go func() {
		loan, err := o.Loan(testContext(t), 9000)
		if err != nil {
			t.Error(err)
		}
		loaned <- loan
	}()
	request := expectFrom[*wire.RegionRequest](c)
	leased := p.newRegion(request.SlotBytes, request.Slots)
	c.send(leased.grant(request.Request))
	loan := <-loaned
	copy(loan.Bytes(), "written before the loss")

	first := c.session
	_ = c.conn.Close()
	c = p.accept().welcomeIn()
	publishes := make(chan *wire.Publish, 1)
	regions := make(map[wire.RegionID]testRegion)
	go serveRegions(c, publishes, regions)

	mustNext(t, n, EventReconnected)
	if string(held.Payload()) != "from before" {
		t.Error("held message has changed")
	}
	loan.Bytes()[0] = 'W'
	if err := loan.Publish(testContext(t)); err != nil {
		t.Fatal(err)
	}
	published := <-publishes
	fresh := regions[published.Region]
	if got := fresh.read(p, published.Offset, 23); published.Region == leased.id || string(got) != "Written before the loss" || published.Length != 9000 {
		t.Errorf("got %q: %s", got, published)
	}
	if st := n.Stats(); st.PayloadCopies != 1 || st.Reconnects != 1 {
		t.Errorf("stats %+v", st)
	}
	if !p.locked(first) || !p.locked(c.session) {
		t.Error("lock of a session given up while messages of it are held")
	}
	held.Release()
	if !p.locked(first) || mapped(t, region.name) != 1 {
		t.Error("session buried before its last message")
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if string(second.Payload()) != "from before" || !p.locked(first) {
		t.Error("held message did not survive Close")
	}
	second.Release()
	if p.locked(first) || p.locked(c.session) || mapped(t, region.name) != 0 || mapped(t, leased.name) != 0 || mapped(t, fresh.name) != 0 {
		t.Error("something is left after Close and the last Release")
	}
}

func TestReconnectGoesOn(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	for round := range 5 {
		if err := o.Send(testContext(t), []byte("x")); err != nil {
			t.Fatal(err)
		}
		if got := expectFrom[*wire.Publish](c); got.Seq != wire.Seq(round+1) {
			t.Errorf("round %d: %s", round, got)
		}
		_ = c.conn.Close()
		// The old connection may not be known dead yet.
		p.accept().send(wire.Errorf(wire.CodeDuplicateNode, "still there"))
		c = p.accept().welcomeIn()
		eventually(t, "connection", func() bool { return n.Stats().Reconnects == uint64(round+1) })
	}
}

func TestReconnectRefused(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	_ = c.conn.Close()
	p.accept().send(wire.Errorf(wire.CodeUnknownNode, "no %q here", "edges"))
	ev := mustNext(t, n, EventError)
	wantErr(t, ev.Err, wire.ErrUnknownNode)
	_, err := n.Next(testContext(t))
	wantErr(t, err, ErrClosed)
	wantErr(t, err, wire.ErrUnknownNode)
	err = mustOutput(t, n, "out").Send(testContext(t), nil)
	wantErr(t, err, wire.ErrUnknownNode)
	<-n.Done()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTakenOver(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	c.send(wire.Errorf(wire.CodeTakenOver, "by 127.0.0.1:1"))
	ev := mustNext(t, n, EventError)
	wantErr(t, ev.Err, wire.ErrTakenOver)
	<-n.Done()
}

// TestNothingLeft runs many lives of a node that end in different ways.
func TestNothingLeft(t *testing.T) {
	fds := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := fds()
	for round := range 20 {
		p := newPeer(t)
		n, c := p.connect(p.config())
		o := mustOutput(t, n, "out")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			serveRegions(c, make(chan *wire.Publish, 100), make(map[wire.RegionID]testRegion))
		}()
		if err := o.Send(testContext(t), make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
		loan, err := o.Loan(testContext(t), 10_000)
		if err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 {
			_ = c.conn.Close()
		}
		closed := make(chan error, 1)
		go func() { closed <- n.Close() }()
		if round%3 == 0 {
			loan.Discard()
		}
		_ = c.conn.Close()
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		loan.Discard()
		<-ended
		if p.locked(c.session) {
			t.Errorf("round %d: lock is left", round)
		}
	}
	if got := mapped(t, testPrefix+"region"); got != 0 {
		t.Errorf("%d mappings left", got)
	}
	// A peer keeps its listener, probe, connection and region open to the test's end.
	if after := fds(); after > before+20*4 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestLossThrowsAwayWhatWaits: the broker counts as lost what the user has not
// got; so he must not get it later. What was told besides messages stays.
func TestLossThrowsAwayWhatWaits(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	region := p.newRegion(8192, 2)
	offset := region.write(p, 1, []byte("shared"))
	go func() {
		expectFrom[*wire.Next](c)
		c.send(region.open(), &wire.Inputs{Items: []wire.Input{inline(1, "first"), inline(2, "waits"),
			{Seq: 3, Token: 3, Region: region.id, Offset: offset, Length: 6}}},
			&wire.InputClosed{Input: 1, Reason: "left"}, &wire.Inputs{Items: []wire.Input{inline(4, "waits, too")}})
	}()
	first := mustNext(t, n, EventInput).Message
	waits := func() (count int) {
		n.receiver.mu.Lock()
		defer n.receiver.mu.Unlock()
		return n.receiver.queue.len()
	}
	eventually(t, "arrival", func() bool { return waits() == 4 })
	var chunks []*chunk
	n.receiver.mu.Lock()
	for _, q := range n.receiver.queue.ring {
		if q.chunk != nil {
			q.chunk.leaked.Store(true) // keeps it out of the pool
			chunks = append(chunks, q.chunk)
		}
	}
	n.receiver.mu.Unlock()

	old := c.session
	_ = c.conn.Close()
	c = p.accept().welcomeIn()
	if ev := mustNext(t, n, EventInputClosed); ev.Input != "other" {
		t.Errorf("event %+v", ev)
	}
	mustNext(t, n, EventReconnected)
	if p.locked(old) || mapped(t, region.name) != 0 {
		t.Error("what was thrown away pins its memory")
	}
	if string(first.Payload()) != "first" {
		t.Error("held message has changed")
	}
	first.Release()
	for _, c := range chunks {
		if refs := c.refs.Load(); refs != 0 {
			t.Errorf("a receive buffer has %d references", refs)
		}
	}
	go func() {
		expectFrom[*wire.Next](c)
		c.send(&wire.Inputs{Items: []wire.Input{inline(9, "new")}})
	}()
	if m := mustNext(t, n, EventInput).Message; m.Seq() != 9 {
		t.Errorf("got seq %d after the reconnect", m.Seq())
	}
}
