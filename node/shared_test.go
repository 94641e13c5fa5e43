//go:build linux

package node

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// mapped counts the mappings of test regions in this process.
func mapped(t testing.TB, name string) int {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), name)
}

func TestReceiveShared(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	region := p.newRegion(8192, 4)
	big := bytes.Repeat([]byte("0123456789"), 800)
	var items []wire.Input
	for k := range uint32(4) {
		items = append(items, wire.Input{Seq: wire.Seq(k + 1), Token: wire.Token(100 + k), Region: region.id,
			Offset: region.write(p, k, big), Length: uint64(len(big))})
	}
	go func() {
		expectFrom[*wire.Next](c)
		c.send(region.open(), &wire.Inputs{Items: items})
	}()
	var held []Message
	for range 4 {
		held = append(held, mustNext(t, n, EventInput).Message)
	}
	for _, m := range held {
		if !bytes.Equal(m.Payload(), big) || cap(m.Payload()) != len(big) {
			t.Fatalf("message %d is not what was written", m.Seq())
		}
	}
	if got := mapped(t, region.name); got != 1 {
		t.Errorf("%d mappings of one region", got)
	}
	if st := n.Stats(); st.Held != 4 || st.HeldBytes != 4*8000 || st.PayloadCopies != 0 {
		t.Errorf("stats %+v", st)
	}
	if all := n.Held(); len(all) != 4 || all[0].String() != "in seq 1 (8000 bytes)" {
		t.Errorf("held: %v", all)
	}

	// What the user has got is told on its own, without another call of Next, and
	// nothing is asked for. So do tokens go back.
	if got := skipTo(c, func(m *wire.Next) bool { return m.Consumed == 4 }); got.Limit > 4 || len(got.Done) > 0 {
		t.Errorf("got %s", got)
	}
	held[2].Release()
	held[0].Release()
	begun := time.Now()
	got := skipTo(c, any1[*wire.Done])
	if len(got.Tokens) != 2 || got.Tokens[0] != 102 || got.Tokens[1] != 100 {
		t.Errorf("got %s", got)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("token came back after %v", took)
	}
	// They ride with Next if there is one.
	held[1].Release()
	go func() { _, _ = n.Next(testContext(t)) }()
	next := expectFrom[*wire.Next](c)
	if next.Consumed != 4 || len(next.Done) != 1 || next.Done[0] != 101 {
		t.Errorf("got %s", next)
	}

	// A closed region stays mapped for the message that is held.
	c.send(&wire.RegionClose{Region: region.id}, &wire.Ping{Nonce: 1})
	expectFrom[*wire.Pong](c)
	if mapped(t, region.name) != 1 || !bytes.Equal(held[3].Payload(), big) {
		t.Error("region is gone under a held message")
	}
	held[3].Release()
	if mapped(t, region.name) != 0 {
		t.Error("closed region is still mapped")
	}
}

func TestHostileDescriptorsAreRejected(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	region := p.newRegion(8192, 2)
	good := wire.Input{Seq: 9, Token: 9, Region: region.id, Offset: region.write(p, 1, []byte("good")), Length: 4}
	bad := []wire.Input{
		{Token: 1, Region: region.id, Offset: 0, Length: 10},                  // header
		{Token: 2, Region: region.id, Offset: 4096, Length: 8193},             // over the slot's end
		{Token: 3, Region: region.id, Offset: 4096 + 8000, Length: 300},       // into the next slot
		{Token: 4, Region: region.id, Offset: 1 << 62, Length: 1 << 61},       // far away
		{Token: 5, Region: region.id, Offset: 4096, Length: 1<<63 - 1 - 4096}, // no end
		{Token: 6, Region: region.id, Offset: 4096 + 2*8192, Length: 1},       // behind the end
		{Token: 7, Region: region.id + 1000, Offset: 4096, Length: 1},         // no such region
		{Token: 8, Region: region.id, Offset: 4095, Length: 2},                // from the header into the first slot
	}
	go func() {
		expectFrom[*wire.Next](c)
		c.send(region.open(), &wire.Inputs{Items: append(bad, good)})
	}()
	m := mustNext(t, n, EventInput).Message
	if m.Seq() != 9 || string(m.Payload()) != "good" {
		t.Errorf("got seq %d", m.Seq())
	}
	m.Release()
	for i := range bad {
		if got := expectFrom[*wire.Reject](c); got.Token != bad[i].Token || got.Reason != wire.DropBadDescriptor {
			t.Errorf("descriptor %d: %s", i, got)
		}
	}
	if st := n.Stats(); st.Rejected != uint64(len(bad)) || st.Held != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestRegionThatCannotBeMapped(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	region := p.newRegion(8192, 2)
	if err := region.file.Truncate(5000); err != nil {
		t.Fatal(err)
	}
	go func() {
		expectFrom[*wire.Next](c)
		c.send(region.open(), &wire.Inputs{Items: []wire.Input{
			{Seq: 1, Token: 1, Region: region.id, Offset: 4096, Length: 10}, inline(2, "good")}})
	}()
	if ev := mustNext(t, n, EventError); !strings.Contains(ev.Err.Error(), region.name) {
		t.Errorf("event %v", ev.Err)
	} else {
		wantErr(t, ev.Err, ErrSharedMemory)
	}
	if m := mustNext(t, n, EventInput).Message; m.Seq() != 2 {
		t.Errorf("got seq %d", m.Seq())
	}
	if got := expectFrom[*wire.Reject](c); got.Token != 1 {
		t.Errorf("got %s", got)
	}
}

// TestUnlinkedRegionIsToldOnce: a region that was unlinked before it could be
// mapped costs one event, and each message in it exactly one Reject.
func TestUnlinkedRegionIsToldOnce(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	region := p.newRegion(8192, 2)
	if err := os.Remove(filepath.Join(shmpool.Dir, region.name)); err != nil {
		t.Fatal(err)
	}
	go func() {
		expectFrom[*wire.Next](c)
		for token := wire.Token(1); token <= 5; token++ {
			c.send(region.open(), &wire.Inputs{Items: []wire.Input{
				{Seq: wire.Seq(token), Token: token, Region: region.id, Offset: 4096, Length: 10}}})
		}
		// By copy from now on.
		c.send(&wire.Inputs{Items: []wire.Input{inline(6, "copied")}}, &wire.Stop{})
	}()
	ev := mustNext(t, n, EventError)
	wantErr(t, ev.Err, ErrSharedMemory)
	wantErr(t, ev.Err, fs.ErrNotExist)
	if m := mustNext(t, n, EventInput).Message; m.Seq() != 6 || string(m.Payload()) != "copied" {
		t.Errorf("got seq %d", m.Seq())
	}
	mustNext(t, n, EventStop)
	go func() { _, _ = n.Next(testContext(t)) }()
	var rejects []wire.Token
	skipTo(c, func(m wire.Message) bool {
		switch m := m.(type) {
		case *wire.Reject:
			rejects = append(rejects, m.Token)
			if m.Reason != wire.DropBadDescriptor {
				t.Errorf("got %s", m)
			}
		case *wire.Done:
			t.Errorf("a rejected token was given back again: %s", m)
		case *wire.Next:
			if len(m.Done) > 0 {
				t.Errorf("a rejected token was given back again: %s", m)
			}
			return m.Consumed == 6
		}
		return false
	})
	if !slices.Equal(rejects, []wire.Token{1, 2, 3, 4, 5}) {
		t.Errorf("rejected %v", rejects)
	}
}

// serveRegions grants what c asks for, and returns the published descriptors.
func serveRegions(c *peerConn, publishes chan<- *wire.Publish, regions map[wire.RegionID]testRegion) {
	for {
		m, err := c.receive()
		if err != nil {
			close(publishes)
			return
		}
		switch m := m.(type) {
		case *wire.RegionRequest:
			r := c.p.newRegion(m.SlotBytes, m.Slots)
			c.p.mu.Lock()
			regions[r.id] = r
			c.p.mu.Unlock()
			c.send(r.grant(m.Request))
		case *wire.Publish:
			publishes <- m
		}
	}
}

func TestSendAndLoanShared(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	publishes := make(chan *wire.Publish, 100)
	regions := make(map[wire.RegionID]testRegion)
	go serveRegions(c, publishes, regions)

	payload := bytes.Repeat([]byte("payload!"), 5000)
	if err := o.Send(testContext(t), payload); err != nil {
		t.Fatal(err)
	}
	if st := n.Stats(); st.PayloadCopies != 1 || st.PayloadCopyBytes != 40_000 {
		t.Errorf("Send made %d copies of %d bytes", st.PayloadCopies, st.PayloadCopyBytes)
	}
	loan, err := o.Loan(testContext(t), len(payload))
	if err != nil {
		t.Fatal(err)
	}
	defer loan.Discard()
	if len(loan.Bytes()) != len(payload) || cap(loan.Bytes()) != len(payload) {
		t.Errorf("loan of %d bytes, capacity %d", len(loan.Bytes()), cap(loan.Bytes()))
	}
	copy(loan.Bytes(), payload)
	loan.Bytes()[0] = 'L'
	loan.Truncate(30_000)
	if err := loan.Publish(testContext(t), Int("n", 1)); err != nil {
		t.Fatal(err)
	}
	wantErr(t, loan.Publish(testContext(t)), ErrLoanSpent)
	if text := panicText(func() { loan.Bytes() }); !strings.Contains(text, "published") {
		t.Errorf("Bytes after Publish: %q", text)
	}
	if st := n.Stats(); st.PayloadCopies != 1 || st.Published != 2 || st.PublishedBytes != 70_000 {
		t.Errorf("Loan: %+v", st)
	}
	first, second := <-publishes, <-publishes
	region := regions[first.Region]
	if got := region.read(p, first.Offset, first.Length); !bytes.Equal(got, payload) {
		t.Error("Send wrote something else")
	}
	if got := region.read(p, second.Offset, second.Length); len(got) != 30_000 || got[0] != 'L' || !bytes.Equal(got[1:], payload[1:30_000]) {
		t.Error("Loan published something else")
	}
	if first.Token == second.Token || first.Token == 0 || first.Payload != nil || second.Seq != 2 {
		t.Errorf("%s\n%s", first, second)
	}

	// Slots come back with Done, and are used again, the last one first.
	c.send(&wire.Done{Tokens: []wire.Token{second.Token, first.Token}})
	eventually(t, "slots free", func() bool { return n.Stats().SlotsUsed == 0 })
	for range 200 {
		if err := o.Send(testContext(t), payload); err != nil {
			t.Fatal(err)
		}
		m := <-publishes
		if m.Region != first.Region || m.Offset != first.Offset {
			t.Fatalf("slot freed last was not used: %s", m)
		}
		c.send(&wire.Done{Tokens: []wire.Token{m.Token}})
		eventually(t, "slot free", func() bool { return n.Stats().SlotsUsed == 0 })
	}
	if st := n.Stats(); st.Regions != 1 {
		t.Errorf("%d regions", st.Regions)
	}
}

func TestRegionsGrowWithUse(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	asked := make(chan *wire.RegionRequest, 10)
	go func() {
		for {
			m, err := c.receive()
			if err != nil {
				return
			}
			if m, ok := m.(*wire.RegionRequest); ok {
				asked <- m
				c.send(p.newRegion(m.SlotBytes, m.Slots).grant(m.Request))
			}
		}
	}()
	var loans []Loan
	for range 8 + 32 + 1 {
		loan, err := o.Loan(testContext(t), 128<<10)
		if err != nil {
			t.Fatal(err)
		}
		loans = append(loans, loan)
	}
	for i, slots := range []uint32{8, 32, 64} {
		if got := <-asked; got.SlotBytes != 128<<10 || got.Slots != slots {
			t.Errorf("request %d: %s, want %d slots", i, got, slots)
		}
	}
	for _, loan := range loans {
		loan.Discard()
		loan.Discard()
	}
	if st := n.Stats(); st.SlotsUsed != 0 || st.Regions != 3 {
		t.Errorf("stats %+v", st)
	}
	// What lies idle goes back, but for one region.
	n.current().estate.memory.trim(time.Now().Add(regionIdle + time.Second))
	if st := n.Stats(); st.Regions != 1 {
		t.Errorf("%d regions after a pause", st.Regions)
	}
	n.current().estate.memory.trim(time.Now().Add(classIdle + time.Second))
	if st := n.Stats(); st.Regions != 0 {
		t.Errorf("%d regions after a long pause", st.Regions)
	}
}

func TestRegionRetire(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	got := make(chan Loan, 1)
	take := func() {
		loan, err := o.Loan(testContext(t), 100_000)
		if err != nil {
			t.Error(err)
		}
		got <- loan
	}
	go take()
	request := expectFrom[*wire.RegionRequest](c)
	old := p.newRegion(request.SlotBytes, request.Slots)
	c.send(old.grant(request.Request))
	loan := <-got
	c.send(&wire.RegionRetire{Region: old.id}, &wire.Ping{})
	expectFrom[*wire.Pong](c)
	// Its free slots are not used any more.
	go take()
	request = expectFrom[*wire.RegionRequest](c)
	if request.Slots != 1<<20/uint32(request.SlotBytes) {
		t.Errorf("retired region counts: %s", request)
	}
	fresh := p.newRegion(request.SlotBytes, request.Slots)
	c.send(fresh.grant(request.Request))
	loan2 := <-got
	copy(loan.Bytes(), "still writable")
	if err := loan.Publish(testContext(t)); err != nil {
		t.Fatal(err)
	}
	published := expectFrom[*wire.Publish](c)
	if published.Region != old.id {
		t.Errorf("got %s", published)
	}
	c.send(&wire.Done{Tokens: []wire.Token{published.Token}})
	if got := expectFrom[*wire.RegionReturn](c); got.Region != old.id {
		t.Errorf("got %s", got)
	}
	if mapped(t, old.name) != 0 {
		t.Error("returned region is mapped")
	}
	loan2.Discard()
	if st := n.Stats(); st.Regions != 1 || st.SlotsUsed != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestNoMemory(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	failed := make(chan error, 1)
	go func() { failed <- o.Send(testContext(t), make([]byte, 20_000)) }()
	request := expectFrom[*wire.RegionRequest](c)
	c.send(&wire.RegionDenied{Request: request.Request, Code: wire.CodeQuota, Text: "too many slots"})
	request = expectFrom[*wire.RegionRequest](c) // asks for less first
	if request.Slots != 1 {
		t.Errorf("got %s", request)
	}
	c.send(&wire.RegionDenied{Request: request.Request, Code: wire.CodeQuota, Text: "quota 64 MiB, held by planner/frame"})
	err := <-failed
	wantErr(t, err, ErrNoMemory)
	wantErr(t, err, wire.ErrQuota)
	if !strings.Contains(err.Error(), "quota 64 MiB, held by planner/frame") {
		t.Errorf("broker's words are missing: %v", err)
	}
	if got := expectFrom[*wire.SendFailed](c); got.Reason != wire.DropNoMemory || got.Count != 1 || got.Bytes != 20_000 || got.SeqFirst != 1 || got.SeqLast != 1 {
		t.Errorf("got %s", got)
	}
	// The failed message had a number of its own.
	if err := o.Send(testContext(t), []byte("small")); err != nil {
		t.Fatal(err)
	}
	if got := expectFrom[*wire.Publish](c); got.Seq != 2 {
		t.Errorf("got %s", got)
	}
	// Those that follow soon are told together.
	for range 5 {
		go func() { _, err := o.Loan(testContext(t), 20_000); failed <- err }()
		for denials := 0; denials < 2; denials++ {
			request = expectFrom[*wire.RegionRequest](c)
			c.send(&wire.RegionDenied{Request: request.Request, Code: wire.CodeNoMemory})
		}
		wantErr(t, <-failed, ErrNoMemory)
	}
	count := uint64(0)
	for count < 5 {
		got := skipTo(c, any1[*wire.SendFailed])
		count += got.Count
		if got.SeqLast != wire.Seq(2+count) {
			t.Errorf("got %s", got)
		}
	}
}

func TestBlockReceiverWaitsForMemory(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	c.send(&wire.Flow{Output: 0, Epoch: 1, Receivers: 1, Window: 100})
	if err := o.WaitReceivers(testContext(t), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sent := make(chan error, 1)
	go func() { sent <- o.Send(ctx, make([]byte, 20_000)) }()
	for range 3 { // refused, refused for one slot, refused after the pause
		request := expectFrom[*wire.RegionRequest](c)
		c.send(&wire.RegionDenied{Request: request.Request, Code: wire.CodeNoMemory})
	}
	request := expectFrom[*wire.RegionRequest](c)
	c.send(p.newRegion(request.SlotBytes, request.Slots).grant(request.Request))
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	// All slots in use and no more to be had: it waits for one to come back.
	slots := []wire.Token{expectFrom[*wire.Publish](c).Token}
	for range request.Slots - 1 {
		if err := o.Send(ctx, make([]byte, 20_000)); err != nil {
			t.Fatal(err)
		}
		slots = append(slots, expectFrom[*wire.Publish](c).Token)
	}
	go func() { sent <- o.Send(ctx, make([]byte, 20_000)) }()
	request = expectFrom[*wire.RegionRequest](c)
	c.send(&wire.RegionDenied{Request: request.Request, Code: wire.CodeNoMemory})
	c.send(&wire.Done{Tokens: slots[:1]})
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	go func() { sent <- o.Send(ctx, make([]byte, 20_000)) }()
	cancel()
	wantErr(t, <-sent, context.Canceled)
	if st := n.Stats(); st.SendFailures != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestForgottenLoanIsGivenBack(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	go serveRegions(c, make(chan *wire.Publish, 1), make(map[wire.RegionID]testRegion))
	if _, err := o.Loan(testContext(t), 50_000); err != nil {
		t.Fatal(err)
	}
	// The finalizer counts after it has given the slot back.
	eventually(t, "collection", func() bool {
		runtime.GC()
		stats := n.Stats()
		return stats.SlotsUsed == 0 && stats.Forgotten == 1
	})
}
