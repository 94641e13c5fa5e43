package node

import (
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// tendLanes does what is due for the lanes that this node sends on, and returns
// when to come back.
func (s *session) tendLanes(now time.Time) time.Duration {
	m := s.estate.memory
	var done, live []*laneOut
	pause := trimPeriod
	if s.n.receiver.tendOrphans(now) {
		pause = orphanPause
	}
	m.mu.Lock()
	if m.link == nil { // nothing about lanes may be said yet
		m.mu.Unlock()
		return pause
	}
	if m.loseLeft(now) {
		pause = min(pause, orphanPause)
	}
	freed := m.poll(pollAll)
	// While nothing is lent nobody can hold it too long. If nothing was sent either
	// since the last look, the next message has the lanes tended again.
	m.resting = m.lent.first == nil && m.serial == m.tended
	m.tended = m.serial
	for id, l := range m.lanes {
		switch {
		case !l.closing:
			live = append(live, l)
			if l.hold > 0 && !m.resting {
				pause = min(pause, max(heldPauseMin, min(l.hold/4, heldPauseMax)))
			}
		case m.uses(l):
			pause = min(pause, closingPause)
		default:
			delete(m.lanes, id)
			done = append(done, l)
		}
	}
	m.unlock(freed > 0)
	for _, l := range done {
		l.release()
		s.link.send(&wire.LaneDone{Lane: l.grant.Lane})
	}
	for _, l := range live {
		if l.hold > 0 {
			l.reportHeld(now)
		}
	}
	return pause
}

// reportFault tells the broker what is wrong with a lane that
// this node sends on.
func (e *estate) reportFault(f wire.LaneFault) {
	m := e.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.link != nil {
		m.link.send(&f)
	}
}

// reportHeld tells the broker of messages that a receiver does not give back.
func (l *laneOut) reportHeld(now time.Time) {
	o, m := l.output, l.estate.memory
	o.mu.Lock()
	if l.state != laneStarted {
		o.mu.Unlock()
		return
	}
	room, verdict := l.producer.Room()
	first := wire.Seq(0)
	if verdict == lane.Pushed || verdict == lane.Full {
		queued := uint64(l.grant.QueueSize) - uint64(room)
		looked := false
		l.producer.Since(l.producer.Tail()-queued, func(cookie uint64) {
			if !looked {
				looked, first = true, m.seqOf(wire.Token(cookie))
			}
		})
	}
	o.mu.Unlock()
	m.reportHeld(l, now, first)
}
