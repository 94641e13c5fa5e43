package node

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// newEvacuatingPeer is a broker whose nodes evacuate after holdMS.
func newEvacuatingPeer(t testing.TB, holdMS uint32, heldMax uint64) *peer {
	p := newPeer(t)
	p.ports.Inputs[0].HoldTimeoutMS = holdMS
	p.welcome.Features, p.welcome.HeldMax = wire.FeatureEvacuation, heldMax
	return p
}

// newEvacuatingLane is a world with a lane whose receiver evacuates.
func newEvacuatingLane(t testing.TB, queue uint32, policy wire.Policy, holdMS uint32, heldMax uint64) (*laneWorld, *testLane) {
	p := newEvacuatingPeer(t, holdMS, heldMax)
	w := newLaneWorldOf(t, p)
	l := w.newLane(queue, policy, 3)
	l.grant.HoldTimeoutMS, l.grant.GraceMS = holdMS, 60_000
	w.grant(l)
	return w, l
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i*7>>3)
	}
	return b
}

// evacuatedOn sums what a node has said of its evacuations.
func evacuatedOn(t testing.TB, c *laneConn, count uint64) (sum wire.Evacuated) {
	t.Helper()
	for uint64(sum.Count) < count {
		m, kept := expectEither[*wire.Evacuated, *wire.Kept](c)
		if kept != nil {
			continue
		}
		sum.Count += m.Count
		sum.Bytes += m.Bytes
		sum.Tokens = append(sum.Tokens, m.Tokens...)
		sum.HeldMS = max(sum.HeldMS, m.HeldMS)
	}
	return sum
}

// What is held on a lane goes back to its sender after the hold timeout, and stays
// what it was; a release that comes later gives nothing back a second time.
func TestEvacuateOnLane(t *testing.T) {
	w, _ := newEvacuatingLane(t, 16, wire.PolicyDropOldest, 40, 1<<30)
	sizes := []int{0, 1, 100, 100, 3000, 5000, 300_000}
	var held []Message
	bytesSent := uint64(0)
	send := func(i, n int) Message {
		if err := w.out.Send(testContext(t), pattern(n, byte(i)), String("i", string(rune('a'+i)))); err != nil {
			t.Fatal(err)
		}
		return w.next()
	}
	for i, n := range sizes {
		held = append(held, send(i, n))
		bytesSent += uint64(n)
	}
	check := func(round string) {
		t.Helper()
		for i, m := range held {
			if !bytes.Equal(m.Payload(), pattern(sizes[i], byte(i))) {
				t.Fatalf("%s: message %d is not what it was", round, i)
			}
			want := wire.AppendMetadata(nil, []Attr{String("i", string(rune('a'+i)))})
			if !bytes.Equal(m.Metadata(), want) {
				t.Fatalf("%s: metadata of message %d", round, i)
			}
		}
	}
	sum := evacuatedOn(t, w.cr, uint64(len(sizes)))
	if sum.Bytes != bytesSent || len(sum.Tokens) > 0 || sum.HeldMS < 40 {
		t.Errorf("evacuated: %s, want %d bytes", &sum, bytesSent)
	}
	eventually(t, "the slots are the sender's again", func() bool { return w.used() == 0 })
	check("evacuated")
	if st := w.receiver.Stats(); st.Held != len(sizes) || st.Kept != len(sizes) || st.KeptBytes < bytesSent ||
		st.Evacuated != uint64(len(sizes)) || st.EvacuatedBytes != bytesSent || st.Stuck != 0 {
		t.Errorf("stats: %+v", st)
	}

	for _, h := range w.receiver.Held() {
		if !h.Evacuated {
			t.Errorf("held: %v", h)
		}
	}

	// The same slots again, with other messages. Their bits are theirs.
	var later []Message
	for i, n := range sizes {
		later = append(later, send(100+i, n))
	}
	used := w.used()
	check("slots are used again")
	for _, m := range held {
		m.Release()
	}
	got := w.used()
	// On a machine that has no time for this test the later ones are evacuated, too.
	if none := w.receiver.Stats().Evacuated == uint64(len(sizes)); none && (got < len(sizes) || got > used) {
		t.Errorf("%d slots in use after releases of what was evacuated, %d before", got, used)
	}
	for i, m := range later {
		if !bytes.Equal(m.Payload(), pattern(sizes[i], byte(100+i))) {
			t.Errorf("later message %d is not what was sent", i)
		}
		m.Release()
	}
	eventually(t, "nothing is kept", func() bool {
		st := w.receiver.Stats()
		return st.Kept == 0 && st.KeptBytes == 0 && w.used() == 0
	})
	eventually(t, "the broker knows", func() bool {
		_, kept := expectEither[*wire.Evacuated, *wire.Kept](w.cr)
		return kept != nil && *kept == (wire.Kept{})
	})
}

// deliver sends the node messages that lie in the slots of a region, the first in
// slot 0.
func deliverSlots(c *peerConn, r testRegion, first wire.Seq, payloads ...[]byte) {
	var in wire.Inputs
	for i, b := range payloads {
		in.Items = append(in.Items, wire.Input{
			Seq: first + wire.Seq(i), Token: wire.Token(first) + wire.Token(i), Region: r.id,
			Offset: r.write(c.p, uint32(i), b), Length: uint64(len(b)),
		})
	}
	c.send(&in)
}

// scribble changes all slots of a region, as their next messages do.
func (r testRegion) scribble(p *peer) {
	for k := range r.geometry.Slots {
		r.write(p, k, bytes.Repeat([]byte{0xee}, int(r.geometry.SlotBytes)))
	}
}

// Of what came through the broker the tokens go back, each once.
func TestEvacuateBrokered(t *testing.T) {
	p := newEvacuatingPeer(t, 40, 1<<30)
	n, c := p.connect(p.config())
	if c.hello.Features&wire.FeatureEvacuation == 0 {
		t.Fatal("the node does not say that it evacuates")
	}
	r := p.newRegion(20_480, 4)
	c.send(r.open())
	next := make(chan Message, 3)
	go func() {
		for range 3 {
			next <- mustNext(t, n, EventInput).Message
		}
	}()
	skipTo(c, func(m *wire.Next) bool { return m.Limit >= 3 })
	deliverSlots(c, r, 1, pattern(20_000, 1), pattern(5000, 2), pattern(100, 3))
	held := []Message{<-next, <-next, <-next}
	held[2].Release() // in time, unless the machine is very busy
	tokens := map[wire.Token]bool{}
	done := map[wire.Token]bool{}
	for !tokens[1] || !tokens[2] || !tokens[3] && !done[3] {
		m, err := c.receive()
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *wire.Evacuated:
			for _, token := range m.Tokens {
				tokens[token] = true
			}
			if m.Input != 0 || m.Region != r.id || int(m.Count) != len(m.Tokens) {
				t.Errorf("%s", m)
			}
		case *wire.Done:
			for _, token := range m.Tokens {
				done[token] = true
			}
		case *wire.Next: // says what was consumed, and takes along what is done
			for _, token := range m.Done {
				done[token] = true
			}
		}
	}
	if tokens[3] && done[3] || done[1] || done[2] {
		t.Fatalf("evacuated %v, done %v", tokens, done)
	}
	r.scribble(p)
	if !bytes.Equal(held[0].Payload(), pattern(20_000, 1)) || !bytes.Equal(held[1].Payload(), pattern(5000, 2)) {
		t.Fatal("what was evacuated has changed")
	}
	held[0].Release()
	held[1].Release()
	if st := n.Stats(); st.Kept != 0 || st.KeptBytes != 0 || st.Evacuated != uint64(len(tokens)) {
		t.Errorf("stats: %+v", st)
	}
	skipTo(c, func(m *wire.Kept) bool { return *m == (wire.Kept{}) })
	c.send(&wire.Ping{Nonce: 7})
	for pong := false; !pong; {
		m, err := c.receive()
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *wire.Done:
			t.Errorf("tokens twice: %s", m)
		case *wire.Next:
			if len(m.Done) > 0 {
				t.Errorf("tokens twice: %s", m)
			}
		case *wire.Pong:
			pong = true
		}
	}
}

// A user who does not ask keeps no slots: what waits for him is copied.
func TestEvacuateQueued(t *testing.T) {
	p := newEvacuatingPeer(t, 40, 1<<30)
	n, c := p.connect(p.config())
	r := p.newRegion(20_480, 4)
	c.send(r.open())
	first := make(chan Message)
	go func() { first <- mustNext(t, n, EventInput).Message }()
	skipTo(c, func(m *wire.Next) bool { return m.Limit >= 3 })
	payloads := [][]byte{pattern(100, 1), pattern(20_000, 2), pattern(4097, 3)}
	deliverSlots(c, r, 1, payloads...)
	held := []Message{<-first}
	tokens := map[wire.Token]bool{}
	for len(tokens) < 3 {
		for _, token := range skipTo(c, any1[*wire.Evacuated]).Tokens {
			if tokens[token] {
				t.Fatalf("token %d twice", token)
			}
			tokens[token] = true
		}
	}
	r.scribble(p)
	if st := n.Stats(); st.Kept != 3 || st.Held != 1 || st.KeptBytes < 4096+20_000+4097 {
		t.Errorf("stats: %+v", st)
	}
	held = append(held, mustNext(t, n, EventInput).Message, mustNext(t, n, EventInput).Message)
	for i, m := range held {
		if !bytes.Equal(m.Payload(), payloads[i]) {
			t.Errorf("message %d is not what was sent", i)
		}
		if at := addressOf(m.Payload()); at%64 != 0 {
			t.Errorf("message %d lies at %#x", i, at)
		}
		m.Release()
	}
	if st := n.Stats(); st.Kept != 0 || st.KeptBytes != 0 || st.Evacuated != 3 {
		t.Errorf("stats: %+v", st)
	}
}

// Past held_max messages stay where they are, and everybody is told why; when
// there is room again they follow.
func TestEvacuateLimit(t *testing.T) {
	w, _ := newEvacuatingLane(t, 16, wire.PolicyDropOldest, 40, 2*8192)
	var held []Message
	for i := range 3 {
		w.send(string(pattern(8000, byte(i))))
		held = append(held, w.next())
	}
	var said wire.Kept
	for count := uint32(0); count < 2 || said.Stuck != 1; {
		m, kept := expectEither[*wire.Evacuated, *wire.Kept](w.cr)
		if kept != nil {
			said = *kept
		} else {
			count += m.Count
		}
	}
	if said.Messages != 2 || said.Bytes != 2*8192 || said.Text == "" {
		t.Errorf("%s", &said)
	}
	if got := w.used(); got != 1 {
		t.Errorf("%d slots in use", got)
	}
	if st := w.receiver.Stats(); st.Stuck != 1 || st.Kept != 2 {
		t.Errorf("stats: %+v", st)
	}
	held[0].Release()
	evacuatedOn(t, w.cr, 1)
	eventually(t, "the slot is free", func() bool { return w.used() == 0 })
	for i, m := range held[1:] {
		if !bytes.Equal(m.Payload(), pattern(8000, byte(i+1))) {
			t.Errorf("message %d is not what was sent", i+1)
		}
		m.Release()
	}
	eventually(t, "nothing is stuck or kept", func() bool {
		_, kept := expectEither[*wire.Evacuated, *wire.Kept](w.cr)
		return kept != nil && *kept == (wire.Kept{})
	})
}

// A node whose connection is gone lets go of the broker's lock when all that it
// holds is its own.
func TestEvacuateOrphan(t *testing.T) {
	p := newEvacuatingPeer(t, 60, 1<<30)
	n, c := p.connect(p.config())
	r := p.newRegion(20_480, 4)
	c.send(r.open())
	next := make(chan Message)
	go func() { next <- mustNext(t, n, EventInput).Message }()
	skipTo(c, func(m *wire.Next) bool { return m.Limit >= 1 })
	deliverSlots(c, r, 1, pattern(20_000, 1))
	m := <-next
	_ = c.conn.Close()
	again := p.accept().welcomeIn() // another session of the same broker
	go again.drain()
	if !p.locked(c.session) && n.Stats().Evacuated == 0 { // in this order: the lock goes last
		t.Fatal("the lock is free while the message is in shared memory")
	}
	eventually(t, "the lock is free", func() bool { return !p.locked(c.session) })
	r.scribble(p)
	if !bytes.Equal(m.Payload(), pattern(20_000, 1)) {
		t.Error("the message is not what it was")
	}
	if n := mapped(t, r.name); n != 0 {
		t.Errorf("%d mappings of the region", n)
	}
	m.Release()
	if st := n.Stats(); st.KeptBytes != 0 || st.Kept != 0 {
		t.Errorf("stats: %+v", st)
	}
}

// It goes on after Close.
func TestEvacuateAfterClose(t *testing.T) {
	w, _ := newEvacuatingLane(t, 16, wire.PolicyDropOldest, 60, 1<<30)
	w.send(string(pattern(8000, 1)))
	m := w.next()
	if err := w.receiver.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the slot is free", func() bool { return w.used() == 0 })
	eventually(t, "nothing is mapped but the sender's", func() bool { return mapped(t, w.region(-1).name) == 1 })
	if !bytes.Equal(m.Payload(), pattern(8000, 1)) {
		t.Error("the message is not what it was")
	}
	m.Release()
}

// A lane's sender gives a receiver that evacuates more time.
func TestLaneGrace(t *testing.T) {
	w := newLaneWorld(t)
	l := w.newLane(8, wire.PolicyDropOldest, 3)
	l.grant.HoldTimeoutMS, l.grant.GraceMS = 20, 230
	w.grant(l)
	w.send("a")
	m := w.next()
	if got := expectLane[*wire.LaneHeld](w.cs); got.HeldMS < 250 {
		t.Errorf("got %s", got)
	}
	m.Release()
}

// Messages are released at about the time when they are evacuated, read all the
// while, and their slots used again at once. Nothing may be wrong, nothing given
// back twice or not at all.
func TestEvacuateStress(t *testing.T) {
	seconds := 3 * time.Second
	if testing.Short() {
		seconds = time.Second
	}
	w, _ := newEvacuatingLane(t, 64, wire.PolicyBlock, 10, 64<<20)
	ctx, cancel := context.WithTimeout(context.Background(), seconds)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		sizes := []int{60, 200, 1500, 5000, 40_000, 700_000}
		for {
			b := make([]byte, 8+sizes[rnd.IntN(len(sizes))])
			for i := 4; i < len(b); i += 1 + len(b)/512 {
				b[i] = byte(rnd.Uint32())
			}
			sum := crc32.ChecksumIEEE(b[4:])
			b[0], b[1], b[2], b[3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
			if err := w.out.Send(ctx, b); err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				return
			}
		}
	})
	received := 0
	for {
		ev, err := w.receiver.Next(ctx)
		if err != nil {
			break
		}
		received++
		m := ev.Message
		hold := time.Duration(rand.IntN(25)) * time.Millisecond
		if received%50 == 0 {
			hold = 300 * time.Millisecond
		}
		all.Go(func() {
			for until := time.Now().Add(hold); ; {
				b := m.Payload()
				if sum := crc32.ChecksumIEEE(b[4:]); b[0] != byte(sum) || b[1] != byte(sum>>8) || b[2] != byte(sum>>16) || b[3] != byte(sum>>24) {
					t.Errorf("message %d of %d bytes is wrong", m.Seq(), len(b))
				}
				if time.Now().After(until) {
					break
				}
				time.Sleep(time.Millisecond)
			}
			m.Release()
		})
		for w.receiver.Stats().Held > 200 {
			time.Sleep(time.Millisecond)
		}
	}
	all.Wait()
	for { // what was on the lane at the end
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		ev, err := w.receiver.Next(ctx)
		cancel()
		if err != nil {
			break
		}
		ev.Message.Release()
	}
	st := w.receiver.Stats()
	t.Logf("%d received, %d evacuated", received, st.Evacuated)
	if st.Evacuated == 0 {
		t.Error("nothing was evacuated")
	}
	if st.Held != 0 || st.Kept != 0 {
		t.Errorf("stats: %+v", st)
	}
	eventually(t, "all is given back", func() bool {
		return w.used() == 0 && w.receiver.Stats().KeptBytes == 0
	})
	e := w.receiver.currentEstate()
	e.views.Lock()
	cs := e.views.cache.Stats()
	e.views.Unlock()
	if cs.Views != 0 || cs.RetiredMappings != 0 || cs.PrivatePieces != 0 {
		t.Errorf("mappings: %+v", cs)
	}
}
