package actors

import (
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/wire"
)

// next takes a receiver's credits and what it is done with: step 5.
func (c *core) next(now time.Time, s *session, m *wire.Next) *wire.Error {
	if m.Consumed < s.consumed || m.Consumed > s.delivered {
		return wire.Errorf(wire.CodeProtocol, "next with consumed %d; it was %d, and %d items were delivered", m.Consumed, s.consumed, s.delivered)
	}
	if s.inHand != nil {
		c.handed(now, s, m.Consumed > s.consumed)
	}
	for ; s.consumed < m.Consumed; s.consumed++ {
		d := s.unconsumed.pop()
		s.flight -= d.inline
		if d.counted {
			d.edge.out--
			c.roomier(d.edge)
		}
	}
	s.limit = m.Limit
	c.settle(s, m.Done)
	return nil
}

// handed tells what became of the item that went to a waiting user. Usually the
// user has taken it. If the call that waited was cancelled at that moment, the
// item waits in the node after all, and takes up room.
func (c *core) handed(now time.Time, s *session, taken bool) {
	e := s.inHand
	s.inHand = nil
	if taken {
		return
	}
	s.unconsumed.ref(0).counted = true
	e.out++
	for e.policy != wire.PolicyBlock && e.queue.len() > e.room() {
		c.drop(now, e, c.popQueue(e), wire.DropQueueFull)
	}
}

// roomier is called when an input has room again.
func (c *core) roomier(e *edge) {
	if e.policy == wire.PolicyBlock && e.source != nil {
		c.touchFlow(e.source)
	}
}

// settle ends holds. A token that names no hold of this session is a late one,
// from before a reconnect, or forged; either way it changes nothing.
func (c *core) settle(s *session, tokens []wire.Token) {
	for _, token := range tokens {
		if i, ok := c.holds.find(token); ok && c.holds.holds[i].session == s {
			c.unref(c.holds.remove(i))
		}
	}
	if s.ready.len() > 0 {
		c.touch(s) // it may have waited for this
	}
}

// reject is a message that its receiver could not read.
func (c *core) reject(now time.Time, s *session, m *wire.Reject) *wire.Error {
	if !m.Reason.Valid() {
		return wire.Errorf(wire.CodeProtocol, "reject with the unknown reason %d", m.Reason)
	}
	if i, ok := c.holds.find(m.Token); ok && c.holds.holds[i].session == s {
		e, r, number := c.holds.holds[i].edge, c.holds.holds[i].message.region, c.holds.holds[i].number
		if number >= s.consumed {
			s.unconsumed.ref(int(number - s.consumed)).rejected = true
		}
		// What lies in a region that the node cannot map is copied for it from
		// now on.
		delete(s.opened, r)
		s.blind[r] = struct{}{}
		unread := c.holds.remove(i)
		e.stats.delivered--
		e.stats.bytes -= unread.length
		c.drop(now, e, unread, m.Reason)
	}
	return nil
}

// Bounds of what is under way to one node.
const (
	// frameBytesTarget ends an Inputs frame that grows longer, so that a receiver
	// can start on the first messages of a long batch.
	frameBytesTarget = 64 << 10
	// flightBytesMax bounds the inline bytes that a node was sent and has not
	// consumed. A single larger message goes when nothing else is under way.
	flightBytesMax = 1 << 20
)

// deliver hands over what waits, as far as the credits go: step 6.
func (c *core) deliver(now time.Time, s *session) {
	if s.adopting != nil {
		return // older messages may be on the lanes that it brings
	}
	for s.delivered < s.limit && s.held < c.cfg.HeldMessagesMax && s.copying == nil {
		e := s.nextReady()
		if e == nil {
			break
		}
		if c.tooLarge(s, e.queue.peek()) {
			c.drop(now, e, c.popQueue(e), wire.DropTooLarge)
			continue
		}
		if r := e.queue.peek().region; r != nil {
			if !c.visible(s, r) {
				c.copyPayload(s, e)
				break
			}
			if _, ok := s.opened[r]; !ok {
				c.endInputs(s)
				c.openRegion(s, r)
			}
		}
		c.deliverItem(now, s, e, c.popQueue(e), nil)
	}
	c.endInputs(s)
	c.announceLanes(s)
	c.announceClosed(s)
}

// tooLarge reports whether a message that has to travel in the frame does not fit
// into one.
func (c *core) tooLarge(s *session, m *message) bool {
	n := m.inlineBytes()
	if m.region != nil && !c.visible(s, m.region) {
		n += m.length
	}
	return n+inputOverheadBytes > c.cfg.FrameBytesMax
}

// inputOverheadBytes is more than an Inputs frame with one item needs besides
// metadata and payload.
const inputOverheadBytes = 128

// nextReady returns the input whose turn it is among those that have a message
// which may go now. Inputs take turns, so that a flooded one does not starve
// the others.
func (s *session) nextReady() *edge {
	waiting := s.consumed == s.delivered // the user has everything and wants more
	for range s.ready.len() {
		e := s.ready.pop()
		if e.queue.len() == 0 || e.waitsForLane() {
			e.ready = false
			continue
		}
		s.ready.push(e)
		n := e.queue.peek().inlineBytes()
		if waiting || e.prefetch() && s.flight+n <= flightBytesMax {
			return e
		}
	}
	return nil
}

// deliverItem appends one message to the frame under construction. payload
// stands in for a payload in shared memory that the node cannot see; nil
// otherwise. It takes over the reference to m.
func (c *core) deliverItem(now time.Time, s *session, e *edge, m *message, payload []byte) {
	if !s.framing {
		s.framing, s.frameStart = true, len(s.out)
		s.out = c.enc.BeginInputs(s.out)
	}
	it := &c.scratch.input
	*it = wire.Input{
		Input: e.index, Dropped: e.lost, Seq: m.seq, TimeNS: m.timeNS,
		Length: m.length, Metadata: m.metadata, Payload: m.payload,
	}
	held := false
	switch {
	case payload != nil:
		it.Payload = payload
		c.counters.PayloadCopyBytes += m.length
	case m.region != nil:
		held = true
		it.Region, it.Offset = m.region.id, m.offset
		it.Token = c.holds.add(m, e, s, now)
	}
	s.out = c.enc.AppendInput(s.out, it)
	inline := uint64(len(it.Metadata) + len(it.Payload))
	s.flight += inline
	waited := s.consumed == s.delivered
	s.unconsumed.push(delivery{edge: e, sender: m.sender.connID(), seq: m.seq, bytes: m.length, inline: inline, timeNS: m.timeNS, counted: !waited})
	if waited {
		s.inHand = e
		c.roomier(e)
	} else {
		e.out++
	}
	s.delivered++
	e.lost = 0
	e.stats.delivered++
	e.stats.bytes += m.length
	e.stats.latency.record(time.Duration(now.UnixNano() - m.timeNS))
	c.counters.MessagesOut++
	c.counters.BytesOut += m.length
	if !held {
		c.unref(m)
	}
	if len(s.out)-s.frameStart > frameBytesTarget {
		c.endInputs(s)
	}
}

// endInputs completes the frame under construction, if there is one.
func (c *core) endInputs(s *session) {
	if s.framing {
		s.framing = false
		s.out = c.enc.EndInputs(s.out)
	}
}

// announceClosed says InputClosed for inputs whose sender is gone and whose last
// message is on its way.
func (c *core) announceClosed(s *session) {
	if len(s.closings) == 0 {
		return
	}
	kept := s.closings[:0]
	for _, e := range s.closings {
		if e.queue.len() > 0 || s.copying != nil || e.lane != nil {
			kept = append(kept, e)
			continue
		}
		s.out = c.enc.Append(s.out, &wire.InputClosed{Input: e.index, Reason: e.closing})
		e.closing = ""
	}
	clear(s.closings[len(kept):])
	s.closings = kept
}

// copyPayload has the oldest message of e read by the pool, for a node that
// cannot see its region. Until the bytes are there nothing else goes to the
// node, or the order would be lost.
func (c *core) copyPayload(s *session, e *edge) {
	m := c.popQueue(e)
	s.copying, s.copied = e, m
	s.copiedLost, e.lost = e.lost, 0 // what is dropped from now on comes behind it
	e.out++                          // until payloadRead, so that nothing else takes its room
	c.poolOut = append(c.poolOut, poolRequest{
		kind: poolRead, session: s.id, region: m.region.id,
		offset: m.offset, length: m.length, message: m, edge: e,
	})
}

// payloadRead goes on where copyPayload left off.
func (c *core) payloadRead(now time.Time, rep *poolReply) {
	m, e := rep.message, rep.edge
	s := c.sessions[rep.session]
	if s != nil && e.sess == s {
		e.out--
		c.roomier(e)
	}
	switch {
	case s == nil:
		return // counted when it left
	case e.sess != s:
		c.drop(now, e, m, wire.DropReceiverGone)
	case rep.err != nil:
		c.journal.warn("payload could not be read from its region", zap.String("from", e.from), zap.String("to", e.to), zap.Error(rep.err))
		e.lost += s.copiedLost
		c.drop(now, e, m, wire.DropBadDescriptor)
	default:
		behind := e.lost
		e.lost = s.copiedLost
		c.deliverItem(now, s, e, m, rep.payload)
		e.lost = behind
		c.endInputs(s)
	}
	s.copying, s.copied = nil, nil
	c.touch(s)
}
