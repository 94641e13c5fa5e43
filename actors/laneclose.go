package actors

import (
	"slices"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// closeLane lets a lane end: nothing more is pushed, what is on it is still
// read. Until that is done, later messages of the edge wait in the broker.
func (c *core) closeLane(now time.Time, l *edgeLane, reason string) {
	if l.stage >= laneClosing {
		return
	}
	if l.stage == laneAsked {
		c.abandon(now, l)
		return
	}
	e, used := l.edge, l.edge.laned() && l.edge.lane == l
	l.stage, l.reason = laneClosing, clip(reason, wire.TextBytesMax)
	if err := l.keeper.Close(); err != nil {
		c.spoilt(l, err)
	}
	c.count(l)
	if used {
		e.countAnew()
	}
	c.updateFlow(l.output, used)
	c.tellSender(l)
	if used {
		c.tellPath(e)
	}
	switch {
	case !l.begun && l.books.seen.Pushed == 0: // and it will stay so
		c.tellReceiver(l)
		c.laneOver(now, l)
	case !l.begun && (!l.sender.owes || !l.sender.sess.joined()): // its LaneStart will not come
		c.begin(l)
	case l.startTold:
		c.tellReceiver(l)
	}
	// Otherwise the receiver hears of it when it is this lane's turn.
}

// countAnew has the sender's window count an edge that leaves its lane, as if its
// receiver had joined anew.
func (e *edge) countAnew() {
	if e.blocks() {
		e.source.epoch++
		e.epoch = e.source.epoch
	}
}

// cutLane ends a lane whose messages nobody takes any more: they are dropped.
func (c *core) cutLane(now time.Time, l *edgeLane, drop wire.DropReason, reason string) {
	if l.stage == laneAsked {
		c.abandon(now, l)
		return
	}
	if l.stage == laneDrained {
		return
	}
	if l.stage < laneClosing {
		if l.edge.lane == l && l.edge.laned() {
			l.edge.countAnew()
		}
		l.stage, l.reason = laneClosing, clip(reason, wire.TextBytesMax)
	}
	w, err := l.keeper.Cut()
	if err != nil {
		c.spoilt(l, err)
	}
	c.count(l)
	if w.Count > 0 {
		l.from, l.withdrawn = w.From, w.Count
		c.laneDrops(l, drop, dropped{
			count: uint64(w.Count), bytes: w.Bytes, seqFirst: w.SeqFirst, seqLast: w.SeqLast,
			age: ageOf(now, w.OldestNS),
		})
	}
	c.laneOver(now, l)
}

// tellSender says LaneClose as often as there is something new to say.
func (c *core) tellSender(l *edgeLane) {
	if !l.sender.owes || !l.sender.sess.joined() || l.stage < laneClosing {
		return
	}
	m := &wire.LaneClose{Lane: l.cfg.Lane, Settled: l.settled, Reason: l.reason}
	if l.withdrawn > 0 && !l.told.withdrawn {
		m.From, m.Withdrawn = uint64(uint32(l.from)), l.withdrawn // a position, modulo 2^32
	}
	now := laneTold{true, l.withdrawn > 0, l.settled}
	if l.told != now {
		l.told = now
		c.send(l.sender.sess, m)
	}
}

func (c *core) tellReceiver(l *edgeLane) {
	if l.receiver.owes && l.receiver.sess.joined() && !l.closeTold {
		l.closeTold = true
		c.send(l.receiver.sess, &wire.LaneClose{Lane: l.cfg.Lane, Reason: l.reason})
	}
}

// laneOver frees the edge of a lane from which nothing more will be read.
func (c *core) laneOver(now time.Time, l *edgeLane) {
	if l.stage == laneDrained {
		return
	}
	c.settleBooks(l)
	l.stage = laneDrained
	if s := l.receiver.sess; s != nil {
		s.starting = slices.DeleteFunc(s.starting, func(x *edgeLane) bool { return x == l })
	}
	c.reclaimRead(l)
	if e := l.edge; e.lane == l {
		e.lane = nil
		if s := e.sess; s != nil {
			if e.queue.len() > 0 && !e.ready { // it has waited for this
				e.ready = true
				s.ready.push(e)
			}
			c.touch(s)
			c.offerLane(e)
		}
	}
	c.maybeEnd(now, l)
}

// reclaimRead takes back the regions of a sender that has left, now that one
// lane less is read.
func (c *core) reclaimRead(l *edgeLane) {
	if s := l.sender.sess; s != nil && !s.joined() {
		for _, r := range s.regions {
			c.reclaim(r)
		}
	}
}

// laneDone is a node that has let go of its end.
func (c *core) laneDone(now time.Time, s *session, m *wire.LaneDone) *wire.Error {
	l, end, err := c.laneOf(s, m.Lane, m.Kind())
	if err != nil {
		return err
	}
	if end == &l.receiver && !l.closeTold || end == &l.sender && !l.told.closed {
		return wire.Errorf(wire.CodeProtocol, "lane_done for lane %d, which is open", m.Lane)
	}
	end.owes = false
	if end == &l.sender {
		c.freeBit(l)
	} else if l.stage == laneClosing {
		c.count(l)
		if l.books.queued() > 0 && !l.books.spoilt {
			// It has not read all that it could.
			c.cutLane(now, l, wire.DropBadDescriptor, l.reason)
			c.tellSender(l)
		}
		c.laneOver(now, l)
	}
	c.maybeEnd(now, l)
	return nil
}

// freeBit lets the bit be used for another lane: no slot has it any more.
func (c *core) freeBit(l *edgeLane) {
	s := l.sender.sess
	if s == nil || l.bitFree {
		return
	}
	l.bitFree = true
	s.laneBits &^= 1 << l.bit
	if l.output.node.sess == s {
		l.output.laneBits &^= 1 << l.bit
		l.edge.laneBits &^= 1 << l.bit
	}
	if s.joined() && s.adopting == nil {
		for _, o := range s.outputs {
			c.offerLanes(o) // one may have waited for a bit
		}
	}
}

func (c *core) offerLanes(o *output) {
	for _, e := range o.edges {
		c.offerLane(e)
	}
}

// maybeEnd gives the memory of a lane back when both nodes have let go of it.
func (c *core) maybeEnd(now time.Time, l *edgeLane) {
	if l.stage == laneDrained && !l.sender.owes && !l.receiver.owes && c.lanes[l.cfg.Lane] == l {
		c.endLane(now, l)
	}
}

func (c *core) endLane(now time.Time, l *edgeLane) {
	if l.keeper != nil {
		d, ok := l.keeper.Remainder()
		c.logHeld(time.Time{}, l)
		c.count(l)
		if ok && !l.books.spoilt {
			c.fullDrops(now, l, d)
		}
		c.closeBooks(l)
		l.keeper.Release()
		kind := poolReturn
		if l.spoilt() {
			kind = poolDiscard
		}
		c.poolOut = append(c.poolOut, poolRequest{kind: kind, region: l.cfg.Lane})
		delete(c.lanes, l.cfg.Lane)
		c.laneList = slices.DeleteFunc(c.laneList, func(x *edgeLane) bool { return x == l })
	}
	for _, s := range []*session{l.sender.sess, l.receiver.sess} {
		if s != nil {
			s.lanes = slices.DeleteFunc(s.lanes, func(x *edgeLane) bool { return x == l })
		}
	}
	c.freeBit(l)
}

// spoilt reports whether somebody may still write to the lane's memory, or has
// written what does not belong there.
func (l *edgeLane) spoilt() bool {
	for _, end := range []*laneEnd{&l.sender, &l.receiver} {
		if end.sess == nil || !end.sess.joined() {
			return true
		}
	}
	return l.books.spoilt || l.failed
}

// leaveLanes ends a session's part in its lanes, once its inputs are detached
// and its outputs closed. What its process still holds of lanes is settled when
// that ends, which may be later.
func (c *core) leaveLanes(now time.Time, s *session) {
	if s.bell.region != 0 {
		c.poolOut = append(c.poolOut, poolRequest{kind: poolDiscard, region: s.bell.region})
	}
	for _, l := range slices.Clone(s.lanes) {
		if l.receiver.sess == s {
			l.receiver.owes = false
			c.tellSender(l)
		} else {
			l.sender.owes = false
			c.closeLane(now, l, "sender left")
			if l.stage == laneClosing && !l.begun {
				c.begin(l) // its LaneStart will not come
			}
			if l.receiver.sess == nil && l.until.IsZero() {
				c.cutLane(now, l, wire.DropReceiverGone, l.reason)
			}
		}
		c.maybeEnd(now, l)
	}
}

// settleLanes tells senders that nothing of what a process held is held any more.
func (c *core) settleLanes(s *session) {
	for _, l := range s.lanes {
		if l.receiver.sess == s {
			l.settled = true
			c.tellSender(l)
		}
	}
}

// unsettled counts the lanes of which the process behind a session may hold
// messages that their senders wait for.
func (s *session) unsettled() (n int) {
	for _, l := range s.lanes {
		if l.receiver.sess == s && l.sender.owes {
			n++
		}
	}
	return n
}

// read reports whether somebody still reads messages of a sender from a lane.
func (s *session) read() bool {
	return slices.ContainsFunc(s.lanes, func(l *edgeLane) bool {
		return l.sender.sess == s && l.stage != laneDrained
	})
}

// settingsChanged is why a lane is replaced by another one.
const settingsChanged = "settings of the edge have changed"

// cutRemoved ends the lane of an edge that a reload has removed, if it had one.
func (c *core) cutRemoved(now time.Time, l *edgeLane) {
	if l == nil {
		return
	}
	c.cutLane(now, l, wire.DropClosed, "input removed from the dataflow")
	c.updateFlow(l.output, false)
	c.tellSender(l)
	c.tellReceiver(l)
	c.maybeEnd(now, l)
}
