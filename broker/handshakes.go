package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/wire"
)

// tlsHandshakesMax bounds the TLS handshakes under way. Each has a goroutine and
// some 30 KiB; what it costs the processor, they share.
const tlsHandshakesMax = 256

// handshakes are the connections that are in their TLS handshake.
type handshakes struct {
	max     int // tlsHandshakesMax, or less; does not change
	running sync.WaitGroup

	mu      sync.Mutex
	waiting []*pendingHandshake // oldest first
	stopped bool
}

type pendingHandshake struct {
	conn  net.Conn
	began time.Time
}

// begin enters a connection. If there are too many the oldest is closed, unless it
// has come only just now. nil: there is no room.
func (h *handshakes) begin(conn net.Conn, now time.Time) *pendingHandshake {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return nil
	}
	if len(h.waiting) >= h.max {
		oldest := h.waiting[0]
		if now.Sub(oldest.began) < strangerSafe {
			return nil
		}
		h.waiting = h.waiting[1:]
		_ = oldest.conn.Close()
	}
	p := &pendingHandshake{conn, now}
	h.waiting = append(h.waiting, p)
	return p
}

func (h *handshakes) end(p *pendingHandshake) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = slices.DeleteFunc(h.waiting, func(x *pendingHandshake) bool { return x == p })
}

// stop closes all of them and waits.
func (h *handshakes) stop() {
	h.mu.Lock()
	h.stopped = true
	for _, p := range h.waiting {
		_ = p.conn.Close()
	}
	h.mu.Unlock()
	h.running.Wait()
}

// errPlain is for those who begin in the clear.
var errPlain = wire.Errorf(wire.CodeProtocol, "this broker speaks TLS only; set BROKERD_TLS_CA to the certificate that signed the broker's")

// secure does the TLS handshake of a connection on a goroutine of its own, and then
// lets it in like any other.
func (a *acceptor) secure(conn net.Conn, config *tls.Config) {
	p := a.handshakes.begin(conn, time.Now())
	if p == nil {
		a.noteClosed(conn, "too many TLS handshakes")
		_ = conn.Close()
		return
	}
	a.handshakes.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), a.srv.cfg.HandshakeTimeout)
		defer cancel()
		peer := tls.Server(conn, config)
		err := peer.HandshakeContext(ctx)
		a.handshakes.end(p)
		if err != nil {
			a.srv.counters.tls.Add(1)
			a.noteClosed(conn, "TLS handshake: "+err.Error())
			var plain tls.RecordHeaderError
			if errors.As(err, &plain) && plain.Conn != nil {
				a.tell(conn, errPlain) // as likely as not, it is one of ours
				return
			}
			_ = conn.Close()
			return
		}
		a.tunnel(peer)
	})
}

// tunnel gives a TLS connection to a loop.
func (a *acceptor) tunnel(peer *tls.Conn) {
	a.srv.tunnels.Add(1)
	t, loop, err := newTunnel(peer, a.srv.tunnels.Done)
	if err != nil {
		a.srv.tunnels.Done()
		a.noteClosed(peer, err.Error())
		_ = peer.NetConn().Close()
		return
	}
	if !a.enroll(loop, peer.RemoteAddr(), t) {
		t.abandon()
		return
	}
	t.run()
}

// noteClosed logs a connection that is closed without a word: before its TLS
// handshake there is nothing that it would understand.
func (a *acceptor) noteClosed(conn net.Conn, reason string) {
	a.srv.counters.refused.Add(1)
	if lines, ok := a.failures.allow(time.Now()); ok {
		a.srv.reports.write(zap.WarnLevel, "connection refused",
			zap.String("remote_addr", conn.RemoteAddr().String()), zap.String("code", "tls"),
			zap.String("reason", reason), zap.Uint64("lines_suppressed", lines))
	}
}
