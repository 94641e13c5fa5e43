package broker

import (
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/brokerd/brokerd/actors"
	"github.com/brokerd/brokerd/wire"
)

// warnings are the log's lines about one connection that ask for attention.
func (tb *testBroker) warnings(p *peer) []observer.LoggedEntry {
	return tb.logs.Filter(func(e observer.LoggedEntry) bool {
		return e.Level >= zap.WarnLevel && e.ContextMap()["remote_addr"] == p.LocalAddr().String()
	}).All()
}

// Each of these connections is refused for two reasons at once, in one write:
// the router finds one, the session the other. The log tells one of them, once;
// the broker's end shows that no second line was under way.
func TestOneLineARefusal(t *testing.T) {
	tb := startBroker(t, nil)
	var peers []*peer
	for range 40 {
		p := tb.join("camera")
		bad := frameBytes(&wire.Publish{Output: 9, Seq: 1})        // the router's to refuse
		bad = append(bad, 0, 0, 0, 0, 0, 0, 0, 0)                  // an empty frame: the session's
		bad = append(bad, frameBytes(&wire.Publish{Output: 9})...) // nobody reads this any more
		if _, err := p.Write(bad); err != nil {
			t.Fatal(err)
		}
		e := p.refusal()
		if e.Code != wire.CodeNotYours && e.Code != wire.CodeProtocol {
			t.Errorf("refused with %v", e)
		}
		p.Close()
		peers = append(peers, p)
		eventually(t, "the connection is forgotten", func() bool { return tb.status().Connections == 0 })
	}
	if err := tb.end(); err != nil {
		t.Fatal(err)
	}
	for i, p := range peers {
		if lines := tb.warnings(p); len(lines) != 1 || lines[0].Message != "connection ended by the broker" {
			t.Errorf("connection %d: %d lines: %v", i, len(lines), lines)
		}
	}
}

// Whoever comes second, router or session, the log has the first reason only.
func TestFirstReasonIsLogged(t *testing.T) {
	for _, routerFirst := range []bool{true, false} {
		tb := startBroker(t, nil)
		p := tb.join("camera")
		sessions := tb.running().srv.snapshot(nil)
		if len(sessions) != 1 {
			t.Fatalf("%d sessions", len(sessions))
		}
		var conn actors.Conn = sessions[0]
		fromRouter := func() { conn.Send(frameBytes(wire.Errorf(wire.CodeNotYours, "from the router"))) }
		fromSession := func() { sessions[0].fail(wire.Errorf(wire.CodeProtocol, "from the session")) }
		want := "from the router"
		if routerFirst {
			fromRouter()
			fromSession()
		} else {
			fromSession()
			fromRouter()
			want = "from the session"
		}
		until[*wire.Error](p)
		p.Close()
		if err := tb.end(); err != nil {
			t.Fatal(err)
		}
		lines := tb.warnings(p)
		if len(lines) != 1 || !strings.Contains(lines[0].ContextMap()["reason"].(string), want) {
			t.Errorf("router first %v: %v", routerFirst, lines)
		}
	}
}
