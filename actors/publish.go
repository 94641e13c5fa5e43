package actors

import (
	"time"

	"github.com/brokerd/brokerd/wire"
)

// publish routes one message: step 4 of a message's way. owned says that the
// payload's memory may be kept instead of copied.
func (c *core) publish(now time.Time, s *session, p *wire.Publish, owned bool) *wire.Error {
	if uint64(p.Output) >= uint64(len(s.outputs)) {
		return wire.Errorf(wire.CodeNotYours, "publish on output %d; the node has %d outputs", p.Output, len(s.outputs))
	}
	o := s.outputs[p.Output]
	r, slot, err := c.checkPlace(s, p)
	if err != nil {
		return err
	}
	if p.Epoch > o.epoch {
		return wire.Errorf(wire.CodeProtocol, "publish on output %q with epoch %d; the last flow said %d", o.id, p.Epoch, o.epoch)
	}
	if p.Epoch == o.epoch && o.published >= o.window && o.told == o.epoch {
		return wire.Errorf(wire.CodeWrongState, "publish on output %q past its window of %d messages; wait for the next flow", o.id, o.window)
	}
	if p.Lanes&^o.laneBits != 0 {
		return wire.Errorf(wire.CodeProtocol, "publish on output %q on lanes %#x; it has started %#x", o.id, p.Lanes, o.laneBits)
	}
	if s.adopting != nil {
		return wire.Errorf(wire.CodeWrongState, "publish on output %q before adopted", o.id)
	}
	if o.ended {
		return wire.Errorf(wire.CodeWrongState, "publish on output %q after it was closed", o.id)
	}
	if r != nil && s.outstanding >= c.cfg.OutstandingMax {
		return wire.Errorf(wire.CodeQuota, "%d messages of this node are not done, which is the limit", s.outstanding)
	}
	o.published++
	c.counters.MessagesIn++
	c.counters.BytesIn += p.Length

	m := c.stock.message()
	m.refs, m.sender, m.token, m.region = 1, s, p.Token, r
	m.seq, m.timeNS, m.slot, m.offset, m.length = p.Seq, p.TimeNS, slot, p.Offset, p.Length
	if owned {
		m.metadata, m.payload = p.Metadata, p.Payload
	} else {
		c.stock.fill(m, p.Metadata, p.Payload)
	}
	if r != nil {
		r.take(slot)
		s.outstanding++
	} else {
		if s.inlines && s.local && p.Length > uint64(c.cfg.InlineBytesMax) {
			c.inlined(now, o, p.Length)
		}
		o.largest = max(m.inlineBytes(), o.largest-o.largest/8)
	}
	err = c.route(now, o, m, p)
	c.unref(m)
	if o.window != wire.WindowUnlimited {
		c.touchFlow(o)
	}
	return err
}

// checkPlace checks where a message says that its payload is: inline, or inside
// one slot of a region that is leased to the sender.
func (c *core) checkPlace(s *session, p *wire.Publish) (*region, uint32, *wire.Error) {
	if p.Region == 0 {
		if p.Token != 0 || p.Offset != 0 || p.Length != uint64(len(p.Payload)) {
			return nil, 0, wire.Errorf(wire.CodeProtocol, "inline publish with token %d, offset %d, length %d and %d bytes of payload", p.Token, p.Offset, p.Length, len(p.Payload))
		}
		return nil, 0, nil
	}
	if p.Token == 0 || len(p.Payload) != 0 {
		return nil, 0, wire.Errorf(wire.CodeProtocol, "publish in region %d with token %d and %d bytes of inline payload", p.Region, p.Token, len(p.Payload))
	}
	r := s.regions[p.Region]
	if r == nil {
		return nil, 0, wire.Errorf(wire.CodeNotYours, "publish in region %d, which is not leased to this node", p.Region)
	}
	if err := r.geometry.Contains(p.Offset, p.Length); err != nil {
		return nil, 0, wire.Errorf(wire.CodeProtocol, "publish in region %d: %v", p.Region, err)
	}
	slot, err := r.geometry.SlotIndex(p.Offset)
	if err != nil || r.taken(slot) {
		return nil, 0, wire.Errorf(wire.CodeProtocol, "publish in slot %d of region %d, which holds a message that is not done", slot, p.Region)
	}
	return r, slot, nil
}

func (r *region) taken(slot uint32) bool { return r.busy[slot/64]&(1<<(slot%64)) != 0 }

func (r *region) take(slot uint32) {
	r.messages++
	r.busy[slot/64] |= 1 << (slot % 64)
}

func (r *region) free(slot uint32) {
	r.messages--
	r.busy[slot/64] &^= 1 << (slot % 64)
}

// route puts a message into the queue of every receiver of the output. A sender
// that does not respect its window gets an error.
func (c *core) route(now time.Time, o *output, m *message, p *wire.Publish) (err *wire.Error) {
	for _, e := range o.edges {
		if l := e.lane; l != nil || p.Lanes != 0 {
			if p.Lanes&e.laneBits != 0 {
				continue // the lane has counted it
			}
			if e.laned() {
				c.failLane(now, l, "its sender has left it out")
			}
		}
		e.stats.published++
		if e.closed || !e.takes(p.Epoch) {
			e.stats.noReceiver++
			c.counters.NoReceiver++
			continue
		}
		if e.late(p.Epoch) {
			m.refs++
			c.drop(now, e, m, wire.DropQueueFull)
			continue
		}
		if e.overrun() {
			e.stats.published--
			err = wire.Errorf(wire.CodeWrongState, "publish on output %q past its window: %s has no room", o.id, e.to)
			continue
		}
		c.enqueue(now, e, m)
	}
	return err
}

// enqueue applies the edge's policy: what a full queue does to whom.
func (c *core) enqueue(now time.Time, e *edge, m *message) {
	if e.sess.waits() && e.queue.len() >= e.room() {
		// Within one batch of events: what a waiting user can have at once need
		// not be dropped for what comes behind it.
		c.deliver(now, e.sess)
	}
	// Policy block has no check here: its senders keep to a window that was made
	// from this room, and are cut off if they do not.
	if room := e.room(); e.policy != wire.PolicyBlock && (e.queue.len() >= room || c.overBytes(e, m)) {
		if e.policy == wire.PolicyDropNewest || room == 0 {
			m.refs++
			c.drop(now, e, m, wire.DropQueueFull)
			return
		}
		for e.queue.len() > 0 && (e.queue.len() >= room || c.overBytes(e, m)) {
			c.drop(now, e, c.popQueue(e), wire.DropQueueFull)
		}
	}
	m.refs++
	e.queue.push(m)
	c.weigh(e, m.inlineBytes())
	if !e.ready && !e.waitsForLane() {
		e.ready = true
		e.sess.ready.push(e)
	}
	c.touch(e.sess)
}

// overBytes reports whether a message would take an input over its share of the
// broker's own memory. The first message always has room. Policy block is bound by
// the sender's window instead, which counts the same bytes.
func (c *core) overBytes(e *edge, m *message) bool {
	n := m.inlineBytes()
	if n == 0 || e.queue.len() == 0 {
		return false
	}
	if e.queued+n > c.cfg.QueueBytesMax {
		return true
	}
	// All together: whoever has more than an equal share pays.
	return c.queued+n > c.cfg.QueueTotalMax && e.queued+n > c.cfg.QueueTotalMax/max(1, c.filled)
}

// inputBytes is what an input with policy block may have waiting: its senders'
// windows are promises, so that all of them together must be within the limit.
func (c *core) inputBytes() uint64 {
	return min(c.cfg.QueueBytesMax, c.cfg.QueueTotalMax/max(1, c.blocking))
}

// countBlocking is called when somebody has come or gone, or a dataflow changed.
func (c *core) countBlocking() {
	c.blocking = 0
	for _, f := range c.flows {
		for _, n := range f.nodes {
			for _, e := range n.inputs {
				if e.blocks() {
					c.blocking++
				}
			}
		}
	}
}

// weigh notes inline bytes that have come to the queue of an edge.
func (c *core) weigh(e *edge, n uint64) {
	if n > 0 && e.queued == 0 {
		c.filled++
	}
	e.queued += n
	c.queued += n
}

// popQueue takes the oldest message; its reference passes to the caller.
func (c *core) popQueue(e *edge) *message {
	m := e.queue.pop()
	if n := m.inlineBytes(); n > 0 {
		e.queued -= n
		c.queued -= n
		if e.queued == 0 {
			c.filled--
		}
	}
	if l := e.lane; l != nil && l.before > 0 {
		l.before--
	}
	return m
}

// drop settles a message for one receiver that will never get it. It takes over
// the reference to m.
func (c *core) drop(now time.Time, e *edge, m *message, reason wire.DropReason) {
	e.lost++
	c.drops.add(e, pathBrokered, reason, dropped{
		sender: m.sender.connID(), count: 1, bytes: m.length, seqFirst: m.seq, seqLast: m.seq,
		age: max(0, time.Duration(now.UnixNano()-m.timeNS)),
	})
	c.unref(m)
}

// unref gives up one reference. The last one tells the sender that its slot is
// free.
func (c *core) unref(m *message) {
	if m.refs--; m.refs > 0 {
		return
	}
	if r := m.region; r != nil {
		r.free(m.slot)
		m.sender.outstanding--
		if m.sender.joined() {
			m.sender.done = append(m.sender.done, m.token)
			c.touch(m.sender)
		} else if r.messages == 0 {
			c.reclaim(r)
		}
	}
	c.stock.recycle(m)
}

// touchFlow lists an output whose window may have grown for the next flush.
func (c *core) touchFlow(o *output) {
	if !o.touched {
		o.touched = true
		c.windows = append(c.windows, o)
	}
}

// updateFlow tells a sender what has changed about the receivers of an output.
// Windows are not worth a frame each: one goes out when the sender is close to
// the end of the one it has, or when must is set.
func (c *core) updateFlow(o *output, must bool) {
	s := o.node.sess
	if s == nil || !s.joined() || s.adopting != nil {
		return
	}
	receivers, window, brokered := o.connected(), o.allowed(c.inputBytes()), o.needBroker()
	if o.told == o.epoch && o.window != wire.WindowUnlimited {
		// What was promised may be under way: within an epoch a window only grows.
		window = max(window, o.window)
	}
	same := receivers == o.receivers && brokered == o.brokered
	if window == o.window && same && !must {
		return
	}
	if !must && same && window != wire.WindowUnlimited && o.window != wire.WindowUnlimited {
		left, more := o.window-min(o.window, o.published), window-min(window, o.window)
		if more == 0 || left > more {
			return
		}
	}
	o.receivers, o.window, o.told, o.brokered = receivers, window, o.epoch, brokered
	c.scratch.flow = wire.Flow{Output: o.index, Epoch: o.epoch, Receivers: receivers, Window: window, Brokered: brokered}
	c.send(s, &c.scratch.flow)
}

// outputClose ends one output of a session that lives on.
func (c *core) outputClose(now time.Time, s *session, m *wire.OutputClose) *wire.Error {
	if uint64(m.Output) >= uint64(len(s.outputs)) {
		return wire.Errorf(wire.CodeNotYours, "close of output %d; the node has %d outputs", m.Output, len(s.outputs))
	}
	o := s.outputs[m.Output]
	if o.ended {
		return nil
	}
	o.ended = true
	c.closeOutput(now, o, "output closed by its node")
	return nil
}

// sendFailed counts what a sender could not publish, as drops of every receiver.
func (c *core) sendFailed(now time.Time, s *session, m *wire.SendFailed) *wire.Error {
	if uint64(m.Output) >= uint64(len(s.outputs)) {
		return wire.Errorf(wire.CodeNotYours, "send_failed for output %d; the node has %d outputs", m.Output, len(s.outputs))
	}
	if !m.Reason.Valid() || m.Count == 0 || m.SeqLast < m.SeqFirst || m.Count-1 > uint64(m.SeqLast-m.SeqFirst) {
		return wire.Errorf(wire.CodeProtocol, "send_failed with reason %d, count %d, seq %d to %d", m.Reason, m.Count, m.SeqFirst, m.SeqLast)
	}
	for _, e := range s.outputs[m.Output].edges {
		e.stats.published += m.Count
		if e.sess == nil {
			e.stats.noReceiver += m.Count
			c.counters.NoReceiver += m.Count
			continue
		}
		via := pathBrokered
		if e.laned() {
			via = pathLane // whose receiver is told by the lane
		} else {
			e.lost += m.Count
		}
		c.drops.add(e, via, m.Reason, dropped{sender: s.id, count: m.Count, bytes: m.Bytes, seqFirst: m.SeqFirst, seqLast: m.SeqLast})
	}
	return nil
}
