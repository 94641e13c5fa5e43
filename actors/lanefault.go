package actors

import (
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/wire"
)

// failLane closes a lane for good: until one of its nodes connects again, the
// edge stays with the broker.
func (c *core) failLane(now time.Time, l *edgeLane, why string) {
	if !l.failed {
		c.blame(l, why)
		e := l.edge
		c.journal.warn("lane failed", zap.String("dataflow", e.flow.name), zap.String("from", e.from),
			zap.String("to", e.to), zap.Uint64("lane", uint64(l.cfg.Lane)), zap.String("why", why))
	}
	c.closeLane(now, l, "lane failed: "+why)
}

// laneFault is a node that has found a lane damaged, or messages that it could
// not read.
func (c *core) laneFault(now time.Time, s *session, m *wire.LaneFault) *wire.Error {
	l, end, err := c.laneOf(s, m.Lane, m.Kind())
	if err != nil {
		return err
	}
	if m.Count > 0 {
		if !m.Reason.Valid() || m.SeqLast < m.SeqFirst || m.Count-1 > uint64(m.SeqLast-m.SeqFirst) {
			return wire.Errorf(wire.CodeProtocol, "lane_fault with reason %d, count %d, seq %d to %d", m.Reason, m.Count, m.SeqFirst, m.SeqLast)
		}
		c.count(l)
		c.lostOnLane(l, end == &l.receiver, m)
		if end == &l.receiver && l.sender.owes && l.sender.sess.joined() {
			// The sender has the slots, and the receiver may have no way to clear its bits.
			passed := *m
			c.send(l.sender.sess, &passed)
		}
	}
	c.failLane(now, l, s.node.id+" says: "+m.Text)
	return nil
}

// damaged is why a lane failed whose counters say what they cannot.
const damaged = "its memory is damaged"

// blame has the edge stay with the broker until one of the lane's nodes connects
// again; one that has done so since is not to blame.
func (c *core) blame(l *edgeLane, why string) {
	l.failed = true
	if e := l.edge; e.failed == "" && e.sess != nil && l.receiver.sess == e.sess && l.sender.sess == e.source.node.sess {
		e.failed = clip("lane failed: "+why, wire.TextBytesMax)
	}
}

// spoilt stops the use of counters that cannot be trusted.
func (c *core) spoilt(l *edgeLane, err error) {
	if l.books.spoilt {
		return
	}
	l.books.spoilt = true
	c.blame(l, damaged)
	c.journal.warn("lane damaged", zap.String("dataflow", l.edge.flow.name), zap.String("from", l.edge.from),
		zap.String("to", l.edge.to), zap.Uint64("lane", uint64(l.cfg.Lane)), zap.Error(err))
}

// lostOnLane enters what a node says was lost. A receiver's have been counted as
// delivered; a sender's were never pushed.
func (c *core) lostOnLane(l *edgeLane, received bool, m *wire.LaneFault) {
	e := l.edge
	fresh := m.Count // not in the books yet
	if received {
		n := min(m.Count, l.books.taken, e.stats.delivered)
		l.books.taken -= n
		l.books.published -= n
		e.stats.delivered -= n
		fresh -= n
	}
	e.stats.published += fresh
	e.lost += m.Count
	c.drops.add(e, pathLane, m.Reason, dropped{sender: l.sender.sess.connID(), count: m.Count, bytes: m.Bytes, seqFirst: m.SeqFirst, seqLast: m.SeqLast})
}

// laneHeld is a sender whose slots a receiver holds for too long. They stay as
// they are, because the holder may be reading; their region takes no new message.
func (c *core) laneHeld(now time.Time, s *session, m *wire.LaneHeld) *wire.Error {
	l, end, err := c.laneOf(s, m.Lane, m.Kind())
	if err != nil {
		return err
	}
	r := s.regions[m.Region]
	if end != &l.sender || m.Count == 0 {
		return wire.Errorf(wire.CodeProtocol, "lane_held for lane %d, region %d, %d messages", m.Lane, m.Region, m.Count)
	}
	if r != nil { // it may have given the region back meanwhile, or brought it from another broker in vain
		c.retireHeld(r)
	}
	l.overdue.count += int(m.Count)
	l.held = *m
	if now.Sub(l.overdue.logged) >= holdLogInterval {
		c.logHeld(now, l)
	}
	return nil
}

// logHeld writes what has been held for too long since the last line of it.
func (c *core) logHeld(now time.Time, l *edgeLane) {
	if l.overdue.count == 0 {
		return
	}
	e, m := l.edge, &l.held
	c.journal.warn("message held too long",
		zap.String("dataflow", e.flow.name), zap.String("from", e.from), zap.String("to", e.to),
		zap.String("holder", e.node.flow.name+"/"+e.node.id), zap.Int("count", l.overdue.count),
		zap.Uint64("seq", uint64(m.Seq)), zap.Uint64("bytes", m.Bytes),
		zap.Float64("held_ms", float64(m.HeldMS)),
		zap.Float64("hold_timeout_ms", float64(l.hold)/float64(time.Millisecond)),
		zap.Uint64("region", uint64(m.Region)), zap.String("path", pathLane.String()))
	l.overdue = limited{logged: now}
}
