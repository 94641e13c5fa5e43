package node

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

func TestConnectTellsWhoItIs(t *testing.T) {
	p := newPeer(t)
	cfg := p.config()
	cfg.AuthToken, cfg.Takeover = []byte("secret"), true
	n, c := p.connect(cfg)
	if h := c.hello; h.Dataflow != "demo" || h.Node != "edges" || string(h.Auth) != "secret" || h.Flags != wire.FlagTakeover || h.Client == "" {
		t.Errorf("hello: %+v", h)
	}
	if n.Local() != (shmpool.Dir != "") {
		t.Errorf("local: %v", n.Local())
	}
	if n.Local() && !p.locked(c.session) {
		t.Errorf("local node holds no lock on the probe file")
	}
	if got := strings.Join(n.Outputs(), ","); got != "out,aux" {
		t.Errorf("outputs %q", got)
	}
	in := n.Inputs()
	want := InputInfo{ID: "other", Source: "timer/millis/100", QueueSize: 10, Policy: wire.PolicyBlock, HoldTimeout: 5 * time.Second, Open: true}
	if len(in) != 2 || in[1] != want {
		t.Errorf("inputs %+v", in)
	}
	_, err := n.Output("nope")
	wantErr(t, err, ErrUnknownOutput)
	if !strings.Contains(err.Error(), "out, aux") {
		t.Errorf("error does not list the outputs: %v", err)
	}
}

func TestConnectRefused(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeAuth, wire.CodeUnknownNode, wire.CodeUnknownDataflow, wire.CodeDuplicateNode, wire.CodeVersion} {
		t.Run(code.String(), func(t *testing.T) {
			p := newPeer(t)
			failed := make(chan error, 1)
			go func() {
				_, err := Connect(testContext(t), p.config())
				failed <- err
			}()
			p.accept().send(wire.Errorf(code, "because"))
			err := <-failed
			wantErr(t, err, code.Err())
			if !strings.Contains(err.Error(), "because") {
				t.Errorf("broker's words are missing: %v", err)
			}
		})
	}
}

func TestConnectUnreachable(t *testing.T) {
	p := newPeer(t)
	cfg := p.config()
	_ = p.listener.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Millisecond)
	defer cancel()
	_, err := Connect(ctx, cfg)
	wantErr(t, err, ErrUnreachable)
	wantErr(t, err, context.DeadlineExceeded)
	if !strings.Contains(err.Error(), "BROKERD_ADDR") {
		t.Errorf("error does not teach: %v", err)
	}
}

func TestConnectKeepsTrying(t *testing.T) {
	p := newPeer(t)
	done := make(chan error, 1)
	go func() {
		n, err := Connect(testContext(t), p.config())
		if err == nil {
			err = n.Close()
		}
		done <- err
	}()
	p.accept().send(wire.Errorf(wire.CodeShuttingDown, "not now"))
	_ = p.accept().conn.Close()
	c := p.accept().welcomeIn()
	expectFrom[*wire.Bye](c)
	_ = c.conn.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestProbeOfAnotherMachine(t *testing.T) {
	p := newPeer(t)
	p.nonce = bytes.Repeat([]byte{1}, 32) // the file holds another
	n, c := p.connect(p.config())
	if n.Local() {
		t.Fatal("local without the right nonce")
	}
	if p.locked(c.session) {
		t.Error("remote node holds a lock")
	}
	// Everything goes inline then, however large.
	o := mustOutput(t, n, "out")
	payload := bytes.Repeat([]byte("abc"), 100_000)
	if err := o.Send(testContext(t), payload); err != nil {
		t.Fatal(err)
	}
	if got := expectFrom[*wire.Publish](c); !bytes.Equal(got.Payload, payload) || got.Token != 0 {
		t.Errorf("got %s", got)
	}
	err := o.Send(testContext(t), make([]byte, 2<<20))
	wantErr(t, err, ErrTooLarge)
	if !strings.Contains(err.Error(), "1048576") {
		t.Errorf("error does not name the limit: %v", err)
	}
	if got := expectFrom[*wire.SendFailed](c); got.Reason != wire.DropTooLarge || got.Count != 1 || got.Bytes != 2<<20 || got.SeqFirst != 2 {
		t.Errorf("got %s", got)
	}
}

func TestSendInline(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "aux")
	before := time.Now()
	for i, payload := range []string{"first", "", "third"} {
		if err := o.Send(testContext(t), []byte(payload), Int("frame", int64(i)), String("codec", "raw")); err != nil {
			t.Fatal(err)
		}
		got := expectFrom[*wire.Publish](c)
		frame, _ := got.Metadata.Lookup("frame")
		if got.Output != 1 || string(got.Payload) != payload || got.Seq != wire.Seq(i+1) || frame.Int() != int64(i) ||
			got.Length != uint64(len(payload)) || got.Token != 0 || got.Region != 0 {
			t.Errorf("message %d: %s", i, got)
		}
		if at := time.Unix(0, got.TimeNS); at.Before(before) || time.Since(at) > testTimeout {
			t.Errorf("time %v", at)
		}
	}
	err := o.Send(testContext(t), nil, Bytes("big", make([]byte, wire.MetadataBytesMax)))
	wantErr(t, err, ErrMetadata)
}

func TestBurstIsCoalescedInOrder(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	const count = 20_000
	failed := make(chan error, 1)
	go func() {
		for range count {
			if err := o.Send(testContext(t), []byte("0123456789abcdef")); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	for i := range count {
		if got := expectFrom[*wire.Publish](c); got.Seq != wire.Seq(i+1) {
			t.Fatalf("message %d has seq %d", i, got.Seq)
		}
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if writes := n.Stats().SocketWrites; writes > count/2 {
		t.Errorf("%d writes for %d messages", writes, count)
	}
}

func TestSendWaitsForRoomWithContext(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	// The peer does not read: socket buffers and the pending buffer fill up.
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	sent := 0
	var err error
	for err == nil {
		if err = o.Send(ctx, make([]byte, 4096)); err == nil {
			sent++
		}
	}
	wantErr(t, err, context.DeadlineExceeded)
	for i := range sent {
		if got := expectFrom[*wire.Publish](c); got.Seq != wire.Seq(i+1) {
			t.Fatalf("message %d has seq %d", i, got.Seq)
		}
	}
	if err := o.Send(testContext(t), []byte("goes on")); err != nil {
		t.Fatal(err)
	}
	if got := expectFrom[*wire.Publish](c); got.Seq != wire.Seq(sent+1) {
		t.Errorf("seq %d after %d messages", got.Seq, sent)
	}
}

// TestFirstFlow: a message that goes out before the node knows the epoch would
// not be for receivers with policy block.
func TestFirstFlow(t *testing.T) {
	p := newPeer(t)
	p.noFlow = true
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	wantErr(t, o.Send(ctx, []byte("early")), context.DeadlineExceeded)
	sent := make(chan error, 1)
	go func() { sent <- o.Send(testContext(t), []byte("first")) }()
	c.send(&wire.Flow{Output: 0, Epoch: 3, Receivers: 1, Window: 10})
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if got := expectFrom[*wire.Publish](c); got.Epoch != 3 || string(got.Payload) != "first" {
		t.Errorf("published %s", got)
	}
}

// TestLastWords: what the user has consumed is told before the goodbye.
func TestLastWords(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	got := make(chan error, 1)
	go func() {
		_, err := n.Next(testContext(t))
		got <- err
	}()
	for {
		if m, err := c.receive(); err != nil {
			t.Fatal(err)
		} else if next, ok := m.(*wire.Next); ok && next.Limit > 0 {
			break
		}
	}
	c.send(&wire.Inputs{Items: []wire.Input{{Seq: 1, Length: 1, Payload: []byte("x")}}})
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	go n.Close()
	for {
		m, err := c.receive()
		if err != nil {
			t.Fatalf("the node went without telling: %v", err)
		}
		if next, ok := m.(*wire.Next); ok && next.Consumed == 1 {
			return
		}
		if _, ok := m.(*wire.Bye); ok {
			t.Fatal("goodbye before the last next")
		}
	}
}

func TestBlockWindow(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	c.send(&wire.Flow{Output: 0, Epoch: 7, Receivers: 2, Window: 2})
	if err := o.WaitReceivers(testContext(t), 2); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := o.Send(testContext(t), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	wantErr(t, o.Send(ctx, []byte("x")), context.DeadlineExceeded)
	sent := make(chan error, 1)
	go func() { sent <- o.Send(testContext(t), []byte("third")) }()
	for range 2 {
		if got := expectFrom[*wire.Publish](c); got.Epoch != 7 {
			t.Errorf("epoch: %s", got)
		}
	}
	c.send(&wire.Flow{Output: 0, Epoch: 8, Receivers: 2, Window: 3})
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if got := expectFrom[*wire.Publish](c); got.Epoch != 8 || got.Seq != 3 || string(got.Payload) != "third" {
		t.Errorf("got %s", got)
	}
}

func TestOutputClose(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "aux")
	for range 2 {
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := expectFrom[*wire.OutputClose](c); got.Output != 1 {
		t.Errorf("got %s", got)
	}
	wantErr(t, o.Send(testContext(t), nil), ErrOutputClosed)
	_, err := o.Loan(testContext(t), 10_000)
	wantErr(t, err, ErrOutputClosed)
	// It stays closed over a reconnect.
	_ = c.conn.Close()
	c = p.accept().welcomeIn()
	if got := expectFrom[*wire.OutputClose](c); got.Output != 1 {
		t.Errorf("got %s", got)
	}
}

func TestCloseFlushesAndWakes(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	c.send(&wire.Flow{Output: 0, Epoch: 1, Receivers: 1, Window: 3000})
	if err := o.WaitReceivers(testContext(t), 1); err != nil {
		t.Fatal(err)
	}
	blocked := make(chan error, 2)
	go func() { // fills the window, then waits
		var err error
		for err == nil {
			err = o.Send(testContext(t), make([]byte, 100))
		}
		blocked <- err
	}()
	go func() {
		_, err := n.Next(context.Background())
		blocked <- err
	}()
	got := make(chan int, 1)
	go func() {
		count := 0
		for {
			m, err := c.receive()
			if err != nil {
				break
			}
			if _, ok := m.(*wire.Publish); ok {
				count++
			}
			if _, ok := m.(*wire.Bye); ok {
				break
			}
		}
		_ = c.conn.Close()
		got <- count
	}()
	eventually(t, "window used up", func() bool { return n.Stats().Published == 3000 })
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, <-blocked, ErrClosed)
	wantErr(t, <-blocked, ErrClosed)
	if count := <-got; count != 3000 {
		t.Errorf("peer got %d of 3000 messages before Bye", count)
	}
	_, err := n.Next(context.Background())
	wantErr(t, err, ErrClosed)
	select {
	case <-n.Done():
	default:
		t.Error("Done is open after Close")
	}
	if p.locked(c.session) {
		t.Error("lock is held after Close though nothing else is")
	}
}

func TestCloseIsBounded(t *testing.T) {
	p := newPeer(t)
	n, _ := p.connect(p.config()) // the peer neither reads nor closes
	begun := time.Now()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 3*closeTimeout {
		t.Errorf("Close took %v", took)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCloseWhileAway(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	o := mustOutput(t, n, "out")
	_ = p.listener.Close()
	_ = c.conn.Close()
	waiting := make(chan error, 1)
	eventually(t, "loss noticed", func() bool { return n.current() == nil })
	go func() { waiting <- o.Send(testContext(t), nil) }()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, <-waiting, ErrClosed)
}

func TestProtocolErrorsOfBroker(t *testing.T) {
	for name, bad := range map[string]wire.Message{
		"unasked items":     &wire.Inputs{Items: []wire.Input{{Input: 0, Seq: 1}}},
		"unknown token":     &wire.Done{Tokens: []wire.Token{77}},
		"unknown output":    &wire.Flow{Output: 9},
		"unknown input":     &wire.InputClosed{Input: 9},
		"unasked region":    &wire.RegionGrant{Request: 5, Region: 1, Name: "x", Bytes: 8192, SlotBytes: 4096, Slots: 1},
		"message of a node": &wire.Publish{},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			n, c := p.connect(p.config())
			c.send(bad)
			got := expectFrom[*wire.Error](c)
			if got.Code != wire.CodeProtocol && got.Code != wire.CodeWrongState {
				t.Errorf("node answered %s", got)
			}
			// It comes back, and tells the user.
			p.accept().welcomeIn()
			for {
				ev, err := n.Next(testContext(t))
				if err != nil {
					t.Fatal(err)
				}
				if ev.Kind == EventReconnected {
					break
				}
				if ev.Kind != EventError || !errors.Is(ev.Err, got.Code.Err()) {
					t.Errorf("event %+v", ev)
				}
			}
		})
	}
}

func TestPing(t *testing.T) {
	p := newPeer(t)
	_, c := p.connect(p.config())
	c.send(&wire.Ping{Nonce: 42})
	if got := expectFrom[*wire.Pong](c); got.Nonce != 42 {
		t.Errorf("got %s", got)
	}
}

func TestSilentRemoteBrokerIsGivenUp(t *testing.T) {
	p := newPeer(t)
	p.remote = true
	p.welcome.HeartbeatMS = 150
	n, c := p.connect(p.config())
	// Answered pings keep the connection.
	for range 3 {
		c.send(&wire.Pong{Nonce: expectFrom[*wire.Ping](c).Nonce})
	}
	if n.Stats().Reconnects != 0 {
		t.Fatal("connection given up in spite of answers")
	}
	p.accept().welcomeIn() // silence: it connects again
	mustNext(t, n, EventReconnected)
}
