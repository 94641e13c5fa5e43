package node

import (
	"time"

	"github.com/brokerd/brokerd/wire"
)

// A broker that was killed leaves its nodes with all they have of its shared
// memory, and lanes flow on. To the next broker they offer it (Adopt), and it says
// what it takes over (Adopted). The rest is given up on this side: nothing new
// goes into it, and it is unmapped when nobody here uses it any more.

// Regions of senders that no broker has announced again are unmapped staleMax after
// the one died that had announced them, however many have died since; but not before
// a broker has lived for staleSession, twice the time that it waits for what nodes
// bring along: until then each sender has offered its own, or is gone.
const (
	staleMax     = time.Minute
	staleSession = 20 * time.Second
)

// outlives reports whether there is something for the broker of another instance
// to adopt.
func (e *estate) outlives(instance string) bool {
	return e != nil && e.carries() && e.instance != instance
}

// offerEstate answers the Ready of a session that adopts.
func (s *session) offerEstate() {
	e := s.n.estate
	offer := &wire.Adopt{Instance: e.instance}
	if s.lanes {
		s.estate = e
		e.staleViews()
		e.memory.offer(offer)
		s.n.receiver.offerLanes(e, offer)
		if e.bell != nil {
			offer.BellRegion, offer.BellName = e.bell.region, e.bell.name
		}
	} else {
		s.adopting = false // nothing was offered, and the answer will say so
	}
	s.link.send(offer)
}

// offer lists the regions and the lanes this node sends on.
func (m *memory) offer(offer *wire.Adopt) {
	for _, l := range m.unstarted() {
		l.abandon()
		m.removeLane(l)
		m.disown(l)
	}
	m.mu.Lock()
	m.loseBrokered()
	for id, r := range m.regions {
		if r.foreign.Load() {
			continue
		}
		if len(offer.Regions) == wire.AdoptRegionsMax {
			m.disclaim(r)
			continue
		}
		// Also if slots of it are lost: what is on lanes in it is still to be read, perhaps
		// by who has not mapped it yet. No broker uses adopted memory for anything else.
		offer.Regions = append(offer.Regions, wire.AdoptRegion{
			Region: id, Name: r.name, SlotBytes: r.mapping.Geometry().SlotBytes, Slots: r.mapping.Geometry().Slots,
		})
	}
	for _, l := range m.lanes {
		l.closing = false // the new broker says so again
		offer.Lanes = append(offer.Lanes, adoptLane(&l.grant, l.output.id))
	}
	m.unlock(true)
}

func adoptLane(g *wire.LaneGrant, port string) wire.AdoptLane {
	return wire.AdoptLane{
		Lane: g.Lane, Role: g.Role, Port: port, Peer: g.Peer, Bit: g.Bit,
		QueueSize: g.QueueSize, Policy: g.Policy, HoldTimeoutMS: g.HoldTimeoutMS,
		Name: g.Name, SlotBytes: g.SlotBytes, PeerBellRegion: g.PeerBellRegion,
	}
}

// unstarted returns the lanes that nothing was sent on.
func (m *memory) unstarted() []*laneOut {
	m.mu.Lock()
	all := make([]*laneOut, 0, len(m.lanes))
	for _, l := range m.lanes {
		all = append(all, l)
	}
	m.mu.Unlock()
	var idle []*laneOut
	for _, l := range all {
		l.output.mu.Lock()
		if l.state == laneGranted {
			idle = append(idle, l)
		}
		l.output.mu.Unlock()
	}
	return idle
}

// loseBrokered gives up the slots of messages that the dead broker had: nobody can
// tell when their readers are done. One that it has not heard of has none. m.mu is
// held.
func (m *memory) loseBrokered() {
	for _, e := range m.tokens {
		if e.state == slotPublished && e.brokered && !e.unsent {
			e.brokered = false
			m.lose(e, 0)
		}
	}
}

// disclaim ends the use of a region that the new broker does not know. m.mu is
// held.
func (m *memory) disclaim(r *leasedRegion) {
	r.foreign.Store(true)
	m.retireLocked(r)
}

// offerLanes lists the lanes that this node receives on. Those that are closed are
// offered, too: the new broker says so again, and is told when they are done.
func (r *receiver) offerLanes(e *estate, offer *wire.Adopt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lanes.granted {
		if l.estate != e || l.orphan || r.closed != nil {
			continue
		}
		offer.Lanes = append(offer.Lanes, adoptLane(&l.grant, l.input.info.ID))
	}
}

// adopted takes over the broker's answer.
func (s *session) adopted(m *wire.Adopted) error {
	if !s.adopting {
		if len(m.Regions)+len(m.Lanes) > 0 || m.Bell {
			return wire.Errorf(wire.CodeProtocol, "adopted: nothing was offered")
		}
		return nil
	}
	e := s.estate
	s.adopting = false
	e.instance = s.welcome.Instance
	names := make(map[wire.RegionID]string, len(m.Regions))
	for _, r := range m.Regions {
		names[r.Region] = r.Name
	}
	lanes := make(map[wire.RegionID]bool, len(m.Lanes))
	for _, id := range m.Lanes {
		lanes[id] = true
	}
	if name, known := names[e.bellRegion()]; known && m.Bell {
		e.bell.name = name
		delete(names, e.bell.region)
	}
	e.keepLanes(lanes, names)
	s.n.receiver.keepLanes(s, lanes, names)
	for id := range lanes {
		delete(names, id)
	}
	e.memory.keepRegions(s.link, names)
	for _, old := range e.probes[:len(e.probes)-1] {
		_ = old.Close() // its broker is dead, and what was locked is adopted or given up
	}
	e.probes = e.probes[len(e.probes)-1:]
	s.workers.Go(s.closeStale)
	s.n.log.Debug("the broker has adopted shared memory", "regions", len(m.Regions), "lanes", len(m.Lanes))
	s.startLanes()
	s.tendSoon()
	return nil
}

func (e *estate) bellRegion() wire.RegionID {
	if e.bell == nil {
		return 0
	}
	return e.bell.region
}

// keepLanes goes on with the lanes to send on that were adopted, and closes the
// others.
func (e *estate) keepLanes(adopted map[wire.RegionID]bool, names map[wire.RegionID]string) {
	m := e.memory
	m.mu.Lock()
	var gone []*laneOut
	for id, l := range m.lanes {
		if adopted[id] {
			l.grant.Name = names[id]
		} else {
			gone = append(gone, l)
		}
	}
	m.mu.Unlock()
	for _, l := range gone {
		l.abandon()
		m.removeLane(l)
		m.disown(l)
	}
}

// keepLanes goes on with the lanes to receive on that were adopted. The others are
// read until their senders, whom the broker has told the same, close them.
func (r *receiver) keepLanes(s *session, adopted map[wire.RegionID]bool, names map[wire.RegionID]string) {
	var a aftermath
	now := time.Now()
	r.mu.Lock()
	r.setOnline(true)
	r.lanes.since = now
	for id, l := range r.lanes.granted {
		switch {
		case l.estate != s.estate || l.orphan:
		case adopted[id]:
			l.grant.Name = names[id]
			r.tellFault(l)
		case l.state == inEnded:
			r.finishLane(l, &a)
		default:
			r.makeOrphan(l, now.Add(orphanMax))
		}
	}
	r.unpark(now)
	r.unlockLook()
	a.run()
}

// keepRegions goes on with the regions that were adopted, under their new names.
func (m *memory) keepRegions(l *link, names map[wire.RegionID]string) {
	m.mu.Lock()
	m.link = l
	for id, r := range m.regions {
		if name, adopted := names[id]; adopted {
			r.name = name
			delete(names, id)
		} else if !r.foreign.Load() {
			m.disclaim(r)
		}
	}
	for id := range names { // given up since they were offered
		m.tellReturned(id)
	}
	m.unlock(true)
}

// closeStale unmaps what the new broker does not know, after the lanes have passed
// the last message that may lie in it.
func (s *session) closeStale() {
	timer := time.NewTimer(staleSession)
	defer timer.Stop()
	marked := false
	for {
		select {
		case <-s.link.down:
			return
		case <-timer.C:
		}
		if !s.n.receiver.passed(s.estate, !marked) {
			marked = true
			timer.Reset(time.Second)
			continue
		}
		left, oldest := s.estate.closeStale(time.Now().Add(-staleMax))
		if left == 0 {
			return
		}
		marked = false
		timer.Reset(time.Until(oldest.Add(staleMax)))
	}
}

// passed reports whether all lanes have passed the messages that were on them when
// it was called with mark.
func (r *receiver) passed(e *estate, mark bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := true
	for _, l := range r.lanes.granted {
		if l.estate != e {
			continue
		}
		if mark {
			l.behind = l.grant.QueueSize // no more can be on it
		}
		if l.behind > 0 && (l.state != inActive || l.parked.active || l.consumer.Ready()) {
			all = false
		}
	}
	return all
}
