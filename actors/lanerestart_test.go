package actors

import (
	"maps"
	"slices"

	"pgregory.net/rapid"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// restart is the broker killed and started again. What was in its queues and in
// sockets is lost; what is in shared memory is not.
func (m *laneModel) restart(rt *rapid.T) {
	if rapid.IntRange(0, 3).Draw(rt, "often enough") > 0 {
		rt.Skip("runs")
	}
	for _, node := range keys(m.peers) {
		for _, msg := range m.peers[node].inbox {
			if _, ok := msg.(*wire.LaneClose); ok {
				m.leaky = true // nobody knows any more what was withdrawn
			}
		}
		m.away[node] = m.peers[node]
		delete(m.peers, node)
	}
	// Processes that the new broker has never heard of may hold what they hold.
	m.leaky = m.leaky || len(m.ghosts) > 0
	m.ghosts, m.leased = nil, map[wire.RegionID]bool{}
	for key, last := range m.seq {
		for s := range last {
			m.losing(key, s+1)
		}
	}
	m.w.start(string(rune('A'+m.next%26))+"-instance", true)
	m.w.play("flow f", m.flow)
}

// back is a node that finds the new broker, or a new process in its place.
func (m *laneModel) back(rt *rapid.T) {
	if len(m.away) == 0 {
		rt.Skip("all are here")
	}
	node := rapid.SampledFrom(keys(m.away)).Draw(rt, "node")
	if rapid.IntRange(0, 4).Draw(rt, "process") > 0 {
		m.comeBack(node)
		return
	}
	delete(m.away, node)
	m.leaky = true // what it held is held for ever
	m.join(node, false, false)
}

// comeBack connects a process to the new broker, with all that it has.
func (m *laneModel) comeBack(node string) {
	p := m.away[node]
	delete(m.away, node)
	m.next++
	m.peers[node] = p
	p.id, p.closed, p.inbox, p.outbox = m.next, false, nil, nil
	delete(p.lastSeq, "tick") // the broker counts its own from 1
	clear(p.ended)
	clear(p.flow)
	clear(p.published)
	clear(p.tokens)
	p.delivered, p.consumed, p.held = 0, 0, nil
	p.adopting = p.local && p.bell != 0
	p.inlines = false
	clear(p.short)
	hello := &wire.Hello{VersionMin: 1, VersionMax: 1, Dataflow: "f", Node: node, Features: wire.FeatureLanes}
	attach := &wire.Attach{Adopting: p.adopting}
	if p.local {
		attach.Nonce = []byte("right")
	}
	m.w.core.connEvent(m.w.now, &ConnEvent{Type: ConnOpened, ID: p.id, Conn: p})
	m.w.say(p.id, hello)
	m.w.say(p.id, attach)
	if p.adopting {
		p.say(p.adopt())
	} else {
		clear(p.lastSeq)
		p.free = nil
		clear(p.lent) // with what it has from the broker that died, it ends as soon as it can
		m.leaky = true
	}
	m.w.play("flush", "")
}

func (p *lanePeer) adopt() *wire.Adopt {
	a := &wire.Adopt{Instance: "dead", BellRegion: p.bell, BellName: p.known[p.bell]}
	for _, id := range slices.Sorted(maps.Keys(p.regions)) {
		a.Regions = append(a.Regions, wire.AdoptRegion{Region: id, Name: p.known[id], SlotBytes: modelGeometry.SlotBytes, Slots: modelGeometry.Slots})
	}
	for _, lanes := range []map[wire.RegionID]*modelLane{p.out, p.in} {
		for _, id := range slices.Sorted(maps.Keys(lanes)) {
			l := lanes[id]
			a.Lanes = append(a.Lanes, wire.AdoptLane{
				Lane: id, Role: l.Role, Port: l.port, Peer: l.Peer, Bit: l.Bit, QueueSize: l.QueueSize, Policy: l.Policy,
				HoldTimeoutMS: l.HoldTimeoutMS, Name: p.known[id], SlotBytes: l.SlotBytes, PeerBellRegion: l.PeerBellRegion,
			})
		}
	}
	return a
}

// adopted goes on with what the new broker has taken over, and ends the rest.
func (p *lanePeer) adopted(msg *wire.Adopted) {
	p.adopting = false
	for input := range p.lastSeq {
		if !slices.ContainsFunc(slices.Collect(maps.Values(p.in)), func(l *modelLane) bool { return l.started && l.port == input }) {
			delete(p.lastSeq, input) // what was sent while it was away was not for it
		}
	}
	taken := map[wire.RegionID]bool{}
	for _, r := range msg.Regions {
		p.known[r.Region], taken[r.Region] = r.Name, true
	}
	for id := range p.regions {
		if !taken[id] {
			p.retired[id] = true
			delete(p.regions, id)
		}
	}
	p.free = slices.DeleteFunc(p.free, func(at place) bool { return p.retired[at.region] })
	for at, mask := range p.lent {
		if mask&(1<<lane.BrokerBit) != 0 {
			p.m.leaky = true // its readers have it from the broker that died
		}
		if p.retired[at.region] {
			p.m.leaky = true
		}
	}
	for _, lanes := range []map[wire.RegionID]*modelLane{p.out, p.in} {
		for id, l := range lanes {
			if l.started = l.started || slices.Contains(msg.Lanes, id); slices.Contains(msg.Lanes, id) {
				l.closed = false // it will be told again
				if l.gone && l.producer != nil && !l.producer.Closed() {
					p.say(&wire.LaneFault{Lane: id, Text: "still broken"})
				}
				continue
			}
			if l.producer != nil {
				l.producer.CloseByOwner()
			}
			p.m.leaky = true
			delete(lanes, id)
		}
	}
	if !msg.Bell {
		p.bell = 0
	}
}
