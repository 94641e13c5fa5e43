package broker

import (
	"time"

	"go.uber.org/zap"
)

const (
	// strangerSafe is how long a connection has for its handshake before it may be
	// pushed out to make room: some round trips of a slow link.
	strangerSafe = 250 * time.Millisecond
	// pushingMax bounds the connections that are being closed while others have their
	// places already: with it, the file descriptors beyond the limit.
	pushingMax = 16
)

// strangers are the connections that have not done their handshake, the oldest
// first. They hold places only as long as nobody else needs them, so that those
// who say nothing, however many, keep nobody out who does. Guarded by server.mu.
type strangers struct {
	oldest, newest *session
	pushing        int // pushed out, and not closed yet
}

func (l *strangers) add(s *session) {
	s.stranger, s.older = true, l.newest
	if l.newest != nil {
		l.newest.newer = s
	} else {
		l.oldest = s
	}
	l.newest = s
}

// remove does nothing if s is none.
func (l *strangers) remove(s *session) {
	if !s.stranger {
		return
	}
	s.stranger = false
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		l.oldest = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		l.newest = s.older
	}
	s.older, s.newer = nil, nil
}

// acquainted is a stranger that has done its handshake.
func (srv *server) acquainted(s *session) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.strangers.remove(s)
}

// pushOut ends the oldest stranger, unless it has come only just now. true: its
// place may be taken, although it takes a moment until it is closed.
func (srv *server) pushOut(now time.Time) bool {
	srv.mu.Lock()
	s := srv.strangers.oldest
	if s == nil || now.Sub(s.opened) < strangerSafe || srv.strangers.pushing >= pushingMax {
		srv.mu.Unlock()
		return false
	}
	srv.strangers.remove(s)
	srv.strangers.pushing++
	s.pushed = true
	srv.mu.Unlock()
	srv.counters.pushed.Add(1)
	if lines, ok := srv.failures.allow(now); ok {
		srv.reports.write(zap.WarnLevel, "connection pushed out: it has not done its handshake, and its place is needed", s.fields(
			zap.Duration("age_s", now.Sub(s.opened)), zap.Uint64("lines_suppressed", lines))...)
	}
	s.ended.Store(true) // there is a line about it
	s.out.cut(nil)
	return true
}
