package node

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// laneIn is the receiving end of a lane.
type laneIn struct {
	// Immutable.
	grant  wire.LaneGrant // but for the name, which the next broker changes; owned by the goroutine that reads
	estate *estate
	input  *input
	memory *lane.Memory
	bell   *peerBell // the sender's
	hold   time.Duration
	refs   atomic.Int32 // what uses the bell: the lane, its held messages, who rings

	// Guarded by receiver.mu.
	consumer *lane.Consumer
	state    laneInState
	closing  bool   // the broker has closed it: it waits for LaneDone
	behind   uint32 // messages to take until all are later than the last mark
	lost     uint64 // dropped since the last message that was handed out
	desc     lane.Descriptor
	parked   parking
	view     viewCheck
	fault    wire.LaneFault // not told yet
	faulty   bool           // told: the broker is about to close the lane

	// orphan: the broker that granted it is dead, and no other has adopted it. What
	// is in it is read, until its sender closes it, or nothing came for long.
	orphan      bool
	orphanUntil time.Time
}

type laneInState uint8

const (
	inGranted laneInState = iota
	inQueued              // started, behind what waits in the queue
	inActive              // in receiver.lanes
	inEnded               // read to its end
	inGone
)

// parking is a message that was taken off a lane before the region it lies in was
// announced: broker and sender are not one connection.
type parking struct {
	active  bool
	until   time.Time
	version uint64 // of the views that did not have the region
}

// viewCheck remembers that a region belongs to the lane's sender.
type viewCheck struct {
	region  wire.RegionID
	version uint64
	ledger  lane.Ledger
}

const (
	// parkMax is how long a message waits for the announcement of its region while
	// there is a broker to make it. A broker that was stopped for a moment just then
	// must not cost the lane; what comes on other lanes does not wait.
	parkMax = 4 * time.Second
	// parkAdoptedMax is the same after a broker has come that is to announce the regions
	// of all: their senders may come to it later, within its adopt_grace.
	parkAdoptedMax = staleSession
	// orphanMax is how long a lane without a broker is listened to.
	orphanMax = 30 * time.Second
	// orphanPause is the time between two looks at those: nothing rings for them.
	orphanPause = 50 * time.Millisecond
)

// receiverLanes is what the receiver knows of lanes. Guarded by receiver.mu.
type receiverLanes struct {
	granted map[wire.RegionID]*laneIn // all that are not gone
	active  []*laneIn
	turn    int  // in active
	first   bool // lanes are looked at before the queue
	orphans int
	online  bool          // there is a broker that knows these lanes
	park    time.Duration // parkMax; tests have less time
	since   time.Time     // it is there, and has adopted them
	// leftover is what lanes that are gone have lost behind their last message, by
	// input.
	leftover map[string]uint64
}

// aftermath is what has to be done after r.mu is given up.
type aftermath struct {
	ring  *laneIn
	tell  []func()
	drops []*estate
}

func (a *aftermath) due() bool { return a.ring != nil || a.tell != nil || a.drops != nil }

func (a *aftermath) run() {
	if l := a.ring; l != nil {
		l.bell.Ring()
		l.unref()
	}
	for _, tell := range a.tell {
		tell()
	}
	for _, e := range a.drops {
		e.drop()
	}
}

func (l *laneIn) unref() {
	if l.refs.Add(-1) == 0 {
		l.bell.release()
	}
}

// grantIn maps the receiving end.
func (s *session) grantIn(g *wire.LaneGrant) error {
	r := &s.n.receiver
	in := r.input(s, wire.InputIndex(g.Port))
	if in == nil {
		return wire.Errorf(wire.CodeProtocol, "lane_grant: input %d was not announced", g.Port)
	}
	r.mu.Lock()
	_, known := r.lanes.granted[g.Lane]
	r.mu.Unlock()
	if known {
		return wire.Errorf(wire.CodeProtocol, "lane_grant: lane %d is granted already", uint64(g.Lane))
	}
	memory, bell, err := s.estate.mapLane(g)
	if err != nil {
		return err
	}
	consumer, err := lane.NewConsumer(memory.Words(), laneConfig(g))
	if err != nil {
		bell.release()
		return errors.Join(err, memory.Close())
	}
	l := &laneIn{
		grant: *g, estate: s.estate, input: in, memory: memory, bell: bell, consumer: consumer,
		hold: time.Duration(g.HoldTimeoutMS) * time.Millisecond,
	}
	l.refs.Store(1)
	r.mu.Lock()
	if r.lanes.granted == nil {
		r.lanes.granted = make(map[wire.RegionID]*laneIn)
	}
	r.lanes.granted[g.Lane] = l
	r.mu.Unlock()
	s.link.send(&wire.LaneReady{Lane: g.Lane})
	return nil
}

// laneStart queues the start of a lane behind what came through the broker.
func (r *receiver) laneStart(m *wire.LaneStart) {
	r.mu.Lock()
	if l := r.lanes.granted[m.Lane]; l != nil && l.state == inGranted && r.closed == nil {
		l.lost += m.Dropped
		r.queueLane(l)
	}
	r.unlockLook()
}

func (r *receiver) queueLane(l *laneIn) {
	l.state = inQueued
	r.queue.push().lane = l
}

// activate begins to read a lane: what was queued before its start is read.
func (r *receiver) activate(l *laneIn) {
	if l.state == inQueued {
		l.state = inActive
		r.lanes.active = append(r.lanes.active, l)
	}
}

// laneClose notes that a lane will end. What is left in it is read first.
func (r *receiver) laneClose(s *session, m *wire.LaneClose) {
	var a aftermath
	r.mu.Lock()
	if l := r.lanes.granted[m.Lane]; l != nil && l.estate == s.estate {
		l.closing = true
		if l.parked.active {
			r.parkFor(l, time.Now()) // its sender may not come any more
		}
		if l.state == inGranted || l.state == inEnded {
			r.finishLane(l, &a)
		}
	}
	r.unlockLook()
	a.run()
}

// endLane takes a lane out of use that has nothing more to say.
func (r *receiver) endLane(l *laneIn, a *aftermath) {
	r.lanes.active = slices.DeleteFunc(r.lanes.active, func(other *laneIn) bool { return other == l })
	l.state = inEnded
	if l.closing || l.orphan {
		r.finishLane(l, a)
	}
}

// finishLane gives a lane up.
func (r *receiver) finishLane(l *laneIn, a *aftermath) {
	if l.state == inGone {
		return
	}
	l.state = inGone
	r.lanes.active = slices.DeleteFunc(r.lanes.active, func(other *laneIn) bool { return other == l })
	delete(r.lanes.granted, l.grant.Lane)
	if l.lost > 0 {
		if r.lanes.leftover == nil {
			r.lanes.leftover = make(map[string]uint64)
		}
		r.lanes.leftover[l.input.info.ID] += l.lost
	}
	r.tellFault(l)
	if l.orphan {
		r.lanes.orphans--
		a.drops = append(a.drops, l.estate)
	} else if l.closing && r.lanes.online {
		r.session.link.send(&wire.LaneDone{Lane: l.grant.Lane})
	}
	if err := l.memory.Close(); err != nil {
		a.tell = append(a.tell, func() {
			r.n.log.Warn("lane cannot be unmapped", "peer", l.grant.Peer, "error", err)
		})
	}
	l.unref()
}

// leaveLanes gives up the lanes of an estate that no broker has adopted. If the
// one that granted them is dead they are read to their end.
func (r *receiver) leaveLanes(e *estate, dead bool) {
	var a aftermath
	until := time.Now().Add(orphanMax)
	r.mu.Lock()
	for _, l := range r.lanes.granted {
		if l.estate != e {
			continue
		}
		if dead && r.closed == nil {
			r.makeOrphan(l, until)
		} else {
			r.finishLane(l, &a)
		}
	}
	r.unlockLook()
	a.run()
}

// makeOrphan keeps a lane that no broker knows until its sender closes it.
func (r *receiver) makeOrphan(l *laneIn, until time.Time) {
	l.estate.hold()
	l.orphan, l.orphanUntil = true, until
	r.lanes.orphans++
	l.fault, l.faulty = wire.LaneFault{}, false // nobody to tell
	if l.state == inGranted {
		r.queueLane(l)
	}
}

// setOnline says whether there is a broker that knows these lanes, with r.mu held,
// which is given up with unlockLook.
func (r *receiver) setOnline(online bool) {
	r.lanes.online = online
	r.n.sleeper.restful.Store(online)
}

// tendOrphans gives up orphans that nothing comes from, and has the others looked
// at. It reports whether there are any.
func (r *receiver) tendOrphans(now time.Time) bool {
	var a aftermath
	r.mu.Lock()
	if r.lanes.orphans == 0 {
		r.mu.Unlock()
		return false
	}
	for _, l := range r.lanes.granted {
		if l.orphan && now.After(l.orphanUntil) && !l.consumer.Ready() {
			r.finishLane(l, &a)
		}
	}
	r.unlockLook()
	a.run()
	return true
}

// nextOnLane returns the next message of the lanes, which take turns.
func (r *receiver) nextOnLane(a *aftermath) (Event, bool) {
	v := &r.lanes
	for tries := len(v.active); tries > 0 && len(v.active) > 0; tries-- {
		if v.turn >= len(v.active) {
			v.turn = 0
		}
		l := v.active[v.turn]
		ev, got := r.popLane(l, a)
		if v.turn < len(v.active) && v.active[v.turn] == l { // else it has ended
			v.turn++
		}
		if got {
			return ev, true
		}
	}
	return Event{}, false
}

// orphanFirst returns a message of an orphan lane whose input has messages of the
// new broker: those were sent later. By then all regions were announced that ever
// will be, so what waits for another one waits in vain.
func (r *receiver) orphanFirst(a *aftermath) (Event, bool) {
	head := r.queue.peek()
	if head.input == nil {
		return Event{}, false
	}
	for _, l := range slices.Clone(r.lanes.active) { // those that have ended leave it
		if !l.orphan || l.input.info.ID != head.input.info.ID {
			continue
		}
		for range l.grant.QueueSize + 1 {
			if ev, got := r.popLane(l, a); got {
				return ev, true
			}
			if !l.parked.active || !r.lanes.online {
				break
			}
			l.parked.until = time.Time{}
		}
	}
	return Event{}, false
}

// popLane takes the next message off one lane. Of those that cannot be read it takes
// no more at a time than the lane can have: a sender that goes on with nonsense must
// not keep this node from everything else.
func (r *receiver) popLane(l *laneIn, a *aftermath) (Event, bool) {
	for range l.grant.QueueSize + 1 {
		if !l.parked.active {
			if l.faulty && !l.closing && r.lanes.online {
				return Event{}, false // the broker is about to close it
			}
			verdict, dropped, ring := l.consumer.Pop(&l.desc)
			l.lost += dropped
			switch verdict {
			case lane.Got:
				l.behind -= min(l.behind, 1)
			case lane.Empty:
				l.behind = 0
				if l.closing {
					// The broker closes before it says so: the sender has taken that back.
					r.endLane(l, a)
				}
				return Event{}, false
			case lane.Ended:
				r.endLane(l, a)
				return Event{}, false
			default:
				r.tellFault(l)
				if l.fault.Count == 0 {
					l.fault = wire.LaneFault{Lane: l.grant.Lane, Reason: wire.DropBadDescriptor, Text: "the lane's memory is damaged"}
					r.tellFault(l)
				}
				r.endLane(l, a)
				return Event{}, false
			}
			switch {
			case !ring:
			case a.ring == nil:
				l.refs.Add(1)
				a.ring = l
			default: // another lane's sender is to be woken, too: rare enough to do it here
				l.bell.Ring()
			}
		}
		ev, err := r.takeLane(l)
		switch {
		case err == nil:
			l.parked = parking{}
			r.tellFault(l) // the next one is about later messages
			return ev, true
		case (errors.Is(err, shmpool.ErrUnknownRegion) || errors.Is(err, errStranger)) && r.park(l):
			// A region that changes hands keeps its id: that it is another's may be old news.
			return Event{}, false
		}
		l.parked = parking{}
		r.unreadable(l, err, a)
	}
	return Event{}, false
}

// park lets a message wait for its region, and returns false if it has waited
// long enough, or if the lane is known to carry nonsense.
func (r *receiver) park(l *laneIn) bool {
	if l.faulty {
		return false
	}
	now := time.Now()
	if !l.parked.active {
		l.parked.active = true
		r.parkFor(l, now)
	}
	l.parked.version = l.estate.viewsVersion()
	return !r.lanes.online || now.Before(l.parked.until)
}

// parkFor sets how long a parked message waits.
func (r *receiver) parkFor(l *laneIn, now time.Time) {
	until := now.Add(r.lanes.park)
	if adopted := r.lanes.since.Add(parkAdoptedMax); until.Before(adopted) && !l.closing {
		until = adopted
	}
	l.parked.until = until
	time.AfterFunc(until.Sub(now), r.look)
}

// unpark lets what is parked wait anew: a broker has come that may announce it.
func (r *receiver) unpark(now time.Time) {
	for _, l := range r.lanes.active {
		if l.parked.active {
			r.parkFor(l, now)
		}
	}
}

// unreadable counts a message that was taken and cannot be read.
func (r *receiver) unreadable(l *laneIn, cause error, a *aftermath) {
	d := &l.desc
	r.n.stats.rejected.Add(1)
	l.lost++
	l.estate.letGo(l)
	f := &l.fault
	if f.Count > 0 && d.Seq != f.SeqLast+1 {
		r.tellFault(l)
	}
	if f.Count == 0 {
		*f = wire.LaneFault{Lane: l.grant.Lane, Reason: wire.DropBadDescriptor, SeqFirst: d.Seq, Text: cause.Error()}
	}
	f.Count++
	f.Bytes += d.Length
	f.SeqFirst, f.SeqLast = min(f.SeqFirst, d.Seq), max(f.SeqLast, d.Seq)
	if !l.faulty {
		r.tellFault(l)
	}
	input, seq := l.input.info.ID, uint64(d.Seq)
	a.tell = append(a.tell, func() {
		r.n.log.Warn("message cannot be read", "input", input, "seq", seq, "error", cause)
	})
}

// tellFault reports what is wrong with a lane, if there is somebody to hear it.
func (r *receiver) tellFault(l *laneIn) {
	if l.fault.Lane == 0 || !r.lanes.online || l.orphan {
		return
	}
	if r.session.link.send(&l.fault) {
		l.fault, l.faulty = wire.LaneFault{}, true
	}
}

// readyLane reports whether there is something to do about a lane.
func (r *receiver) readyLane(l *laneIn) bool {
	switch {
	case l.parked.active:
		return l.estate.viewsVersion() != l.parked.version ||
			r.lanes.online && !time.Now().Before(l.parked.until)
	case l.faulty && !l.closing && r.lanes.online:
		return false
	}
	return l.closing || l.consumer.Ready()
}
