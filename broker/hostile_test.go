package broker

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/brokerd/brokerd/wire"
)

// raw makes a frame of any bytes.
func raw(body ...byte) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(body))), body...)
}

// Everything that a broken or hostile peer may send: it is told what was wrong,
// its connection ends, one line is logged, and nobody else notices.
func TestHostile(t *testing.T) {
	length := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	ready := func(p *peer) {
		p.send(hello("sink"))
		until[*wire.Welcome](p)
		p.send(&wire.Attach{})
		until[*wire.Ports](p)
	}
	greeted := func(p *peer) {
		p.send(hello("sink"))
		until[*wire.Welcome](p)
	}
	tb := startBroker(t, nil)
	bystander := tb.join("camera")
	for _, c := range []struct {
		name   string
		before func(*peer)
		bytes  []byte
		code   wire.Code
		text   string
	}{
		{"http", nil, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), wire.CodeFrameTooLong, ""},
		{"empty frame", nil, length(0), wire.CodeProtocol, "frame"},
		{"giant frame", nil, length(1 << 63), wire.CodeFrameTooLong, ""},
		{"all ones", nil, length(^uint64(0)), wire.CodeFrameTooLong, ""},
		{"long for a handshake", nil, length(wire.HandshakeFrameBytesMax + 1), wire.CodeFrameTooLong, "65536"},
		{"not msgpack", nil, raw(0xc1, 0xc1), wire.CodeProtocol, "body"},
		{"not an array", nil, raw(0x81, 0xa1, 'x', 1), wire.CodeProtocol, "body"},
		{"array of 4 billion", nil, raw(0xdd, 0xff, 0xff, 0xff, 0xff), wire.CodeProtocol, ""},
		{"hello cut short", nil, raw(0x92, 1, 0xa7, 'b', 'r', 'o', 'k', 'e', 'r', 'd'), wire.CodeProtocol, "hello"},
		{"other magic", nil, wrongMagic(), wire.CodeProtocol, "magic"},
		{"publish first", nil, frameBytes(&wire.Publish{}), wire.CodeWrongState, "Hello"},
		{"ping first", nil, frameBytes(&wire.Ping{}), wire.CodeWrongState, "Hello"},
		{"unknown kind first", nil, raw(0x91, 63), wire.CodeWrongState, "Hello"},
		{"newer version", nil, frameBytes(&wire.Hello{VersionMin: 7, VersionMax: 9, Dataflow: "test", Node: "sink"}), wire.CodeVersion, "7 to 9"},
		{"older version", nil, frameBytes(&wire.Hello{VersionMin: 0, VersionMax: 0, Dataflow: "test", Node: "sink"}), wire.CodeVersion, "1 to 1"},
		{"unknown dataflow", nil, frameBytes(&wire.Hello{VersionMin: 1, VersionMax: 1, Dataflow: "other", Node: "sink"}), wire.CodeUnknownDataflow, "test"},
		{"unknown node", nil, frameBytes(hello("nobody")), wire.CodeUnknownNode, "sink"},
		{"publish for attach", greeted, frameBytes(&wire.Publish{}), wire.CodeWrongState, "Attach"},
		{"hello twice", greeted, frameBytes(hello("sink")), wire.CodeWrongState, "Attach"},
		{"hello after ready", ready, frameBytes(hello("sink")), wire.CodeWrongState, "hello"},
		{"unknown mandatory kind", ready, raw(0x91, 63), wire.CodeProtocol, "63"},
		{"message for nodes", ready, frameBytes(&wire.Stop{Reason: "you"}), wire.CodeWrongState, ""},
		{"empty frame after ready", ready, length(0), wire.CodeProtocol, ""},
		{"long frame after ready", ready, length(64<<20 + FrameBytesSpare + 1), wire.CodeFrameTooLong, ""},
		{"trailing bytes", ready, append(length(4), 0x92, 23, 1, 1), wire.CodeProtocol, "ping"},
		{"no such output", ready, frameBytes(&wire.Publish{Output: 9, Seq: 1}), wire.CodeNotYours, "9"},
		{"token not held", ready, frameBytes(&wire.Next{Consumed: 5}), wire.CodeProtocol, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := tb.dial()
			if c.before != nil {
				c.before(p)
			}
			if _, err := p.Write(c.bytes); err != nil {
				t.Fatal(err)
			}
			e := p.refusal()
			if e.Code != c.code || !strings.Contains(strings.ToLower(e.Text), strings.ToLower(c.text)) {
				t.Errorf("refused with %v", e)
			}
			p.Close()
			eventually(t, "the connection is forgotten", func() bool { return tb.status().Connections == 1 })
			bystander.send(&wire.Ping{Nonce: 5})
			if pong := until[*wire.Pong](bystander); pong.Nonce != 5 {
				t.Error("a wrong pong")
			}
			lines := func() []observer.LoggedEntry {
				return tb.logs.Filter(func(e observer.LoggedEntry) bool {
					return e.Level == zap.WarnLevel && e.ContextMap()["remote_addr"] == p.LocalAddr().String()
				}).All()
			}
			eventually(t, "it is logged", func() bool { return len(lines()) > 0 })
			line := lines()[0].ContextMap()
			if len(lines()) != 1 || line["code"] != c.code.String() || line["reason"] != e.Text {
				t.Errorf("log lines: %v", lines())
			}
		})
	}
}

func frameBytes(m wire.Message) []byte { return wire.NewEncoder().Append(nil, m) }

func wrongMagic() []byte {
	b := frameBytes(hello("sink"))
	copy(b[strings.Index(string(b), wire.Magic):], "Brokerd")
	return b
}

// A peer that disappears in the middle of things leaves nothing.
func TestPeerDisappears(t *testing.T) {
	tb := startBroker(t, nil)
	for _, part := range [][]byte{
		nil, {5}, frameBytes(hello("sink"))[:20], frameBytes(hello("sink")),
		binary.LittleEndian.AppendUint64(nil, 60_000),
	} {
		for _, reset := range []bool{false, true} {
			p := tb.dial()
			if _, err := p.Write(part); err != nil {
				t.Fatal(err)
			}
			if reset {
				_ = p.Conn.(*net.TCPConn).SetLinger(0)
			}
			p.Close()
		}
	}
	eventually(t, "all are forgotten", func() bool {
		return tb.status().Connections == 0 && tb.running().srv.count() == 0
	})
}

// Somebody who sends a byte now and then does not keep a place for ever.
func TestSlowHandshake(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.HandshakeTimeout = 100 * time.Millisecond })
	loris := tb.dial()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, b := range frameBytes(hello("sink")) {
			if _, err := loris.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond) // the attack itself, not synchronisation
		}
	}()
	if e := until[*wire.Error](loris); e.Code != wire.CodeHandshakeTimeout {
		t.Errorf("refused with %v", e)
	}
	loris.Close()
	<-ended
	// A handshake that stops half-way is the same.
	p := tb.dial()
	p.send(hello("sink"))
	if e := until[*wire.Error](p); e.Code != wire.CodeHandshakeTimeout {
		t.Errorf("refused with %v", e)
	}
	// One that is done is left alone.
	q := tb.join("camera")
	_ = q.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	for {
		m, err := q.next()
		if errors.Is(err, errTimeoutOf(err)) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := m.(*wire.Error); ok {
			t.Fatal(e)
		}
	}
}

// errTimeoutOf returns err if it is a time-out of the net package, else nil's
// stand-in.
func errTimeoutOf(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return err
	}
	return io.ErrNoProgress
}

func TestAuth(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.AuthToken = []byte("secret") })
	start := time.Now()
	var refused []*peer
	for _, token := range []string{"", "secre", "secret ", "SECRET", strings.Repeat("x", wire.AuthBytesMax)} {
		p := tb.dial()
		h := hello("camera")
		h.Auth = []byte(token)
		p.send(h, &wire.Attach{}, &wire.Publish{})
		refused = append(refused, p)
	}
	good := tb.dial()
	h := hello("camera")
	h.Auth = []byte("secret")
	good.send(h)
	until[*wire.Welcome](good)
	for _, p := range refused {
		if e := p.refusal(); e.Code != wire.CodeAuth || strings.Contains(e.Text, "secret") {
			t.Errorf("refused with %v", e)
		}
	}
	if took := time.Since(start); took < authDelayMin {
		t.Errorf("a wrong token was refused after only %s", took)
	}
	eventually(t, "all failures are logged", func() bool { return len(tb.linesWith("code", "auth")) == len(refused) })
	if n := tb.status().Counters.AuthFailures; n != uint64(len(refused)) {
		t.Errorf("%d failures counted", n)
	}
}

func TestConnectionsMax(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.ConnectionsMax = 2 })
	a, b := tb.join("camera"), tb.join("sink")
	for range 2 {
		p := tb.dial()
		p.send(controlHello())
		if e := p.refusal(); e.Code != wire.CodeTooManyConnections {
			t.Fatalf("refused with %v", e)
		}
	}
	b.Close()
	eventually(t, "there is room again", func() bool { return tb.running().srv.count() == 1 })
	tb.join("sink")
	a.send(&wire.Ping{Nonce: 1})
	until[*wire.Pong](a)
	if n := tb.status().Counters.RefusedConnections; n != 2 {
		t.Errorf("%d refusals counted", n)
	}
}

// A peer that asks and does not read the answers is cut off when the limit is
// reached, and costs no more than that.
func TestSlowReader(t *testing.T) {
	const limit = 1 << 20
	tb := startBroker(t, func(cfg *Config) { cfg.OutboundBytesMax = limit })
	camera, sink := tb.join("camera"), tb.join("sink")
	var pings []byte
	for nonce := range uint64(10_000) {
		pings = wire.NewEncoder().Append(pings, &wire.Ping{Nonce: nonce})
	}
	for sent := 0; ; sent += len(pings) {
		if _, err := sink.Write(pings); err != nil {
			break
		}
		if sent > 1<<30 {
			t.Fatal("not cut off")
		}
	}
	eventually(t, "the cut is logged", func() bool { return len(tb.linesWith("code", "slow_connection")) == 1 })
	line := tb.linesWith("code", "slow_connection")[0].ContextMap()
	if waiting := line["waiting_bytes"].(uint64); waiting > limit {
		t.Errorf("%d bytes were waiting, the limit is %d", waiting, limit)
	}
	eventually(t, "the slow one is gone", func() bool { return !tb.nodeConnected("sink") })
	camera.send(&wire.Ping{Nonce: 1})
	until[*wire.Pong](camera)
}

// A remote receiver that takes nothing for a while is cut off although little
// waits for it.
func TestSlowTimeout(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.SlowTimeout = 100 * time.Millisecond })
	camera, sink := tb.join("camera"), tb.join("sink")
	sink.send(&wire.Next{Limit: 1 << 40})
	payload := make([]byte, 32<<20) // more than the sockets hold between them
	camera.send(&wire.Publish{Seq: 1, Length: uint64(len(payload)), Payload: payload})
	eventually(t, "cut off", func() bool { return len(tb.linesWith("code", "slow_connection")) == 1 })
	eventually(t, "the slow one is gone", func() bool { return !tb.nodeConnected("sink") })
}

// Heartbeats: remote peers that give no sign of life are ended, local ones are
// not, and those that answer live on.
func TestHeartbeat(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.HeartbeatInterval = 40 * time.Millisecond })
	local := tb.joinLocal("camera")
	remote := tb.join("sink")
	if e := remote.refusal(); e.Code != wire.CodeTimeout {
		t.Errorf("the silent remote node was told %v", e)
	}
	eventually(t, "it is gone", func() bool { return !tb.nodeConnected("sink") })
	answering := tb.join("sink")
	for range 8 { // twice what the silent one was granted
		ping := until[*wire.Ping](answering)
		answering.send(&wire.Pong{Nonce: ping.Nonce})
	}
	unresponsive := func() int { return tb.logs.FilterMessageSnippet("does not answer").Len() }
	eventually(t, "the silent local node is noted", func() bool { return unresponsive() > 0 })
	if !tb.nodeConnected("camera") {
		t.Error("the local node was cut off")
	}
	local.send(&wire.Pong{})
	eventually(t, "it is noted that it answers again", func() bool {
		return tb.logs.FilterMessage("node answers again").Len() == 1
	})
	if n := unresponsive(); n != 1 {
		t.Errorf("it was noted %d times", n)
	}
}

// A peer that says goodbye, or why it gives up, is not an accident.
func TestReasonsOfTheEnd(t *testing.T) {
	tb := startBroker(t, nil)
	p := tb.join("camera")
	p.send(&wire.Bye{Reason: "done for today"})
	p.Close()
	eventually(t, "the goodbye is logged", func() bool { return len(tb.linesWith("reason", "done for today")) == 1 })
	p = tb.join("camera")
	p.send(&wire.Error{Code: wire.CodeProtocol, Text: "cannot read you"})
	eventually(t, "the connection is ended", func() bool {
		return len(tb.linesWith("reason", "the peer gave up: protocol error: cannot read you")) == 1
	})
	p = tb.join("camera")
	p.Close()
	eventually(t, "the loss is logged", func() bool {
		return tb.logs.Filter(func(e observer.LoggedEntry) bool {
			reason, _ := e.ContextMap()["reason"].(string)
			return strings.HasPrefix(reason, ErrPeerGone.Error())
		}).Len() == 1
	})
}
