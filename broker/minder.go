package broker

import (
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/wire"
)

// pingsUnansweredMax is how many Pings in a row a remote peer may leave
// unanswered. Counting Pings instead of time means that a broker which was
// itself stopped for a while blames nobody for it.
const pingsUnansweredMax = 3

// minder is the one goroutine behind all timers of all connections.
type minder struct {
	srv      *server
	fatal    func(error)
	acceptor *acceptor
	encoder  *wire.Encoder
	frame    []byte
	nonce    uint64
	sessions []*session // scratch
	quiet    bool       // at the last look no session was about to change by time alone
	quit     chan struct{}
	ended    chan struct{}
}

func newMinder(srv *server, acceptor *acceptor, fatal func(error)) *minder {
	return &minder{
		srv: srv, acceptor: acceptor, fatal: fatal, encoder: wire.NewEncoder(),
		quit: make(chan struct{}), ended: make(chan struct{}),
	}
}

// quietPeriodMax bounds how long a session that has just come has to wait for its
// first look.
const quietPeriodMax = time.Second

// period is the time to the next look at the sessions: so short that no time-out
// is off by more than a quarter, and so long that an idle broker is idle. While
// all that can happen is that a peer falls silent, lingering ones need not be
// thought of: those that begin to are found late by no more than a second.
func (m *minder) period() time.Duration {
	cfg := m.srv.cfg
	shortest := min(cfg.HandshakeTimeout, cfg.HeartbeatInterval, cfg.SlowTimeout)
	if m.quiet {
		return min(max(shortest/4, 5*time.Millisecond), quietPeriodMax)
	}
	return min(max(min(shortest, cfg.LingerTimeout)/4, 5*time.Millisecond), 500*time.Millisecond)
}

func (m *minder) run() {
	defer close(m.ended)
	timer := time.NewTimer(m.period())
	defer timer.Stop()
	for {
		select {
		case now := <-timer.C:
			m.tick(now)
			timer.Reset(m.period())
		case <-m.srv.buffers.full:
			m.relieve(time.Now())
		case <-m.quit:
			return
		}
	}
}

func (m *minder) stop() {
	close(m.quit)
	<-m.ended
}

func (m *minder) tick(now time.Time) {
	if since := m.acceptor.enrolling(); !since.IsZero() && now.Sub(since) > loopStuckAfter {
		m.fatal(fmt.Errorf("an event loop has not answered for %s", loopStuckAfter))
	}
	m.sessions = m.srv.snapshot(m.sessions[:0])
	m.quiet = true
	for _, s := range m.sessions {
		m.mind(now, s)
	}
	clear(m.sessions)
}

func (m *minder) mind(now time.Time, s *session) {
	cfg := m.srv.cfg
	state := s.out.look(false)
	refusal := s.refusal.Load()
	if !s.established.Load() || state.finishing && !state.ended || state.queued > 0 {
		m.quiet = false
	}
	switch {
	case state.ended:
	case state.finishing:
		if now.After(state.deadline) {
			s.out.cut(nil)
		}
	case refusal != 0:
		if now.UnixNano() >= refusal {
			s.refuseAuth()
		}
	case !s.established.Load():
		if now.Sub(s.opened) > cfg.HandshakeTimeout {
			s.fail(wire.Errorf(wire.CodeHandshakeTimeout, "the handshake was not done after %s", cfg.HandshakeTimeout))
		}
	case state.queued > 0 && !s.local.Load() && now.Sub(state.progress) > cfg.SlowTimeout:
		m.cutSlow(now, s, state)
	default:
		m.heartbeat(now, s, state)
	}
}

// cutSlow ends a remote connection that takes no bytes. Local ones are spared:
// what stops a local peer is a debugger or SIGSTOP, which may take as long as it
// likes; credits bound what it is sent, and OutboundBytesMax bounds the rest.
func (m *minder) cutSlow(now time.Time, s *session, state outboxState) {
	waited := now.Sub(state.progress).Round(time.Millisecond)
	s.noteSlow(state.queued, waited)
	s.out.cut(fmt.Errorf("%w: %d bytes waited for %s", wire.ErrSlowConnection, state.queued, waited))
}

// heartbeat asks silent peers for a sign of life, and ends those that give none:
// remote ones, because behind a dead link nothing else would ever tell.
func (m *minder) heartbeat(now time.Time, s *session, state outboxState) {
	if state.queued > 0 && !s.local.Load() {
		return // a Ping would wait behind the rest: SlowTimeout decides
	}
	unanswered := s.unanswered.Load()
	if unanswered == 0 && s.unresponsive {
		s.unresponsive = false
		m.srv.reports.write(zap.InfoLevel, "node answers again", s.fields()...)
	}
	// Bytes that the peer takes are signs of life too: an answer to our Ping may
	// have to wait until a long frame has arrived there.
	last := time.Unix(0, s.heard.Load())
	for _, t := range []time.Time{state.progress, s.pinged} {
		if t.After(last) {
			last = t
		}
	}
	if now.Sub(last) < m.srv.cfg.HeartbeatInterval || s.unresponsive {
		return
	}
	if unanswered < pingsUnansweredMax {
		m.ping(now, s)
		return
	}
	if s.out.look(true).unread {
		return // it has said something; we have not come to read it
	}
	silent := now.Sub(time.Unix(0, s.heard.Load())).Round(time.Millisecond)
	if s.local.Load() {
		s.unresponsive = true
		m.srv.reports.write(zap.WarnLevel, "node does not answer; it is on this machine, so it is left alone",
			s.fields(zap.Duration("silent_s", silent))...)
		return
	}
	s.fail(wire.Errorf(wire.CodeTimeout, "no sign of life for %s", silent))
}

func (m *minder) ping(now time.Time, s *session) {
	m.nonce++
	m.frame = m.encoder.Append(m.frame[:0], &wire.Ping{Nonce: m.nonce})
	s.pinged = now
	s.unanswered.Add(1)
	s.Send(m.frame)
}
