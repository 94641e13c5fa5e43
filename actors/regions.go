package actors

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// orphan is what the router remembers of a session whose connection is gone
// while its process may still read what it holds, or write what it leased.
type orphan struct {
	checks int
	next   time.Time
}

// orphanCheck are the times between looks at an orphan. A process that is being
// killed loses its connection an instant before its lock; one that lives may
// live long.
var orphanCheck = [...]time.Duration{2 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond}

// regionRequest asks the pool for a region on behalf of a sender: step 1.
func (c *core) regionRequest(s *session, m *wire.RegionRequest) *wire.Error {
	if !s.local {
		return wire.Errorf(wire.CodeWrongState, "region request of a node that is not local: %s", s.remoteReason)
	}
	g := shmpool.Geometry{SlotBytes: m.SlotBytes, Slots: m.Slots}
	if err := g.Validate(); err != nil {
		c.send(s, &wire.RegionDenied{Request: m.Request, Code: wire.CodeTooLarge, Text: err.Error()})
		return nil
	}
	if s.asking >= regionRequestsMax {
		return wire.Errorf(wire.CodeProtocol, "%d region requests at once; wait for the answers", s.asking+1)
	}
	s.asking++
	c.poolOut = append(c.poolOut, poolRequest{kind: poolGrant, session: s.id, owner: s.node.owner, request: m.Request, geometry: g})
	return nil
}

// regionRequestsMax bounds what one node can have under way at the pool.
const regionRequestsMax = 16

// regionGranted passes the pool's answer on, and shows the region to those who
// will read from it.
func (c *core) regionGranted(rep *poolReply) {
	s := c.sessions[rep.session]
	if s == nil || !s.joined() {
		if rep.err == nil {
			c.poolOut = append(c.poolOut, poolRequest{kind: poolReturn, region: rep.region})
		}
		return
	}
	s.asking--
	if rep.err != nil {
		text, holders := rep.err.Error(), c.holders(s)
		if holders != "" {
			text += "; " + holders
		}
		s.node.deniedText = text
		c.send(s, &wire.RegionDenied{Request: rep.request, Code: rep.code, Text: clip(text, wire.TextBytesMax)})
		c.logDenied(rep, s.node, holders)
		return
	}
	r := &region{id: rep.region, name: rep.name, geometry: rep.geometry, owner: s}
	c.regions[r.id] = r
	s.regions[r.id] = r
	s.regionBytes += r.geometry.Bytes()
	c.send(s, &wire.RegionGrant{
		Request: rep.request, Region: r.id, Name: r.name,
		Bytes: r.geometry.Bytes(), SlotBytes: r.geometry.SlotBytes, Slots: r.geometry.Slots,
	})
	for _, o := range s.outputs {
		for _, e := range o.edges {
			if e.sess != nil && e.sess.local {
				c.openRegion(e.sess, r)
			}
		}
	}
	c.journal.debug("region granted", zap.String("node", s.label()), zap.Uint64("region", uint64(r.id)),
		zap.Uint64("slot_bytes", r.geometry.SlotBytes), zap.Uint32("slots", r.geometry.Slots))
}

// logDenied writes at most a line a second for each node, with the count.
func (c *core) logDenied(rep *poolReply, n *node, holders string) {
	if n.denied.count++; rep.at.Sub(n.denied.logged) < holdLogInterval {
		return
	}
	c.journal.warn("region denied", zap.String("dataflow", n.flow.name), zap.String("node", n.id),
		zap.Int("count", n.denied.count), zap.Error(rep.err), zap.String("held_by", holders))
	n.denied = limited{logged: rep.at}
}

// openRegions shows all regions of a sender to a receiver.
func (c *core) openRegions(s, sender *session) {
	for _, id := range slices.Sorted(maps.Keys(sender.regions)) {
		c.openRegion(s, sender.regions[id])
	}
}

// openRegion lets a receiver map a region before the first message in it comes.
// One that has lanes is told again when the sender has got a bell.
func (c *core) openRegion(s *session, r *region) {
	owner := r.owner.bell.region
	if known, ok := s.opened[r]; r.retired || ok && (known == owner || !s.speaksLanes) {
		return
	}
	s.opened[r] = owner
	c.send(s, &wire.RegionOpen{
		Region: r.id, Name: r.name, Bytes: r.geometry.Bytes(),
		SlotBytes: r.geometry.SlotBytes, Slots: r.geometry.Slots, Owner: owner,
	})
}

// visible reports whether the node can read from the region's memory.
func (c *core) visible(s *session, r *region) bool {
	if !s.local {
		return false
	}
	if _, blind := s.blind[r]; blind {
		return false
	}
	_, ok := s.opened[r]
	return ok || !r.retired
}

// regionReturn takes a region back from its sender.
func (c *core) regionReturn(s *session, m *wire.RegionReturn) *wire.Error {
	r := s.regions[m.Region]
	if r == nil {
		return wire.Errorf(wire.CodeNotYours, "return of region %d, which is not leased to this node", m.Region)
	}
	if r.messages > 0 {
		return wire.Errorf(wire.CodeWrongState, "return of region %d with %d messages still in use", m.Region, r.messages)
	}
	c.giveBack(r, poolReturn)
	return nil
}

// giveBack ends a lease: receivers unmap, the pool gets the region.
func (c *core) giveBack(r *region, kind poolRequestKind) {
	for _, s := range c.sessions {
		delete(s.blind, r)
		if _, ok := s.opened[r]; ok {
			delete(s.opened, r)
			c.send(s, &wire.RegionClose{Region: r.id})
		}
	}
	if r.retired && kind == poolReturn {
		kind = poolDiscard
	}
	delete(r.owner.regions, r.id)
	delete(c.regions, r.id)
	r.owner.regionBytes -= r.geometry.Bytes()
	r.returned = true
	c.poolOut = append(c.poolOut, poolRequest{kind: kind, region: r.id})
	c.journal.debug("region reclaimed", zap.Uint64("region", uint64(r.id)), zap.String("node", r.owner.label()))
}

// retire makes sure that no new message is placed in a region and that nobody
// new maps it. What is mapped stays valid.
func (c *core) retire(r *region) {
	if r.retired || r.returned {
		return
	}
	r.retired = true
	c.poolOut = append(c.poolOut, poolRequest{kind: poolRetire, region: r.id})
	if r.owner.joined() {
		c.send(r.owner, &wire.RegionRetire{Region: r.id})
	}
}

// retireHeld retires a region of which a slot is held for too long; but not while the
// receiver of one of the owner's lanes has not come back since the broker started: it
// may have yet to map the region.
func (c *core) retireHeld(r *region) {
	if !slices.ContainsFunc(r.owner.lanes, func(l *edgeLane) bool { return l.receiver.sess == nil && !l.until.IsZero() }) {
		c.retire(r)
	}
}

// reclaim takes back a region whose owner has left, once nobody reads from it
// and the owner's process cannot write to it any more. What was sent by lanes may
// still be held: such a region is not used again.
func (c *core) reclaim(r *region) {
	if r.returned || r.messages > 0 || r.owner.joined() || slices.Contains(c.orphans, r.owner) || r.owner.read() {
		return
	}
	if r.owner.laned {
		c.giveBack(r, poolDiscard)
	} else {
		c.giveBack(r, poolReturn)
	}
}

// settleOrOrphan ends what a session that has left still holds and leases, if
// its process is gone. Otherwise memory that the process may read or write must
// not be used again: the session becomes an orphan.
func (c *core) settleOrOrphan(now time.Time, s *session) (alive bool) {
	if s.held == 0 && len(s.regions) == 0 && s.unsettled() == 0 {
		return false
	}
	if s.local && c.alive(s) {
		s.orphan = orphan{next: now.Add(orphanCheck[0])}
		c.orphans = append(c.orphans, s)
		c.orphanSoon(s)
		return true
	}
	c.settleLeft(s)
	return false
}

func (c *core) alive(s *session) bool {
	alive, err := c.live.SessionAlive(wire.SessionID(s.id))
	if err != nil {
		// Memory in doubt is not used again.
		c.journal.warn("cannot tell whether a node's process lives; keeping what it holds", zap.String("node", s.label()), zap.Error(err))
		return true
	}
	return alive
}

func (c *core) settleLeft(s *session) {
	for _, e := range s.inputs {
		for i := e.holds.head; i != noHold; {
			next := c.holds.holds[i].next
			if c.holds.holds[i].session == s {
				c.unref(c.holds.remove(i))
			}
			i = next
		}
	}
	if s.held > 0 { // of inputs that a reload has put others in the place of
		for i := range c.holds.holds {
			if c.holds.holds[i].session == s {
				c.unref(c.holds.remove(int32(i)))
			}
		}
	}
	for _, r := range s.regions {
		c.reclaim(r)
	}
	c.settleLanes(s)
}

// checkOrphans looks again at processes that outlived their connection.
func (c *core) checkOrphans(now time.Time) {
	if c.orphanAt.IsZero() || now.Before(c.orphanAt) {
		return
	}
	c.orphanAt = time.Time{}
	kept := c.orphans[:0]
	var gone []*session
	for _, s := range c.orphans {
		if now.Before(s.orphan.next) {
			kept = append(kept, s)
			c.orphanSoon(s)
			continue
		}
		if c.alive(s) {
			s.orphan.checks++
			s.orphan.next = now.Add(orphanCheck[min(s.orphan.checks, len(orphanCheck)-1)])
			if s.orphan.checks == len(orphanCheck) {
				c.orphanStays(s)
			}
			kept = append(kept, s)
			c.orphanSoon(s)
			continue
		}
		gone = append(gone, s)
	}
	clear(c.orphans[len(kept):])
	c.orphans = kept
	for _, s := range gone {
		c.settleLeft(s)
	}
}

// orphanStays takes the regions of a sender that lives on without a connection
// out of use: it may still write to them.
func (c *core) orphanStays(s *session) {
	for _, r := range s.regions {
		if r.messages == 0 {
			c.retire(r)
		}
	}
	c.journal.warn("node's process lives on without a connection; what it holds stays out of use until it ends or lets go",
		zap.String("dataflow", s.node.flow.name), zap.String("node", s.node.id),
		zap.Int("held", s.held), zap.Int("regions", len(s.regions)), zap.Uint64("region_bytes", s.regionBytes),
		zap.Int("lanes", s.unsettled()))
}

// orphanSoon keeps the time of the next look at an orphan.
func (c *core) orphanSoon(s *session) {
	if c.orphanAt.IsZero() || s.orphan.next.Before(c.orphanAt) {
		c.orphanAt = s.orphan.next
	}
}

// checkHolds looks for messages that were held past their edge's timeout, and the
// time to evacuate them. Their
// slots stay as they are, because the holder may be reading; their regions take
// no new message.
func (c *core) checkHolds(now time.Time) {
	c.removed = slices.DeleteFunc(c.removed, func(e *edge) bool { return e.holds.n == 0 })
	for _, e := range c.removed {
		if e.holdTimeout > 0 {
			c.checkEdgeHolds(now, e)
		}
	}
	for _, f := range c.flows {
		for _, n := range f.nodes {
			for _, e := range n.inputs {
				if e.holds.n > 0 && e.holdTimeout > 0 {
					c.checkEdgeHolds(now, e)
				}
			}
		}
	}
}

func (c *core) checkEdgeHolds(now time.Time, e *edge) {
	for i := e.holds.fresh; i != noHold; i = e.holds.fresh {
		h := &c.holds.holds[i]
		if now.Sub(h.since) < e.holdTimeout+h.session.grace(e.holdTimeout) {
			break // the rest is younger
		}
		e.holds.fresh = h.next
		e.overdue.count++
		c.retireHeld(h.message.region)
	}
	if e.overdue.count == 0 || now.Sub(e.overdue.logged) < holdLogInterval {
		return
	}
	h := &c.holds.holds[e.holds.head]
	c.journal.warn("message held too long",
		zap.String("dataflow", e.flow.name), zap.String("from", e.from), zap.String("to", e.to),
		zap.String("holder", h.session.label()), zap.Int("count", e.overdue.count),
		zap.Uint64("seq", uint64(h.message.seq)), zap.Uint64("bytes", h.message.length),
		zap.Float64("held_ms", float64(now.Sub(h.since))/float64(time.Millisecond)),
		zap.Float64("hold_timeout_ms", float64(e.holdTimeout)/float64(time.Millisecond)),
		zap.Int("held", e.holds.n), zap.Uint64("held_bytes", e.holds.bytes),
		zap.Uint64("region", uint64(h.message.region.id)))
	e.overdue = limited{logged: now}
}

// limited bounds log lines that come at once for the first happening and then
// with a count, at most one every holdLogInterval.
type limited struct {
	count  int // not yet logged
	logged time.Time
}

const holdLogInterval = time.Second

// holders names who holds how much of a sender's memory, for its error texts.
func (c *core) holders(s *session) string {
	var worst *edge
	for _, o := range s.outputs {
		for _, e := range o.edges {
			if e.holds.n > 0 && (worst == nil || e.holds.bytes > worst.holds.bytes) {
				worst = e
			}
		}
	}
	if worst == nil {
		return ""
	}
	return fmt.Sprintf("%s holds %d of its messages, %d bytes", worst.to, worst.holds.n, worst.holds.bytes)
}

// clip shortens a text for the wire without splitting a character.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && text[n]&0xc0 == 0x80 {
		n--
	}
	return text[:n]
}
