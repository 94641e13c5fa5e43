package broker

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// One who never reads what comes by TLS does not keep the broker from its end: not
// even with the last word of TLS, which has nowhere to go.
func TestTLSEndsWithoutReader(t *testing.T) {
	tb, a := secret(t, nil)
	sink := tb.joinTLS("sink", a)
	if err := sink.Conn.(*tls.Conn).NetConn().(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	deaf := tb.running().srv.snapshot(nil)[0]
	deaf.Send(frameBytes(&wire.Publish{Seq: 1, Length: 16 << 20, Payload: make([]byte, 16<<20)}))
	eventually(t, "nothing more fits", func() bool { return deaf.out.look(false).queued > 0 })
	if err := tb.end(); err != nil {
		t.Error(err)
	}
}

// Those who are not let in take no descriptors beyond those of a few that are told.
func TestTLSRefusalsAreFew(t *testing.T) {
	const many = 200
	tb, a := secret(t, func(cfg *Config) { cfg.ConnectionsMax = 1 })
	tb.joinTLS("camera", a)
	before := openFiles(t)
	for name, dial := range map[string]func() net.Conn{
		"in the clear": func() net.Conn {
			p := tb.dial()
			_, _ = p.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
			return p
		},
		"a full broker": func() net.Conn {
			p, err := tb.dialTLS(&tls.Config{RootCAs: a.pool})
			if err != nil {
				return nil // closed without a word
			}
			return p
		},
	} {
		refused := tb.connectionCounters().Refused
		var most, ours int
		for i := range uint64(many) {
			if dial() != nil {
				ours++ // descriptors of this test
			}
			eventually(t, "it is refused", func() bool { return tb.connectionCounters().Refused > refused+i })
			most = max(most, openFiles(t)-before-ours)
		}
		// Twice as many: what is over may take a moment to close.
		if limit := 2*refusalsMax*tunnelFiles + 20; most > limit {
			t.Errorf("%s: %d refused connections have %d descriptors at a time, the limit is %d", name, many, most, limit)
		}
		before += ours
		eventually(t, "nothing is left of them", func() bool { return openFiles(t) <= before })
	}
}
