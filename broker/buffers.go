package broker

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/wire"
)

// buffers counts what the broker keeps for all connections together: what they
// have sent of frames that are not whole, and what they have not read yet. One
// connection alone is bound by its frames and by Config.OutboundBytesMax; thousands
// of them are bound by this.
type buffers struct {
	// Immutable.
	bytesMax uint64
	full     chan struct{} // capacity 1: the minder has to make room

	held atomic.Int64
}

func newBuffers(bytesMax uint64) *buffers {
	return &buffers{bytesMax: bytesMax, full: make(chan struct{}, 1)}
}

// add notes that so many bytes more are kept, or less. It never waits.
func (b *buffers) add(n int64) {
	if b == nil || n == 0 {
		return
	}
	if held := b.held.Add(n); n > 0 && uint64(held) > b.bytesMax {
		select {
		case b.full <- struct{}{}:
		default:
		}
	}
}

// chargeInput is called when the beginning of a frame has grown, or is gone.
func (s *session) chargeInput() {
	now := int64(cap(s.in.partial))
	if before := s.inBytes.Load(); before != now {
		s.inBytes.Store(now)
		s.srv.buffers.add(now - before)
	}
}

// share is what one connection has of the buffers.
type share struct {
	s       *session
	in, out uint64
}

func (s share) bytes() uint64 { return s.in + s.out }

// relieve cuts off those that take most of the buffers, until the rest is within
// the limit. Connections that have not done their handshake count as one, so that
// nobody can have others cut off by having many of them. It takes a moment until the
// memory of those is free; they are not counted any more, or all others would follow
// them.
func (m *minder) relieve(now time.Time) {
	var known, strangers []share
	var held, strange uint64
	m.sessions = m.srv.snapshot(m.sessions[:0])
	for _, s := range m.sessions {
		state := s.out.look(false)
		one := share{s, uint64(s.inBytes.Load()), state.queued}
		switch {
		case state.ended || one.bytes() == 0:
			continue
		case s.established.Load():
			known = append(known, one)
		default:
			strangers = append(strangers, one)
			strange += one.bytes()
		}
		held += one.bytes()
	}
	clear(m.sessions)
	mostFirst := func(a, b share) int { return cmp.Compare(b.bytes(), a.bytes()) }
	slices.SortFunc(known, mostFirst)
	slices.SortFunc(strangers, mostFirst)
	for held > m.srv.buffers.bytesMax {
		var one share
		if len(known) == 0 || len(strangers) > 0 && strange >= known[0].bytes() {
			one, strangers = strangers[0], strangers[1:]
			strange -= one.bytes()
		} else {
			one, known = known[0], known[1:]
		}
		held -= one.bytes()
		m.cutGreedy(now, one)
	}
}

func (m *minder) cutGreedy(now time.Time, one share) {
	one.s.ended.Store(true)
	m.srv.counters.greedy.Add(1)
	if lines, ok := m.srv.failures.allow(now); ok {
		m.srv.reports.write(zap.WarnLevel, "connection cut off: the buffers of all connections are full, and it has the most", one.s.fields(
			zap.String("code", wire.CodeQuota.String()), zap.Uint64("inbound_bytes", one.in), zap.Uint64("outbound_bytes", one.out),
			zap.Uint64("limit_bytes", m.srv.buffers.bytesMax), zap.Uint64("lines_suppressed", lines))...)
	}
	one.s.out.cut(errGreedy)
}

// errGreedy is why relieve ends a connection. What waits for it is dropped as if
// it had been too slow.
var errGreedy = wire.Errorf(wire.CodeSlowConnection, "the buffers of all connections are full, and this one has the most")
