package actors

import (
	"math/bits"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// laneStage is how far a lane has come.
type laneStage uint8

const (
	laneAsked    laneStage = iota // its memory is asked for
	laneOffered                   // its receiver maps it
	lanePrepared                  // its sender maps it
	laneStarted                   // in use; what came through the broker before goes out first
	laneFlowing                   // the receiver reads it
	laneClosing                   // nothing is pushed any more; the receiver takes what is left
	laneDrained                   // the edge is free of it; the nodes have to let go of it
)

// edgeLane is a lane of one edge: a queue in shared memory that leads from the
// sender's process straight to the receiver's. The router grants, closes and
// counts it, and never waits for it.
type edgeLane struct {
	edge     *edge
	output   *output
	cfg      lane.Config
	hold     time.Duration // before a held message counts as held too long
	bit      uint8         // in the ledger of the sender's regions
	stage    laneStage
	name     string // of its memory
	oldName  string // of an adopted lane: what a broker before called it
	geometry shmpool.Geometry
	keeper   *lane.Keeper // nil: no memory yet

	sender, receiver laneEnd

	// Messages that came through the broker before the sender's LaneStart go out
	// before those of the lane, and those that come after it has ended go after.
	begun     bool // LaneStart has come; from then on the queue of the edge waits
	before    int  // messages in the queue that go first
	startTold bool // to the receiver

	reason    string // why it was closed
	closeTold bool   // to the receiver
	told      laneTold
	from      uint64 // position of the first withdrawn entry
	withdrawn uint32
	settled   bool // the receiver's process is gone
	bitFree   bool

	books   laneBooks
	failed  bool
	overdue limited       // messages held too long
	held    wire.LaneHeld // the last report of some
	// until is when an adopted lane has to have both of its ends; zero: it has.
	until  time.Time
	origin string           // of an adopted lane: the broker that had it before
	bells  [2]wire.RegionID // of an adopted lane: what its ends said, by role
}

// laneTold is what the sender knows about the end of a lane.
type laneTold struct{ closed, withdrawn, settled bool }

// laneEnd is one of the two nodes of a lane.
type laneEnd struct {
	sess     *session // nil: a node that has not come back since the broker started
	owes     bool     // a LaneDone: until then it may have the lane mapped
	answered bool     // with LaneReady
}

// adoptingReason is why an edge has no lane for a moment.
const adoptingReason = "node brings lanes of another broker"

// laneObstacle says why an edge cannot have a lane now; empty: it can.
func (c *core) laneObstacle(e *edge) string {
	if why := e.remoteReason(); why != "" {
		return why
	}
	sender, receiver := e.source.node.sess, e.sess
	switch {
	case e.source.shortage.active():
		return shortageReason
	case !c.cfg.Lanes:
		return "lanes are switched off in the broker"
	case sender == receiver:
		return "sender and receiver are one node"
	case !receiver.speaksLanes:
		return "client of the receiver speaks no lanes: " + receiver.client
	case !sender.speaksLanes:
		return "client of the sender speaks no lanes: " + sender.client
	case e.queueSize > lane.QueueSizeMax:
		return "queue_size is larger than a lane's"
	case e.failed != "":
		return e.failed
	case e.denied != "":
		return e.denied
	case e.closed || e.source.closed || e.source.ended:
		return "output is closed"
	case c.draining:
		return "broker is stopping"
	case sender.adopting != nil || receiver.adopting != nil:
		return adoptingReason
	case bits.OnesCount64(sender.laneBits) >= lane.LanesMax:
		return "sender has 63 lanes already"
	}
	return ""
}

// offerLane sets out to give an edge a lane, if it can have one.
func (c *core) offerLane(e *edge) {
	if e.lane != nil || e.closed {
		return
	}
	if c.laneObstacle(e) != "" {
		c.tellPath(e)
		return
	}
	sender := e.source.node.sess
	l := &edgeLane{
		edge: e, output: e.source, hold: e.holdTimeout,
		cfg:      lane.Config{QueueSize: uint32(e.queueSize), Policy: e.policy},
		bit:      uint8(bits.TrailingZeros64(^sender.laneBits)),
		geometry: lane.Geometry(uint32(e.queueSize)),
	}
	e.lane = l
	c.enlist(l, sender, e.sess)
	c.askMemory(sender, l.geometry, poolAsk{lane: l})
	c.askBell(sender)
	c.askBell(e.sess)
}

// enlist charges a lane to its two sessions, either of which may be nil.
func (c *core) enlist(l *edgeLane, sender, receiver *session) {
	if sender != nil {
		l.sender.sess = sender
		sender.laneBits |= 1 << l.bit
		sender.lanes = append(sender.lanes, l)
	}
	if receiver != nil {
		l.receiver.sess = receiver
		receiver.lanes = append(receiver.lanes, l)
	}
}

// keep enters a lane that has memory.
func (c *core) keep(l *edgeLane) {
	c.lanes[l.cfg.Lane] = l
	c.laneList = append(c.laneList, l)
}

// offerReceiver grants the lane to its receiver, once memory and bells are
// there. It goes first, so that it has everything mapped before a message comes.
func (c *core) offerReceiver(l *edgeLane) {
	sender, receiver := l.sender.sess, l.receiver.sess
	if l.stage != laneAsked || l.keeper == nil || sender.bell.region == 0 || receiver.bell.region == 0 {
		return
	}
	l.stage = laneOffered
	c.openRegions(receiver, sender) // again, if it was before the sender had a bell
	c.grantLane(l, wire.LaneReceiver)
}

func (c *core) grantLane(l *edgeLane, role wire.LaneRole) {
	own, other, end := l.sender.sess, l.receiver.sess, &l.sender
	grant := &wire.LaneGrant{
		Lane: l.cfg.Lane, Role: role, Port: uint32(l.output.index), Bit: l.bit,
		QueueSize: l.cfg.QueueSize, Policy: l.cfg.Policy, HoldTimeoutMS: uint32(l.hold / time.Millisecond),
		Name: l.name, SlotBytes: l.geometry.SlotBytes, Peer: l.edge.to,
	}
	if role == wire.LaneSender {
		grant.GraceMS = uint32(other.grace(l.hold) / time.Millisecond)
	} else {
		own, other, end = other, own, &l.receiver
		grant.Port, grant.Peer = uint32(l.edge.index), l.edge.from
	}
	grant.BellRegion, grant.BellName = own.bell.region, own.bell.name
	grant.PeerBellRegion, grant.PeerBellName = other.bell.region, other.bell.name
	end.owes = true
	own.laned = own.laned || role == wire.LaneSender
	c.send(own, grant)
}

// laneOf finds a lane that s still has. A node says nothing more of a lane once
// it is done with it, so that an id may be used again.
func (c *core) laneOf(s *session, id wire.RegionID, kind wire.Kind) (*edgeLane, *laneEnd, *wire.Error) {
	l := c.lanes[id]
	var end *laneEnd
	switch {
	case l == nil:
	case l.sender.sess == s:
		end = &l.sender
	case l.receiver.sess == s:
		end = &l.receiver
	}
	if end == nil {
		return nil, nil, wire.Errorf(wire.CodeNotYours, "%v for lane %d, which was not granted to this node", kind, id)
	}
	if !end.owes {
		return nil, nil, wire.Errorf(wire.CodeProtocol, "%v for lane %d, which this node is done with", kind, id)
	}
	return l, end, nil
}

// laneReady is a node that has mapped a lane, or could not.
func (c *core) laneReady(now time.Time, s *session, m *wire.LaneReady) *wire.Error {
	l, end, err := c.laneOf(s, m.Lane, m.Kind())
	if err != nil {
		return err
	}
	if end.answered {
		return wire.Errorf(wire.CodeProtocol, "lane_ready for lane %d, which this node has answered", m.Lane)
	}
	end.answered = true
	if m.Text == "" {
		if end == &l.receiver && l.stage == laneOffered {
			l.stage = lanePrepared
			c.grantLane(l, wire.LaneSender)
		}
		return nil
	}
	end.owes = false
	if l.stage < laneClosing { // else the other end may have left, and its bell with it
		c.failLane(now, l, s.node.id+" could not map it: "+m.Text)
	}
	if end == &l.sender {
		c.freeBit(l)
	}
	c.maybeEnd(now, l)
	return nil
}

// laneStart is the sender that has switched to the lane.
func (c *core) laneStart(s *session, m *wire.LaneStart) *wire.Error {
	l, end, err := c.laneOf(s, m.Lane, m.Kind())
	if err != nil {
		return err
	}
	if end != &l.sender || l.begun {
		return wire.Errorf(wire.CodeProtocol, "lane_start for lane %d, which is not for this node to start now", m.Lane)
	}
	end.answered = true
	if l.stage == lanePrepared {
		l.stage = laneStarted
	}
	// A lane that was closed meanwhile may have messages all the same.
	c.begin(l)
	c.updateFlow(l.output, false)
	return nil
}

// begin marks the place of the lane's messages among those of the edge.
func (c *core) begin(l *edgeLane) {
	l.begun = true
	l.output.laneBits |= 1 << l.bit
	l.edge.laneBits |= 1 << l.bit
	if l.stage == laneDrained {
		return
	}
	l.before = l.edge.queue.len()
	if s := l.receiver.sess; s.joined() {
		s.starting = append(s.starting, l)
		c.touch(s)
	}
}

// announceLanes tells a receiver to read the lanes whose turn has come, and of
// the end of those that were closed before.
func (c *core) announceLanes(s *session) {
	if len(s.starting) == 0 {
		return
	}
	kept := s.starting[:0]
	for _, l := range s.starting {
		e := l.edge
		if l.before > 0 || s.copying == e {
			kept = append(kept, l)
			continue
		}
		s.out = c.enc.Append(s.out, &wire.LaneStart{Lane: l.cfg.Lane, Dropped: e.lost})
		e.lost, l.startTold = 0, true
		if l.stage == laneStarted {
			l.stage = laneFlowing
			c.tellPath(e)
		} else {
			l.closeTold = true
			s.out = c.enc.Append(s.out, &wire.LaneClose{Lane: l.cfg.Lane, Reason: l.reason})
		}
	}
	clear(s.starting[len(kept):])
	s.starting = kept
}

// laned reports whether the sender puts the edge's messages on a lane.
func (e *edge) laned() bool {
	return e.lane != nil && (e.lane.stage == laneStarted || e.lane.stage == laneFlowing)
}

// waitsForLane reports whether what is in the broker's queue has to wait for
// older messages on the lane.
func (e *edge) waitsForLane() bool {
	return e.lane != nil && e.lane.begun && e.lane.before == 0
}
