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

// relieve cuts off those that take most of the buffers, until the rest is within
// the limit. It takes a moment until the memory of those is free; they are not
// counted any more, or all others would follow them.
func (m *minder) relieve(now time.Time) {
	type share struct {
		s       *session
		in, out uint64
	}
	var shares []share
	held := uint64(0)
	m.sessions = m.srv.snapshot(m.sessions[:0])
	for _, s := range m.sessions {
		state := s.out.look(false)
		if state.ended {
			continue
		}
		one := share{s, uint64(s.inBytes.Load()), state.queued}
		if one.in+one.out > 0 {
			shares = append(shares, one)
			held += one.in + one.out
		}
	}
	clear(m.sessions)
	slices.SortFunc(shares, func(a, b share) int { return cmp.Compare(b.in+b.out, a.in+a.out) })
	for _, one := range shares {
		if held <= m.srv.buffers.bytesMax {
			return
		}
		held -= one.in + one.out
		one.s.ended.Store(true)
		m.srv.counters.greedy.Add(1)
		if lines, ok := m.srv.failures.allow(now); ok {
			m.srv.reports.write(zap.WarnLevel, "connection cut off: the buffers of all connections are full, and it has the most", one.s.fields(
				zap.String("code", wire.CodeQuota.String()), zap.Uint64("inbound_bytes", one.in), zap.Uint64("outbound_bytes", one.out),
				zap.Uint64("limit_bytes", m.srv.buffers.bytesMax), zap.Uint64("lines_suppressed", lines))...)
		}
		one.s.out.cut(errGreedy)
	}
}

// errGreedy is why relieve ends a connection. What waits for it is dropped as if
// it had been too slow.
var errGreedy = wire.Errorf(wire.CodeSlowConnection, "the buffers of all connections are full, and this one has the most")
