package broker

import (
	"context"
	"crypto/tls"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"

	"github.com/brokerd/brokerd/actors"
	"github.com/brokerd/brokerd/wire"
)

// router is what the sockets need of actors.Router.
type router interface {
	Post(ev actors.ConnEvent) bool
}

// server is everything between sockets and router: what all sessions share.
type server struct {
	gnet.BuiltinEventEngine

	// Immutable.
	cfg     *Config
	reports *reporter
	auth    atomic.Pointer[authenticator]
	tls     atomic.Pointer[tls.Config] // nil: connections are plain
	guard   *guard
	router  router
	flusher *flusher
	buffers *buffers
	engine  *gnet.Client
	// connectionsMax is Config.ConnectionsMax or less.
	connectionsMax int

	counters *counters
	stopping atomic.Bool // connections that end now end because of us
	failures logLimiter
	// penalised counts the connections that have shown a wrong token.
	penalised atomic.Int64
	tunnels   sync.WaitGroup

	mu        sync.Mutex
	sessions  map[actors.ConnID]*session
	strangers strangers
	emptied   chan struct{} // not nil: to be closed when the last session is gone
}

// counters of what the router never gets to see.
type counters struct {
	accepted, refused, auth, unseen, pushed, greedy, tls, protocol, handshake, slow, silent atomic.Uint64
}

// note counts a connection that a session has ended.
func (n *counters) note(code wire.Code) {
	switch code {
	case wire.CodeHandshakeTimeout:
		n.handshake.Add(1)
	case wire.CodeTimeout:
		n.silent.Add(1)
	case wire.CodeAuth, wire.CodeTooManyConnections: // counted where they were found
	default:
		n.protocol.Add(1)
	}
}

// addTo adds what the router never sees to its own counts. Safe on any
// goroutine.
func (n *counters) addTo(c *wire.Counters) {
	c.ProtocolErrors += n.protocol.Load()
	c.AuthFailures += n.auth.Load()
	c.RefusedConnections += n.refused.Load()
}

// OnOpen implements gnet.EventHandler.
func (srv *server) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	s := c.Context().(*session)
	s.conn = c
	s.attached.Store(true)
	s.out.attach(c.Fd(), func() { _ = c.Close() })
	return nil, gnet.None
}

// OnTraffic implements gnet.EventHandler.
func (srv *server) OnTraffic(c gnet.Conn) gnet.Action {
	c.Context().(*session).traffic()
	return gnet.None
}

// OnClose implements gnet.EventHandler.
func (srv *server) OnClose(c gnet.Conn, err error) gnet.Action {
	c.Context().(*session).closed(err)
	return gnet.None
}

func (srv *server) add(s *session) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.sessions[s.id] = s
	srv.strangers.add(s)
}

func (srv *server) remove(s *session) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	delete(srv.sessions, s.id)
	srv.strangers.remove(s)
	if s.pushed {
		srv.strangers.pushing--
	}
	if len(srv.sessions) == 0 && srv.emptied != nil {
		close(srv.emptied)
		srv.emptied = nil
	}
}

func (srv *server) count() int {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return len(srv.sessions)
}

// snapshot appends all sessions to dst.
func (srv *server) snapshot(dst []*session) []*session {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, s := range srv.sessions {
		dst = append(dst, s)
	}
	return dst
}

// empty waits until no session is left, or ctx ends.
func (srv *server) empty(ctx context.Context) {
	srv.mu.Lock()
	if len(srv.sessions) == 0 {
		srv.mu.Unlock()
		return
	}
	if srv.emptied == nil {
		srv.emptied = make(chan struct{})
	}
	emptied := srv.emptied
	srv.mu.Unlock()
	select {
	case <-emptied:
	case <-ctx.Done():
	}
}

// logLimiter bounds the log lines that strangers can cause: failureLinesBurst at
// once, failureLinesPerSecond in the long run. What is left out is counted in
// the next line that is let through.
type logLimiter struct {
	mu         sync.Mutex
	tokens     float64
	last       time.Time
	suppressed uint64
}

const (
	failureLinesBurst     = 50
	failureLinesPerSecond = 10
)

func (l *logLimiter) allow(now time.Time) (suppressed uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.IsZero() {
		l.tokens = failureLinesBurst
	} else {
		l.tokens = min(failureLinesBurst, l.tokens+now.Sub(l.last).Seconds()*failureLinesPerSecond)
	}
	l.last = now
	if l.tokens < 1 {
		l.suppressed++
		return 0, false
	}
	l.tokens--
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}
