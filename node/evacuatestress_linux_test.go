package node

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// slotBroker delivers messages in the slots of one region for as long as the node
// has credit, and uses a slot again as soon as its token is back.
type slotBroker struct {
	t         *testing.T
	c         *peerConn
	region    testRegion
	free      []uint32
	tokens    map[wire.Token]uint32 // outstanding, and their slots
	last      wire.Token
	delivered uint64
	limit     uint64
	evacuated uint64
	slow      bool // nothing is sent any more
}

// run serves the node until its connection ends.
func (b *slotBroker) run(stop <-chan struct{}) {
	for {
		m, err := b.c.receive()
		if err != nil {
			return
		}
		switch m := m.(type) {
		case *wire.Next:
			b.limit = m.Limit
			b.back(m.Done)
		case *wire.Done:
			b.back(m.Tokens)
		case *wire.Evacuated:
			b.evacuated += uint64(m.Count)
			b.back(m.Tokens)
		case *wire.Ping:
			b.c.send(&wire.Pong{Nonce: m.Nonce})
		}
		select {
		case <-stop:
			b.slow = true
		default:
		}
		b.deliver()
	}
}

func (b *slotBroker) back(tokens []wire.Token) {
	for _, token := range tokens {
		slot, out := b.tokens[token]
		if !out {
			b.t.Errorf("token %d came back twice", token)
			continue
		}
		delete(b.tokens, token)
		b.region.write(b.c.p, slot, bytes.Repeat([]byte{0xee}, int(b.region.geometry.SlotBytes)))
		b.free = append(b.free, slot)
	}
}

func (b *slotBroker) deliver() {
	var in wire.Inputs
	for !b.slow && len(b.free) > 0 && b.delivered < b.limit {
		slot := b.free[0]
		b.free = b.free[1:]
		b.last++
		b.delivered++
		payload := pattern(100+int(b.last)%int(b.region.geometry.SlotBytes-100), byte(b.last))
		in.Items = append(in.Items, wire.Input{
			Seq: wire.Seq(b.last), Token: b.last, Region: b.region.id,
			Offset: b.region.write(b.c.p, slot, payload), Length: uint64(len(payload)),
		})
		b.tokens[b.last] = slot
	}
	if len(in.Items) > 0 {
		b.c.send(&in)
	}
}

// What comes through the broker is taken, released, and evacuated from the user's
// hands and from the queue, all at about the same time. Each token comes back
// once, and what the user has stays what it was.
func TestEvacuateStressBrokered(t *testing.T) {
	seconds := 3 * time.Second
	if testing.Short() {
		seconds = time.Second
	}
	for _, slotBytes := range []uint64{512, 12_288} {
		p := newEvacuatingPeer(t, 10, 1<<30)
		n, c := p.connect(p.config())
		b := &slotBroker{t: t, c: c, region: p.newRegion(slotBytes, 24), tokens: map[wire.Token]uint32{}}
		for k := range b.region.geometry.Slots {
			b.free = append(b.free, k)
		}
		c.send(b.region.open())
		stop, served := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(served)
			b.run(stop)
		}()
		ctx, cancel := context.WithTimeout(context.Background(), seconds/2)
		var all sync.WaitGroup
		received := 0
		for {
			if received%40 == 0 {
				time.Sleep(30 * time.Millisecond) // what waits in the queue gets old
			}
			ev, err := n.Next(ctx)
			if err != nil {
				break
			}
			received++
			m := ev.Message
			hold := time.Duration(rand.IntN(20)) * time.Millisecond
			all.Go(func() {
				want := pattern(len(m.Payload()), byte(m.Seq()))
				for until := time.Now().Add(hold); ; time.Sleep(time.Millisecond) {
					if !bytes.Equal(m.Payload(), want) {
						t.Errorf("message %d of %d bytes is wrong", m.Seq(), len(want))
					}
					if time.Now().After(until) {
						break
					}
				}
				m.Release()
			})
		}
		cancel()
		close(stop)
		all.Wait()
		for { // what had been sent
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			ev, err := n.Next(ctx)
			cancel()
			if err != nil {
				break
			}
			ev.Message.Release()
		}
		st := n.Stats()
		t.Logf("slots of %d bytes: %d received, %d evacuated", slotBytes, received, st.Evacuated)
		if st.Evacuated == 0 || st.Kept != 0 || st.KeptBytes != 0 || st.Held != 0 {
			t.Errorf("stats: %+v", st)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		_ = c.conn.Close()
		<-served
		if b.evacuated > st.Evacuated || len(b.tokens) > 0 {
			t.Errorf("%d evacuated, the broker heard of %d; %d tokens are not back", st.Evacuated, b.evacuated, len(b.tokens))
		}
	}
}

// Past held_max what waits in the queue stays in shared memory, and is right.
func TestEvacuateQueuedLimit(t *testing.T) {
	p := newEvacuatingPeer(t, 40, 20_480)
	n, c := p.connect(p.config())
	r := p.newRegion(20_480, 4)
	c.send(r.open())
	first := make(chan Message)
	go func() { first <- mustNext(t, n, EventInput).Message }()
	skipTo(c, func(m *wire.Next) bool { return m.Limit >= 3 })
	payloads := [][]byte{pattern(100, 1), pattern(16_000, 2), pattern(17_000, 3)}
	deliverSlots(c, r, 1, payloads...)
	held := []Message{<-first}
	kept := skipTo(c, func(m *wire.Kept) bool { return m.Stuck == 1 && m.Messages == 2 })
	if kept.Bytes > 20_480 || kept.Text == "" {
		t.Errorf("%s", kept)
	}
	held = append(held, mustNext(t, n, EventInput).Message, mustNext(t, n, EventInput).Message)
	for i, m := range held {
		if !bytes.Equal(m.Payload(), payloads[i]) {
			t.Errorf("message %d is not what was sent", i)
		}
		m.Release()
	}
}
