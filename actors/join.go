package actors

import (
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/wire"
)

// Probe is how a node shows that it sees the broker's shared memory.
type Probe interface {
	// Probe names the object and where in it the nonce lies; an empty name
	// means that no shared memory is on offer.
	Probe() (name string, offset uint64, length uint32)
	// CheckNonce compares in constant time.
	CheckNonce(nonce []byte) bool
}

// Liveness tells whether the process behind a session may still have shared
// memory mapped, also when its connection is gone.
type Liveness interface {
	SessionAlive(session wire.SessionID) (bool, error)
}

// hello answers the first message. The session has checked version and
// authentication before it let the message through.
func (c *core) hello(now time.Time, s *session, h *wire.Hello) *wire.Error {
	if c.draining {
		return wire.Errorf(wire.CodeShuttingDown, "the broker is stopping; connect again later")
	}
	s.client, s.role = h.Client, h.Role
	if h.Role == wire.RoleNode {
		n, err := c.claim(now, h)
		if err != nil {
			return err
		}
		s.node, s.takeover = n, h.Flags&wire.FlagTakeover != 0
	}
	w := &wire.Welcome{
		Version:     wire.VersionMax,
		Instance:    c.cfg.Instance,
		Session:     wire.SessionID(s.id),
		FrameMax:    c.cfg.FrameBytesMax,
		InlineMax:   c.cfg.InlineBytesMax,
		HeartbeatMS: uint32(c.cfg.HeartbeatInterval / time.Millisecond),
	}
	if h.Role == wire.RoleNode {
		if s.speaksLanes = c.cfg.Lanes && h.Features&wire.FeatureLanes != 0; s.speaksLanes {
			w.Features = wire.FeatureLanes
		}
		if s.evacuates = c.cfg.HeldBytesMax > 0 && h.Features&wire.FeatureEvacuation != 0; s.evacuates {
			w.Features |= wire.FeatureEvacuation
			w.HeldMax = c.cfg.HeldBytesMax
		}
		if s.inlines = c.cfg.InlineFallback && h.Features&wire.FeatureInline != 0; s.inlines {
			w.Features |= wire.FeatureInline
		}
		w.ProbeName, w.ProbeOffset, w.ProbeLength = c.probe.Probe()
	}
	c.send(s, w)
	s.state = sessionGreeted
	return nil
}

// claim looks up the node that a peer says it is, and makes room for it if the
// peer asked to take over.
func (c *core) claim(now time.Time, h *wire.Hello) (*node, *wire.Error) {
	f, ok := c.flows[h.Dataflow]
	if !ok {
		return nil, wire.Errorf(wire.CodeUnknownDataflow, "no dataflow %q is loaded; there is %s", h.Dataflow, list(keys(c.flows)))
	}
	n, ok := f.nodes[h.Node]
	if !ok {
		return nil, wire.Errorf(wire.CodeUnknownNode, "dataflow %q has no node %q; there is %s", h.Dataflow, h.Node, list(keys(f.nodes)))
	}
	if n.sess == nil {
		return n, nil
	}
	if h.Flags&wire.FlagTakeover == 0 {
		return nil, wire.Errorf(wire.CodeDuplicateNode,
			"node %q of dataflow %q is connected from %s since %s; stop that process or ask to take over",
			h.Node, h.Dataflow, n.sess.conn.RemoteAddr(), now.Sub(n.sess.since).Round(time.Second))
	}
	return n, nil
}

// attach ends the handshake.
func (c *core) attach(now time.Time, s *session, a *wire.Attach) *wire.Error {
	if s.role == wire.RoleControl {
		s.state = sessionControl
		s.follows = make(map[uint32]struct{})
		s.conn.Established(false)
		c.send(s, &wire.Ready{Reason: "control connection"})
		return nil
	}
	if c.draining {
		return wire.Errorf(wire.CodeShuttingDown, "the broker is stopping; connect again later")
	}
	// Another connection may have joined, or a reload may have removed the
	// node, since hello.
	f, n := s.node.flow, s.node
	if c.flows[f.name] != f || f.nodes[n.id] != n {
		return wire.Errorf(wire.CodeUnknownNode, "node %q was removed from dataflow %q during the handshake", n.id, f.name)
	}
	if old := n.sess; old != nil {
		if !s.takeover {
			return wire.Errorf(wire.CodeDuplicateNode, "node %q of dataflow %q connected from %s at the same time", n.id, f.name, old.conn.RemoteAddr())
		}
		c.refuse(now, old, wire.Errorf(wire.CodeTakenOver, "%s took over node %q", s.conn.RemoteAddr(), n.id))
	}
	s.remoteReason = c.remoteReason(s, a)
	s.local = s.remoteReason == ""
	if a.Adopting && s.speaksLanes {
		s.adopting = &adoption{sess: s}
	}
	c.join(now, s)
	return nil
}

func (c *core) remoteReason(s *session, a *wire.Attach) string {
	name, _, _ := c.probe.Probe()
	switch {
	case name == "":
		return "the broker has no shared memory"
	case len(a.Nonce) == 0:
		return "the node did not show that it sees the broker's shared memory"
	case !c.probe.CheckNonce(a.Nonce):
		return "the node read another shared memory than the broker's"
	}
	// Without the lock nobody could tell whether the process still reads a slot
	// when its connection is gone.
	if held, err := c.live.SessionAlive(wire.SessionID(s.id)); err != nil || !held {
		return "the node holds no lock on the broker's probe"
	}
	return ""
}

// join makes the session the node's, and tells it all that it has to know.
func (c *core) join(now time.Time, s *session) {
	n := s.node
	n.dropClosedPorts()
	c.drops.emit(now, true, c.writeDrop) // sequence numbers may begin anew: not in one record
	if s.adopting == nil {
		c.closeUnclaimed(now, s) // before its windows are made
	}
	n.sess = s
	s.state = sessionJoined
	s.outputs, s.inputs = slices.Clone(n.outputs), slices.Clone(n.inputs)
	s.conn.Established(s.local)
	c.send(s, &wire.Ready{Local: s.local, Reason: s.remoteReason})
	c.send(s, n.ports())
	for i, o := range n.outputs {
		o.index, o.ended = wire.OutputIndex(i), false
		o.published, o.window, o.told, o.receivers, o.largest = 0, wire.WindowUnlimited, o.epoch, 0, 0
		o.brokered, o.laneBits = 1, 0
		if !s.local {
			o.largest = c.cfg.FrameBytesMax // until the first message tells better
		}
		for _, e := range o.edges {
			e.laneBits = 0
			e.freshPath()
			c.cancelClosing(e)
		}
		c.updateFlow(o, true) // the first flow is what lets the node publish
	}
	for i, e := range s.inputs {
		c.attachEdge(now, s, e, i)
	}
	c.countBlocking()
	c.logNode(s, "node joined", zap.Bool("local", s.local), zap.String("remote_reason", s.remoteReason), zap.String("client", s.client))
	if s.adopting != nil {
		return
	}
	for _, o := range s.outputs {
		c.offerLanes(o)
	}
	for _, e := range s.inputs {
		c.offerLane(e)
	}
}

// attachEdge makes s the receiver of e.
func (c *core) attachEdge(now time.Time, s *session, e *edge, i int) {
	e.sess, e.index = s, wire.InputIndex(i)
	e.out, e.lost, e.ready, e.closing, e.most = 0, 0, false, "", e.queueSize
	e.freshPath()
	if e.closed {
		return
	}
	if e.timer != nil {
		c.timers.arm(e.timer, now)
		return
	}
	if e.policy == wire.PolicyBlock {
		c.blocking++
		e.source.epoch++
		e.epoch = e.source.epoch
	}
	e.joined = e.source.epoch
	c.updateFlow(e.source, e.policy == wire.PolicyBlock)
	if sender := e.source.node.sess; sender != nil && s.local {
		c.openRegions(s, sender)
	}
}

// leave undoes join, also for a session that never joined. The process behind
// it may live on: then what it holds stays held.
func (c *core) leave(now time.Time, s *session, cause error) {
	joined := s.joined()
	s.state = sessionLeft
	delete(c.sessions, s.id)
	c.closeControl(now, s)
	if !joined {
		return
	}
	n, reason := s.node, leftReason(s, cause)
	n.sess = nil
	drop := wire.DropReceiverGone
	switch wire.CodeOf(cause) {
	case wire.CodeSlowConnection:
		drop = wire.DropSlowConnection
	case wire.CodeShuttingDown:
		drop = wire.DropShutdown
	}
	var lost uint64
	for _, e := range s.inputs {
		lost += c.detachEdge(now, s, e, drop)
	}
	lost += c.dropUnconsumed(now, s, drop)
	c.countBlocking()
	if e := s.copying; e != nil {
		c.drop(now, e, s.copied, drop)
		s.copying, s.copied = nil, nil
		lost++
	}
	for _, o := range s.outputs {
		c.endShortage(now, o, true)
		c.closeOutput(now, o, reason)
	}
	held := s.held
	alive := c.settleOrOrphan(now, s)
	c.leaveLanes(now, s)
	c.logNode(s, "node left", zap.String("reason", reason), zap.Uint64("dropped", lost),
		zap.Int("held", held), zap.Bool("process_alive", alive))
}

// detachEdge settles what waits for a receiver that is gone.
func (c *core) detachEdge(now time.Time, s *session, e *edge, reason wire.DropReason) (lost uint64) {
	if e.sess != s {
		return 0
	}
	for e.queue.len() > 0 {
		c.drop(now, e, c.popQueue(e), reason)
		lost++
	}
	e.sess, e.out, e.ready, e.closing = nil, 0, false, ""
	if l := e.lane; l != nil && l.receiver.sess == s {
		c.cutLane(now, l, reason, "receiver left")
		lost += uint64(l.withdrawn)
	}
	if e.timer != nil {
		c.timers.disarm(e.timer)
	} else {
		c.updateFlow(e.source, true)
	}
	return lost
}

// dropUnconsumed counts what was sent to the node but never reached its user,
// as far as the node has told. An item in hand may have been on its way: rather
// is one that somebody had for a moment in the log than one missing there.
func (c *core) dropUnconsumed(now time.Time, s *session, reason wire.DropReason) (lost uint64) {
	s.inHand = nil
	for s.unconsumed.len() > 0 {
		d := s.unconsumed.pop()
		if d.rejected {
			continue // counted when it was
		}
		lost++
		d.edge.stats.delivered--
		d.edge.stats.bytes -= d.bytes
		c.drops.add(d.edge, pathBrokered, reason, dropped{
			sender: d.sender, count: 1, bytes: d.bytes, seqFirst: d.seq, seqLast: d.seq,
			age: max(0, time.Duration(now.UnixNano()-d.timeNS)),
		})
	}
	return lost
}

// closeOutput tells the receivers that nothing more will come, after the last
// message that waits for them.
func (c *core) closeOutput(now time.Time, o *output, reason string) {
	for _, e := range o.edges {
		if l := e.lane; l != nil {
			c.closeLane(now, l, reason)
		}
		if e.sess != nil && e.closing == "" {
			e.closing = reason
			e.sess.closings = append(e.sess.closings, e)
			c.touch(e.sess)
		}
	}
}

func (c *core) cancelClosing(e *edge) {
	if e.closing != "" {
		e.closing = ""
		e.sess.closings = slices.DeleteFunc(e.sess.closings, func(x *edge) bool { return x == e })
	}
}

// dropClosedPorts forgets what reloads have removed. Only while no session
// knows the positions.
func (n *node) dropClosedPorts() {
	n.outputs = slices.DeleteFunc(n.outputs, func(o *output) bool { return o.closed })
	n.inputs = slices.DeleteFunc(n.inputs, func(e *edge) bool { return e.closed })
}

func keys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}

// list puts names into an error text.
func list(names []string) string {
	const most = 10
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
