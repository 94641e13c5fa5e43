package actors

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// adoption is what one node brings from a broker that died. Nothing of it is
// believed: names, ids and memory are checked by the pool, edges and numbers
// against the dataflow, the two ends of a lane against each other.
type adoption struct {
	sess    *session
	message *wire.Adopt // nil: has not come
	waits   int         // parts that the pool has not answered
	got     []*adoptPart
}

// adoptPart is one object of shared memory that the pool was asked to take over.
type adoptPart struct {
	kind    adoptKind
	region  wire.RegionID
	g       shmpool.Geometry
	name    string // the new one
	lane    *wire.AdoptLane
	edge    *edge // of the lane
	waiters []*adoption
}

type adoptKind uint8

const (
	adoptRegion adoptKind = iota
	adoptBell
	adoptLane
)

// adopt begins to take over what a node brings.
func (c *core) adopt(now time.Time, s *session, m *wire.Adopt) *wire.Error {
	ad := s.adopting
	if ad == nil || ad.message != nil {
		return wire.Errorf(wire.CodeWrongState, "adopt that attach has not announced, or a second one")
	}
	ad.message = m
	if !c.cfg.Lanes || !s.local || !s.speaksLanes || m.Instance == c.cfg.Instance {
		ad.message = &wire.Adopt{}
	}
	m = ad.message
	if m.BellRegion != 0 {
		c.takeOver(ad, &adoptPart{
			kind: adoptBell, region: m.BellRegion, g: shmpool.Geometry{SlotBytes: lane.BellSlotBytes, Slots: 1},
		}, m.BellName)
	}
	for _, r := range m.Regions {
		c.takeOver(ad, &adoptPart{
			kind: adoptRegion, region: r.Region, g: shmpool.Geometry{SlotBytes: r.SlotBytes, Slots: r.Slots},
		}, r.Name)
	}
	for i := range m.Lanes {
		al := &m.Lanes[i]
		if e := c.claimedEdge(s, al); e != nil {
			c.takeOver(ad, &adoptPart{
				kind: adoptLane, region: al.Lane, g: lane.Geometry(al.QueueSize), lane: al, edge: e,
			}, al.Name)
		}
	}
	if ad.waits == 0 {
		c.finishAdoption(now, ad)
	}
	return nil
}

// claimedEdge finds the edge that a node says it has a lane of; nil: there is
// none, or no lane could be like that.
func (c *core) claimedEdge(s *session, al *wire.AdoptLane) *edge {
	cfg := lane.Config{Lane: al.Lane, QueueSize: al.QueueSize, Policy: al.Policy}
	if cfg.Validate() != nil || al.Bit > wire.LaneBitMax || al.PeerBellRegion == 0 || al.SlotBytes != lane.Geometry(al.QueueSize).SlotBytes {
		return nil
	}
	var e *edge
	switch al.Role {
	case wire.LaneReceiver:
		if in, ok := s.node.input(al.Port); ok && in.timer == nil && in.from == al.Peer {
			e = in
		}
	case wire.LaneSender:
		if o, ok := s.node.output(al.Port); ok {
			if i := slices.IndexFunc(o.edges, func(e *edge) bool { return e.to == al.Peer }); i >= 0 {
				e = o.edges[i]
			}
		}
	}
	if e == nil || e.node == e.source.node {
		return nil
	}
	return e
}

// takeOver asks the pool for one object, unless somebody has it already. Of a
// lane, the other end may have.
func (c *core) takeOver(ad *adoption, part *adoptPart, oldName string) {
	if part.region == 0 || part.g.Validate() != nil || c.regions[part.region] != nil || c.lanes[part.region] != nil {
		return
	}
	if other := c.claims[part.region]; other != nil {
		if other.kind == adoptLane && part.kind == adoptLane && !slices.Contains(other.waiters, ad) {
			ad.waits++
			other.waiters = append(other.waiters, ad)
		}
		return
	}
	owner := ad.sess.node.owner
	if part.kind == adoptLane {
		owner = part.edge.source.node.owner
	}
	ad.waits++
	part.waiters = []*adoption{ad}
	c.claims[part.region] = part
	c.lastTag++
	c.asked[c.lastTag] = poolAsk{adopt: part}
	c.poolOut = append(c.poolOut, poolRequest{
		kind: poolAdopt, session: ad.sess.id, owner: owner, tag: c.lastTag, geometry: part.g,
		region: part.region, oldName: oldName, mapped: part.kind == adoptLane,
	})
}

// takenOver takes the pool's answer to takeOver.
func (c *core) takenOver(now time.Time, rep *poolReply) {
	part := c.asked[rep.tag].adopt
	delete(c.asked, rep.tag)
	delete(c.claims, part.region)
	if rep.err != nil {
		c.journal.info("region of a broker that died is not taken over", zap.Uint64("region", uint64(part.region)), zap.Error(rep.err))
	} else {
		part.name = rep.name
		if part.kind == adoptLane {
			c.adoptMemory(now, part, rep.words)
		} else {
			part.waiters[0].got = append(part.waiters[0].got, part)
		}
	}
	for _, ad := range part.waiters {
		if ad.waits--; ad.waits == 0 {
			c.finishAdoption(now, ad)
		}
	}
}

// adoptMemory makes a lane of memory whose constants are what its node says.
func (c *core) adoptMemory(now time.Time, part *adoptPart, words []uint64) {
	al, e := part.lane, part.edge
	l := &edgeLane{
		edge: e, output: e.source, hold: time.Duration(al.HoldTimeoutMS) * time.Millisecond,
		cfg: lane.Config{Lane: al.Lane, QueueSize: al.QueueSize, Policy: al.Policy},
		bit: al.Bit, geometry: part.g, name: part.name, oldName: al.Name,
		stage: laneFlowing, begun: true, startTold: true,
		until:  now.Add(c.cfg.AdoptGrace),
		origin: part.waiters[0].message.Instance,
	}
	l.keeper = lane.NewKeeper(words, l.cfg, nil)
	var err error
	if l.books.seen, err = l.keeper.Counters(); err != nil || e.lane != nil || e.closed {
		c.journal.info("lane of a broker that died is not taken over", zap.String("from", e.from), zap.String("to", e.to), zap.Error(err))
		l.keeper.Release()
		c.poolOut = append(c.poolOut, poolRequest{kind: poolDiscard, region: al.Lane})
		return
	}
	if l.books.seen.Closed {
		l.stage, l.reason = laneClosing, "closed by a broker that died"
	}
	// What is on it counts as published to this broker, which delivers it.
	l.books.published = uint64(l.books.seen.Queued)
	e.stats.published += l.books.published
	e.lane = l
	c.keep(l)
}

// finishAdoption tells a node what goes on, and everything that join has left out.
func (c *core) finishAdoption(now time.Time, ad *adoption) {
	s := ad.sess
	if !s.joined() {
		for _, part := range ad.got {
			c.poolOut = append(c.poolOut, poolRequest{kind: poolDiscard, region: part.region})
		}
		return
	}
	c.hasBrought(s)
	answer := &wire.Adopted{}
	for _, part := range ad.got {
		answer.Regions = append(answer.Regions, wire.AdoptedRegion{Region: part.region, Name: part.name})
		if part.kind == adoptBell {
			answer.Bell = true
			s.bell = bell{region: part.region, name: part.name, asked: true}
			continue
		}
		r := &region{id: part.region, name: part.name, geometry: part.g, owner: s}
		c.regions[r.id], s.regions[r.id] = r, r
		s.regionBytes += r.geometry.Bytes()
		s.laned = true // its ledger may have bits that nobody will clear
	}
	var joined []*edgeLane
	for i := range ad.message.Lanes {
		al := &ad.message.Lanes[i]
		if l := c.lanes[al.Lane]; l != nil && c.joinLane(s, l, al) {
			joined = append(joined, l)
			if sender := l.sender.sess; al.Role == wire.LaneReceiver && sender != nil {
				c.openRegions(s, sender) // also of one that has left meanwhile
			}
			answer.Regions = append(answer.Regions, wire.AdoptedRegion{Region: al.Lane, Name: l.name})
			answer.Lanes = append(answer.Lanes, al.Lane)
		}
	}
	// Before the node hears of windows: they count the edges that have no lane.
	c.closeUnclaimed(now, s)
	s.adopting = nil
	c.send(s, answer)
	c.logNode(s, "node brought what it uses from a broker that died", zap.String("instance", ad.message.Instance),
		zap.Int("regions", len(s.regions)), zap.Int("lanes", len(joined)), zap.Int("lanes_offered", len(ad.message.Lanes)))
	for _, l := range joined {
		c.wholeLane(now, l)
	}
	c.greetPorts(s)
}

// greetPorts tells a node that has brought all it had of flows, and its receivers
// of its regions.
func (c *core) greetPorts(s *session) {
	for _, o := range s.outputs {
		c.updateFlow(o, true)
		for _, e := range o.edges {
			if e.sess != nil && e.sess.local {
				c.openRegions(e.sess, s)
			}
		}
		c.offerLanes(o)
	}
	for _, e := range s.inputs {
		c.offerLane(e)
	}
	c.touch(s)
}

// joinLane makes a node an end of an adopted lane, if it says the same of it as
// whoever has said something before.
func (c *core) joinLane(s *session, l *edgeLane, al *wire.AdoptLane) bool {
	end, other := &l.sender, wire.LaneReceiver
	if al.Role == wire.LaneReceiver {
		end, other = &l.receiver, wire.LaneSender
	}
	bells := [2]wire.RegionID{}
	bells[al.Role], bells[other] = s.bell.region, al.PeerBellRegion
	cfg := lane.Config{Lane: al.Lane, QueueSize: al.QueueSize, Policy: al.Policy}
	switch {
	case l.oldName == "" || !sameObject(l.oldName, al.Name), c.claimedEdge(s, al) != l.edge:
	case end.sess != nil, s.bell.region == 0:
	case cfg != l.cfg, al.Bit != l.bit, al.HoldTimeoutMS != uint32(l.hold/time.Millisecond):
	case l.bells != [2]wire.RegionID{} && l.bells != bells:
	case al.Role == wire.LaneSender && s.laneBits&(1<<l.bit) != 0:
	default:
		l.bells = bells
		end.owes, end.answered = true, true
		if al.Role == wire.LaneReceiver {
			c.enlist(l, nil, s)
			return true
		}
		c.enlist(l, s, nil)
		l.output.laneBits |= 1 << l.bit
		l.edge.laneBits |= 1 << l.bit
		return true
	}
	return false
}

// sameObject reports whether two names may be those of one region, at different
// times: each broker that adopts it puts its instance in, and leaves the end, which
// nobody can guess. Ends of a lane that have met different brokers since know
// different names of it.
func sameObject(a, b string) bool {
	const endBytes = 1 + 16 // "-" and the random part
	return a == b || len(a) == len(b) && len(a) > endBytes && a[len(a)-endBytes:] == b[len(b)-endBytes:]
}

// wholeLane goes on with an adopted lane after one of its ends has come.
func (c *core) wholeLane(now time.Time, l *edgeLane) {
	if l.stage >= laneClosing { // this broker has given up waiting, or the one before
		c.tellReceiver(l)
		c.tellSender(l)
	}
	if missing := l.missing(); len(missing) > 0 {
		if s := missing[0].sess; s != nil && s.adopting == nil {
			c.halfAdopted(now, l) // it is here, and has not brought its end
		}
		return
	}
	l.until = time.Time{}
	if l.stage >= laneClosing {
		return
	}
	e := l.edge
	if l.cfg.QueueSize != uint32(e.queueSize) || l.cfg.Policy != e.policy || l.hold != e.holdTimeout {
		c.closeLane(now, l, settingsChanged)
		return
	}
	c.tellPath(e)
}

// missing returns the nodes of a lane that have not brought their ends.
func (l *edgeLane) missing() (nodes []*node) {
	if l.sender.sess == nil {
		nodes = append(nodes, l.output.node)
	}
	if l.receiver.sess == nil {
		nodes = append(nodes, l.edge.node)
	}
	return nodes
}

// halfAdopted gives up a lane whose other end has not come back.
func (c *core) halfAdopted(now time.Time, l *edgeLane) {
	l.until = time.Time{}
	if l.receiver.sess != nil {
		c.closeLane(now, l, "sender has not come back")
		return
	}
	c.cutLane(now, l, wire.DropReceiverGone, "receiver has not come back")
	c.updateFlow(l.output, true)
	c.settleAbandoned(l)
	c.tellSender(l)
	c.maybeEnd(now, l)
}

// hasBrought remembers a session for settleAbandoned. To ask for each whether it
// lives costs a system call: that is done when there are twice as many as the last
// time.
func (c *core) hasBrought(s *session) {
	if len(c.brought) >= c.broughtMax {
		c.forgetEnded()
		c.broughtMax = 2*len(c.brought) + broughtMin
	}
	c.brought = append(c.brought, s)
}

// broughtMin is how many of them there may be in any case.
const broughtMin = 64

// forgetEnded forgets those whose process has given up its lock.
func (c *core) forgetEnded() {
	c.brought = slices.DeleteFunc(c.brought, func(s *session) bool { return !s.joined() && !c.alive(s) })
}

// processesGone is told when no process is left that has memory of a broker that died
// and has not come to this one.
func (c *core) processesGone() {
	c.deadGone = true
	for _, l := range c.laneList {
		c.settleAbandoned(l)
	}
}

// settleAbandoned gives the sender of a lane back what its receiver had, if that
// has never come to this broker and cannot read any more. Its process held a lock
// on the probe of a broker before this one; or it has brought what it had here, but
// for this lane, and holds one on ours.
func (c *core) settleAbandoned(l *edgeLane) {
	if l.receiver.sess != nil || l.stage != laneDrained || l.settled || !c.deadGone || !slices.Contains(c.dead, l.origin) {
		return
	}
	c.forgetEnded()
	// By name: a reload may have put another node in the place of one that it had removed.
	of := l.edge.node
	if !slices.ContainsFunc(c.brought, func(s *session) bool { return s.node.id == of.id && s.node.flow.name == of.flow.name }) {
		l.settled = true
		c.tellSender(l)
	}
}

// closeUnclaimed gives up the lanes that a node has an end of by what the other
// end says, but did not bring itself.
func (c *core) closeUnclaimed(now time.Time, s *session) {
	for _, l := range slices.Clone(c.laneList) {
		if !l.until.IsZero() && slices.Contains(l.missing(), s.node) {
			c.halfAdopted(now, l)
		}
	}
}
