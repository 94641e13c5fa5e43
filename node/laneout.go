package node

import (
	"errors"
	"fmt"
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// laneOut is the sending end of a lane.
type laneOut struct {
	// Immutable.
	grant  wire.LaneGrant // but for the name, which the next broker changes; owned by the goroutine that reads
	estate *estate
	output *Output
	bit    uint8
	mask   uint64
	block  bool
	hold   time.Duration // how long the receiver may keep a message; 0: for ever
	memory *lane.Memory
	bell   *peerBell // the receiver's

	// Guarded by output.mu.
	producer *lane.Producer
	state    laneState

	// Guarded by estate.memory.mu.
	since   uint64 // memory.serial when it was started: the bit may have been another lane's before
	closing bool   // the broker has closed it, slots may still have its bit
	marks   map[wire.Token]heldMark
}

type laneState uint8

const (
	laneGranted laneState = iota // mapped, nothing was sent on it
	laneStarted                  // in output.lanes
	laneShut                     // found closed or corrupt: its edge needs the broker, which has yet to say so
	laneOver                     // in nobody's way any more
)

// errNoLanes answers a grant that this node has not asked for.
var errNoLanes = errors.New("this node does without lanes")

// laneGrant takes one end of a lane, and says whether it can be used.
func (s *session) laneGrant(g *wire.LaneGrant) error {
	var err error
	switch {
	case !s.lanes:
		err = errNoLanes
	case g.Role == wire.LaneSender:
		err = s.grantOut(g)
	default:
		err = s.grantIn(g)
	}
	if errors.Is(err, wire.ErrProtocol) {
		return err
	}
	if err != nil {
		s.n.log.Warn("lane cannot be used", "peer", g.Peer, "role", g.Role.String(), "error", err)
		s.link.send(&wire.LaneReady{Lane: g.Lane, Text: err.Error()})
	}
	return nil
}

// mapLane maps what a grant names: the lane, this node's bell and the peer's.
func (e *estate) mapLane(g *wire.LaneGrant) (*lane.Memory, *peerBell, error) {
	if want := lane.Geometry(g.QueueSize).SlotBytes; want != g.SlotBytes {
		return nil, nil, fmt.Errorf("slot of %d bytes, a queue of %d messages needs %d", g.SlotBytes, g.QueueSize, want)
	}
	if err := e.useBell(g.BellRegion, g.BellName); err != nil {
		return nil, nil, err
	}
	bell, err := e.peer(g.PeerBellRegion, g.PeerBellName)
	if err != nil {
		return nil, nil, err
	}
	memory, err := lane.Map(g.Name, g.Lane, g.SlotBytes)
	if err == nil {
		if err = memory.Prefault(); err == nil {
			return memory, bell, nil
		}
		err = errors.Join(err, memory.Close())
	}
	bell.release()
	return nil, nil, err
}

func laneConfig(g *wire.LaneGrant) lane.Config {
	return lane.Config{Lane: g.Lane, QueueSize: g.QueueSize, Policy: g.Policy}
}

// grantOut maps the sending end. It is started when there is memory to send in.
func (s *session) grantOut(g *wire.LaneGrant) error {
	o := s.n.outputAt(s, wire.OutputIndex(g.Port))
	if o == nil {
		return wire.Errorf(wire.CodeProtocol, "lane_grant: output %d was not announced", g.Port)
	}
	e := s.estate
	if err := e.memory.laneFree(g); err != nil {
		return err
	}
	memory, bell, err := e.mapLane(g)
	if err != nil {
		return err
	}
	producer, err := lane.NewProducer(memory.Words(), laneConfig(g))
	if err != nil {
		bell.release()
		return errors.Join(err, memory.Close())
	}
	l := &laneOut{
		grant: *g, estate: e, output: o, bit: g.Bit, mask: 1 << g.Bit, block: g.Policy == wire.PolicyBlock,
		hold:   time.Duration(uint64(g.HoldTimeoutMS)+uint64(g.GraceMS)) * time.Millisecond,
		memory: memory, bell: bell, producer: producer,
	}
	e.memory.addLane(l)
	o.mu.Lock()
	o.granted = append(o.granted, l)
	o.mu.Unlock()
	s.startLanes()
	return nil
}

// laneFree checks that neither the lane nor its bit are in use.
func (m *memory) laneFree(g *wire.LaneGrant) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, l := range m.lanes {
		if id == g.Lane || l.bit == g.Bit {
			return wire.Errorf(wire.CodeProtocol, "lane_grant: lane %d with bit %d: lane %d with bit %d is not done yet",
				uint64(g.Lane), g.Bit, uint64(id), l.bit)
		}
	}
	return nil
}

func (m *memory) addLane(l *laneOut) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lanes[l.grant.Lane] = l
}

func (m *memory) lane(id wire.RegionID) *laneOut {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lanes[id]
}

func (m *memory) removeLane(l *laneOut) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.lanes, l.grant.Lane)
}

// takeLanes takes all lanes out.
func (m *memory) takeLanes() []*laneOut {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*laneOut, 0, len(m.lanes))
	for id, l := range m.lanes {
		all = append(all, l)
		delete(m.lanes, id)
	}
	return all
}

// startLanes starts the lanes that were granted, once the first region for small
// messages is there, or will not be.
func (s *session) startLanes() {
	outputs := s.n.boundTo(s)
	// Only for lanes that wait for it: under pressure the region is given back, and
	// must not be asked for again with every answer of the broker.
	waiting := false
	for _, o := range outputs {
		o.mu.Lock()
		waiting = waiting || len(o.granted) > 0
		o.mu.Unlock()
	}
	if !waiting || !s.estate.memory.prepareSmall() {
		return
	}
	for _, o := range outputs {
		o.mu.Lock()
		o.startLanes()
		o.unlockChanged()
	}
	s.tendSoon()
}

// startLanes tells the broker that what is published from here on goes to the
// granted lanes, and does so; with o.mu held. A message that is halfway published
// goes first.
func (o *Output) startLanes() {
	s := o.session
	if len(o.granted) == 0 || s == nil || o.half.active || o.closed != nil {
		return
	}
	for i, l := range o.granted {
		o.granted[i] = nil
		s.link.send(&wire.LaneReady{Lane: l.grant.Lane})
		if !s.link.send(&wire.LaneStart{Lane: l.grant.Lane}) {
			continue // the connection is gone, and the lane with it
		}
		m := l.estate.memory
		m.mu.Lock()
		l.since = m.serial
		m.mu.Unlock()
		l.state = laneStarted
		o.addLane(l)
	}
	o.granted = o.granted[:0]
}

// addLane and dropLane change the lanes that messages go to, with o.mu held.
func (o *Output) addLane(l *laneOut) {
	o.lanes = append(o.lanes, l)
	o.shortTold = false
	o.countLanes()
}

func (o *Output) dropLane(l *laneOut) {
	for i, other := range o.lanes {
		if other == l {
			o.lanes = append(o.lanes[:i], o.lanes[i+1:]...)
			o.countLanes()
			return
		}
	}
	for i, other := range o.granted {
		if other == l {
			o.granted = append(o.granted[:i], o.granted[i+1:]...)
			return
		}
	}
}

func (o *Output) countLanes() {
	blocks := false
	for _, l := range o.lanes {
		blocks = blocks || l.block
	}
	o.laneBlocks.Store(blocks)
}

// shut takes a lane that no push can succeed on out of use, with o.mu held.
// Messages wait until the broker has said what becomes of its edge: if that goes
// on through the broker, they have to carry the epoch which includes the receiver.
func (o *Output) shut(l *laneOut, corrupt bool) {
	o.dropLane(l)
	l.state = laneShut
	o.shutLanes++
	if l.block {
		o.shutBlocks++
	}
	if corrupt {
		l.producer.CloseByOwner()
		l.estate.reportFault(wire.LaneFault{Lane: l.grant.Lane, Reason: wire.DropBadDescriptor, Text: "the lane's memory is damaged"})
	}
}

// unshut undoes the counting of shut, with o.mu held.
func (o *Output) unshut(l *laneOut) {
	if l.state != laneShut {
		return
	}
	o.shutLanes--
	if l.block {
		o.shutBlocks--
	}
}

// laneClose is the broker's word that a lane has ended.
func (s *session) laneClose(m *wire.LaneClose) {
	if l := s.estate.memory.lane(m.Lane); l != nil {
		l.close(m)
		s.tendLanes(time.Now())
		s.tendSoon()
	}
	s.n.receiver.laneClose(s, m)
}

// laneFault is what the receiver of a lane that this node sends on could not read:
// it will not let go of that itself.
func (s *session) laneFault(m *wire.LaneFault) {
	memory := s.estate.memory
	if l := memory.lane(m.Lane); l != nil && m.Count > 0 && m.Count-1 == uint64(m.SeqLast-m.SeqFirst) {
		memory.clearRange(l, m.SeqFirst, m.SeqLast)
		s.tendSoon()
	}
}

func (l *laneOut) close(m *wire.LaneClose) {
	o, memory := l.output, l.estate.memory
	var withdrawn []victim
	o.mu.Lock()
	o.unshut(l)
	o.dropLane(l)
	l.state = laneOver
	if m.Withdrawn > 0 {
		count := m.Withdrawn
		l.producer.Since(m.From, func(cookie uint64) {
			if count > 0 {
				count--
				withdrawn = append(withdrawn, victim{wire.Token(cookie), l.bit})
			}
		})
	}
	o.finishHalf()
	o.unlockChanged()
	memory.evicted(withdrawn)
	if m.Settled {
		memory.clearAll(l)
	}
	memory.mu.Lock()
	l.closing = true
	memory.mu.Unlock()
}

// abandon ends a lane without the broker: its messages stay readable, and the
// receiver will find its end.
func (l *laneOut) abandon() {
	o := l.output
	o.mu.Lock()
	o.unshut(l)
	if l.state == laneStarted && l.block {
		// Its receiver has to come back before the output goes on.
		o.awayWaits = true
	}
	o.dropLane(l)
	l.state = laneOver
	l.producer.CloseByOwner()
	o.unlockChanged()
	l.bell.Ring()
	l.release()
}

// release unmaps the lane, which nobody can find any more: it is not among the
// lanes of its output, whose bells are rung.
func (l *laneOut) release() {
	l.bell.release()
	if err := l.memory.Close(); err != nil {
		l.estate.n.log.Warn("lane cannot be unmapped", "peer", l.grant.Peer, "error", err)
	}
}

const (
	// closingPause is the time between two looks whether the receivers of closed
	// lanes are done with the last messages.
	closingPause = 20 * time.Millisecond
	// The time between two looks at what a receiver holds: a quarter of what it may,
	// within these bounds.
	heldPauseMin = 50 * time.Millisecond
	heldPauseMax = 2500 * time.Millisecond
)
