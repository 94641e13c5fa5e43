package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// inline makes an item as the broker sends it for a small message.
func inline(seq wire.Seq, text string) wire.Input {
	return wire.Input{Seq: seq, TimeNS: time.Now().UnixNano(), Length: uint64(len(text)), Payload: []byte(text)}
}

func TestReceiveInline(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		next := expectFrom[*wire.Next](c)
		if next.Consumed != 0 || next.Limit != 20 {
			t.Errorf("first %s", next)
		}
		second := inline(2, "two")
		second.Input, second.Dropped = 1, 5
		second.Metadata = wire.AppendMetadata(nil, []wire.Attr{Int("frame", 9)})
		c.send(&wire.Inputs{Items: []wire.Input{inline(1, "one"), second}})
	}()
	ev := mustNext(t, n, EventInput)
	if m := ev.Message; ev.Input != "in" || string(m.Payload()) != "one" || m.Seq() != 1 || m.Dropped() != 0 || m.Metadata() != nil {
		t.Errorf("first message: %+v", ev)
	}
	if age := ev.Message.Age(); age < 0 || age > testTimeout {
		t.Errorf("age %v", age)
	}
	<-sent
	ev2 := mustNext(t, n, EventInput)
	frame, _ := ev2.Message.Metadata().Lookup("frame")
	if m := ev2.Message; ev2.Input != "other" || string(m.Payload()) != "two" || m.Dropped() != 5 || frame.Int() != 9 {
		t.Errorf("second message: %+v", ev2)
	}
	if cap(ev2.Message.Payload()) != len(ev2.Message.Payload()) {
		t.Error("append to a payload would write behind it")
	}
	if string(ev.Message.Payload()) != "one" {
		t.Error("held message has changed")
	}
	ev.Message.Release()
	ev2.Message.Release()
	if st := n.Stats(); st.Held != 0 || st.Received != 2 || st.ReceivedBytes != 6 {
		t.Errorf("stats %+v", st)
	}
}

// TestHeldInlineMessagesKeepTheirBytes holds every third of many messages while
// the receive buffers go round.
func TestHeldInlineMessagesKeepTheirBytes(t *testing.T) {
	p := newPeer(t)
	p.ports.Inputs[0].QueueSize = 60_000
	n, c := p.connect(p.config())
	const count = 20_000
	go func() {
		expectFrom[*wire.Next](c)
		for first := 0; first < count; first += 100 {
			var items []wire.Input
			for i := first; i < first+100; i++ {
				items = append(items, inline(wire.Seq(i), fmt.Sprintf("message %d %s", i, strings.Repeat("x", i%700))))
			}
			c.send(&wire.Inputs{Items: items})
		}
		c.drain()
	}()
	var held []Message
	for i := range count {
		m := mustNext(t, n, EventInput).Message
		if i%3 == 0 && len(held) < 500 {
			held = append(held, m)
			continue
		}
		if want := fmt.Sprintf("message %d ", i); !strings.HasPrefix(string(m.Payload()), want) {
			t.Fatalf("message %d: %.20q", i, m.Payload())
		}
		m.Release()
	}
	for _, m := range held {
		want := fmt.Sprintf("message %d %s", m.Seq(), strings.Repeat("x", int(m.Seq())%700))
		if string(m.Payload()) != want {
			t.Fatalf("held message %d has changed: %.20q", m.Seq(), m.Payload())
		}
		m.Release()
	}
}

func TestNextAsksFromInsideOnly(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := n.Next(ctx)
	wantErr(t, err, context.DeadlineExceeded)
	if got := expectFrom[*wire.Next](c); got.Limit != 20 {
		t.Errorf("asked with %s", got)
	}
	if got := expectFrom[*wire.Next](c); got.Limit != 0 {
		t.Errorf("gave up with %s", got)
	}
	// An ended context neither asks nor loses what is there already.
	_, err = n.Next(ctx)
	wantErr(t, err, context.DeadlineExceeded)

	// Messages that were on their way when the caller gave up are kept.
	c.send(&wire.Inputs{Items: []wire.Input{inline(1, "a"), inline(2, "b"), inline(3, "c"), inline(4, "d")}})
	eventually(t, "arrival", func() bool { ev, err := n.Next(ctx); return err == nil && ev.Message.Seq() == 1 })
	for seq := wire.Seq(2); seq <= 4; seq++ {
		if ev := mustNext(t, n, EventInput); ev.Message.Seq() != seq {
			t.Errorf("got seq %d, want %d", ev.Message.Seq(), seq)
		}
	}
	// Half of the delivery was consumed by then: one Next, not one per message.
	// On a slow machine there may be one before or after it.
	skipTo(c, func(m *wire.Next) bool { return m.Consumed == 2 && m.Limit == 24 })
	go func() { _, _ = n.Next(testContext(t)) }()
	skipTo(c, func(m *wire.Next) bool { return m.Consumed == 4 && m.Limit == 24 })
	eventually(t, "second caller refused", func() bool {
		_, err := n.Next(ctx)
		return errors.Is(err, ErrNextBusy)
	})
}

// TestSlowUserIsReported: what a slow user has consumed of a long batch is told
// with his next call, but never as if somebody waited while he gets something.
func TestSlowUserIsReported(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	go func() {
		expectFrom[*wire.Next](c)
		var items []wire.Input
		for seq := range wire.Seq(20) {
			items = append(items, inline(seq, "x"))
		}
		c.send(&wire.Inputs{Items: items}, &wire.InputClosed{Input: 0, Reason: "left"}, &wire.Stop{Reason: "drain"})
	}()
	mustNext(t, n, EventInput)
	eventually(t, "all there", func() bool {
		n.receiver.mu.Lock()
		defer n.receiver.mu.Unlock()
		return n.receiver.queue.len() == 21
	})
	slow := func() { // as if the user had taken that long
		n.receiver.mu.Lock()
		defer n.receiver.mu.Unlock()
		n.receiver.session.recv.toldAt = time.Now().Add(-2 * reportDelayMin)
	}
	for consumed := uint64(1); consumed < 20; consumed++ {
		slow()
		mustNext(t, n, EventInput)
		if got := expectFrom[*wire.Next](c); got.Consumed != consumed {
			t.Fatalf("after %d messages: %s", consumed, got)
		}
	}
	slow()
	mustNext(t, n, EventInputClosed)
	mustNext(t, n, EventStop)
	c.send(&wire.Ping{Nonce: 5})
	if m, err := c.receive(); err != nil || m.Kind() != wire.KindPong {
		t.Errorf("the broker must take it that somebody waits: %v, %v", m, err)
	}
}

func TestEventsInOrder(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	go func() {
		expectFrom[*wire.Next](c)
		c.send(&wire.Inputs{Items: []wire.Input{inline(1, "last")}},
			&wire.InputClosed{Input: 0, Reason: "sender left"}, &wire.Stop{Reason: "drain"})
	}()
	var got []string
	for ev := range n.Events(testContext(t)) {
		got = append(got, fmt.Sprintf("%s/%s/%s", ev.Kind, ev.Input, ev.Reason))
		ev.Message.Release()
		if ev.Kind == EventStop {
			break
		}
	}
	if want := "input/in/,input closed/in/sender left,stop//drain"; strings.Join(got, ",") != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestUseAfterRelease(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	go func() {
		expectFrom[*wire.Next](c)
		c.send(&wire.Inputs{Items: []wire.Input{inline(41, "a"), inline(42, "b")}})
	}()
	first := mustNext(t, n, EventInput).Message
	first.Release()
	second := mustNext(t, n, EventInput).Message // uses the same state again
	first.Release()                              // must not hit the second
	if !second.Valid() || string(second.Payload()) != "b" || first.Valid() {
		t.Error("second Release of one message ended another")
	}
	text := panicText(func() { first.Payload() })
	if !strings.Contains(text, `"in"`) || !strings.Contains(text, "41") {
		t.Errorf("panic does not name input and seq: %q", text)
	}
	second.Release()
	var none Message
	none.Release()
	if text := panicText(func() { none.Payload() }); text == "" {
		t.Error("payload of the zero Message")
	}
}

func panicText(f func()) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	f()
	return ""
}

func TestConcurrentRelease(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		expectFrom[*wire.Next](c)
		for seq := range 200 {
			c.send(&wire.Inputs{Items: []wire.Input{inline(wire.Seq(seq), "x")}})
			if seq%10 == 9 {
				skipTo(c, func(m *wire.Next) bool { return m.Consumed == uint64(seq)+1 })
			}
		}
	}()
	var wg sync.WaitGroup
	for range 200 {
		m := mustNext(t, n, EventInput).Message
		for range 3 {
			wg.Go(m.Release)
		}
	}
	go func() { _, _ = n.Next(testContext(t)) }() // so that the last batch is acknowledged
	wg.Wait()
	<-sent
	if st := n.Stats(); st.Held != 0 {
		t.Errorf("%d held", st.Held)
	}
}

// logLines collects what a node logs.
type logLines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestForgottenMessageIsGivenBack(t *testing.T) {
	p := newPeer(t)
	var lines logLines
	cfg := p.config()
	cfg.Logger = slog.New(slog.NewTextHandler(&lines, nil))
	n, c := p.connect(cfg)
	region := p.newRegion(8192, 2)
	offset := region.write(p, 0, []byte("shared"))
	go func() {
		expectFrom[*wire.Next](c)
		c.send(region.open(), &wire.Inputs{Items: []wire.Input{
			{Seq: 7, Token: 5, Region: region.id, Offset: offset, Length: 6}, inline(8, "kept slice")}})
	}()
	kept := func() []byte {
		if got := mustNext(t, n, EventInput).Message.Payload(); string(got) != "shared" {
			t.Errorf("got %q", got)
		}
		return mustNext(t, n, EventInput).Message.Payload()
	}()
	done := make(chan wire.Message, 1)
	go func() { // in a message of its own, or with what was consumed
		done <- skipTo(c, func(m wire.Message) bool {
			next, ok := m.(*wire.Next)
			return m.Kind() == wire.KindDone || ok && len(next.Done) > 0
		})
	}()
	eventually(t, "collection", func() bool { runtime.GC(); return n.Stats().Forgotten == 2 })
	if got := (<-done).String(); !strings.Contains(got, "[5]") {
		t.Errorf("got %s", got)
	}
	eventually(t, "nothing held", func() bool { return n.Stats().Held == 0 })
	if s := lines.String(); !strings.Contains(s, "input=in seq=7") || !strings.Contains(s, "level=WARN") {
		t.Errorf("log: %s", s)
	}
	if string(kept) != "kept slice" {
		t.Errorf("a forgotten inline payload was overwritten: %q", kept)
	}
}
