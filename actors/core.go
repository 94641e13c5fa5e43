package actors

import (
	"errors"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/shmpool/pool"
	"github.com/brokerd/brokerd/wire"
)

// core is the router without its goroutine: all routes, tokens, queues and
// leases, changed by one event at a time. It knows no channel and no clock;
// time enters as an argument. What it wants done leaves through Conn (frames),
// poolOut (requests to the pool actor) and journal (log lines).
type core struct {
	cfg     RouterConfig
	probe   Probe
	live    Liveness
	journal journal

	enc       *wire.Encoder
	flows     map[string]*flow
	sessions  map[ConnID]*session
	orphans   []*session // left, but the process may still read what it holds
	orphanAt  time.Time  // when to look at the first of them; zero: there are none
	lastOwner pool.OwnerID
	regions   map[wire.RegionID]*region
	holds     holdTable
	removed   []*edge // by reloads, that messages of are held
	drops     dropLedger
	queued    uint64 // inline bytes in the queues of all edges
	filled    uint64 // edges that have some
	blocking  uint64 // edges whose receivers hold their senders back
	lanes     map[wire.RegionID]*edgeLane
	laneList  []*edgeLane // the same, in the order in which they were made
	asked     map[uint64]poolAsk
	lastTag   uint64
	claims    map[wire.RegionID]*adoptPart // what the pool is taking over
	// Of brokers that died: see RouterDeps. brought are the sessions that have
	// brought something, also those that have left.
	dead       []string
	deadGone   bool
	brought    []*session
	broughtMax int       // how many there may be before it is looked who has ended
	retryAt    time.Time // when to ask again for denied memory; zero: none was
	timers     timerHeap
	stock      stock
	dirty      []*session
	windows    []*output // whose window may have grown since the last flush
	poolOut    []poolRequest
	parseOut   []parseRequest
	statusFor  []statusRequest // waiting for the pool's sums
	counters   wire.Counters
	started    time.Time
	idle       bool      // no message since the last tick
	active     time.Time // the last tick with a message before it
	rotated    time.Time // when the latencies were
	draining   bool
	// lanesActive says that a lane was in use at the last tick.
	lanesActive bool
	evacuations []pendingEvacuation // not logged yet
	shortages   []*output           // that send inline for want of memory

	scratch struct { // reused by the hot paths
		input wire.Input
		done  wire.Done
		flow  wire.Flow
	}
}

func newCore(cfg RouterConfig, probe Probe, live Liveness, j journal) *core {
	return &core{
		cfg:      cfg,
		probe:    probe,
		live:     live,
		journal:  j,
		enc:      wire.NewEncoder(),
		flows:    make(map[string]*flow),
		sessions: make(map[ConnID]*session),
		regions:  make(map[wire.RegionID]*region),
		lanes:    make(map[wire.RegionID]*edgeLane),
		asked:    make(map[uint64]poolAsk),
		claims:   make(map[wire.RegionID]*adoptPart),
	}
}

// connEvent applies one event of a connection.
func (c *core) connEvent(now time.Time, ev *ConnEvent) {
	switch ev.Type {
	case ConnOpened:
		c.sessions[ev.ID] = &session{
			id: ev.ID, conn: ev.Conn, since: now,
			regions: make(map[wire.RegionID]*region),
			opened:  make(map[*region]wire.RegionID),
			blind:   make(map[*region]struct{}),
		}
	case ConnMessages:
		if s := c.sessions[ev.ID]; s != nil {
			c.batch(now, s, ev.Batch)
		}
		ev.Batch.Free()
	case ConnClosed:
		if s := c.sessions[ev.ID]; s != nil {
			c.leave(now, s, ev.Err)
		}
	}
}

// batch applies what one read of a socket brought. A message that breaks the
// rules ends the connection and the batch.
func (c *core) batch(now time.Time, s *session, b *Batch) {
	c.idle = false
	for i := range b.messages {
		if s.state == sessionLeft {
			return
		}
		if err := c.message(now, s, &b.messages[i]); err != nil {
			c.counters.ProtocolErrors++
			c.refuse(now, s, err)
			return
		}
	}
}

func (c *core) message(now time.Time, s *session, m *NodeMessage) *wire.Error {
	if bye, ok := m.Other.(*wire.Bye); ok && s.state != sessionOpened {
		c.bye(s, bye)
		return nil
	}
	switch s.state {
	case sessionJoined:
		return c.nodeMessage(now, s, m)
	case sessionControl:
		return c.controlMessage(now, s, m)
	case sessionOpened:
		if hello, ok := m.Other.(*wire.Hello); ok {
			return c.hello(now, s, hello)
		}
		return wire.Errorf(wire.CodeWrongState, "%v before hello; the first message of a connection is hello", m.Kind)
	case sessionGreeted:
		if attach, ok := m.Other.(*wire.Attach); ok {
			return c.attach(now, s, attach)
		}
		return wire.Errorf(wire.CodeWrongState, "%v before attach; answer welcome with attach", m.Kind)
	}
	return nil
}

// nodeMessage is the one list of what a joined node may say.
func (c *core) nodeMessage(now time.Time, s *session, m *NodeMessage) *wire.Error {
	switch m.Kind {
	case wire.KindPublish:
		return c.publish(now, s, &m.Publish, m.Owned)
	case wire.KindNext:
		return c.next(now, s, &m.Next)
	case wire.KindDone:
		c.settle(s, m.Done.Tokens)
		return nil
	}
	switch other := m.Other.(type) {
	case *wire.RegionRequest:
		return c.regionRequest(s, other)
	case *wire.RegionReturn:
		return c.regionReturn(s, other)
	case *wire.SendFailed:
		return c.sendFailed(now, s, other)
	case *wire.Reject:
		return c.reject(now, s, other)
	case *wire.OutputClose:
		return c.outputClose(now, s, other)
	}
	if s.speaksLanes && c.cfg.Lanes {
		if known, err := c.laneMessage(now, s, m.Other); known {
			return err
		}
	}
	if short, ok := m.Other.(*wire.Shortage); ok && s.inlines {
		return c.shortageTold(now, s, short)
	}
	if s.evacuates {
		if known, err := c.evacuationMessage(now, s, m.Other); known {
			return err
		}
	}
	return wire.Errorf(wire.CodeWrongState, "%v is not for a joined node to send", m.Kind)
}

// laneMessage is the list of what a node may say of lanes.
func (c *core) laneMessage(now time.Time, s *session, m wire.Message) (known bool, err *wire.Error) {
	switch m := m.(type) {
	case *wire.LaneReady:
		return true, c.laneReady(now, s, m)
	case *wire.LaneStart:
		return true, c.laneStart(s, m)
	case *wire.LaneDone:
		return true, c.laneDone(now, s, m)
	case *wire.LaneFault:
		return true, c.laneFault(now, s, m)
	case *wire.LaneHeld:
		return true, c.laneHeld(now, s, m)
	case *wire.Adopt:
		return true, c.adopt(now, s, m)
	}
	return false, nil
}

// bye ends our side of the stream. The session leaves when the peer has ended
// its own: until then it may still be reading.
func (c *core) bye(s *session, m *wire.Bye) {
	if s.leaving = m.Reason; s.leaving == "" {
		s.leaving = "left"
	}
	s.conn.Close()
}

// refuse tells the peer why, closes the connection and forgets the session.
func (c *core) refuse(now time.Time, s *session, err *wire.Error) {
	s.out = c.enc.Append(s.out, err)
	s.conn.Send(s.out)
	s.out = nil
	s.conn.Close()
	c.leave(now, s, err)
}

// touch lists s for the next flush.
func (c *core) touch(s *session) {
	if !s.dirty {
		s.dirty = true
		c.dirty = append(c.dirty, s)
	}
}

// send appends a message to what s gets at the next flush.
func (c *core) send(s *session, m wire.Message) {
	s.out = c.enc.Append(s.out, m)
	c.touch(s)
}

// outBytesKept is how large a connection's empty buffer may stay.
const outBytesKept = 256 << 10

// flush delivers what can be delivered and sends what has gathered, one write a
// connection. The shell calls it when it has no more events at hand, which is
// what bundles messages under load and costs nothing without it.
func (c *core) flush(now time.Time) {
	// Delivering makes room, which widens windows, which are told to senders.
	for len(c.dirty) > 0 || len(c.windows) > 0 {
		for _, o := range c.windows {
			o.touched = false
			c.updateFlow(o, false)
		}
		clear(c.windows)
		c.windows = c.windows[:0]
		c.flushDirty(now)
	}
	c.drops.emit(now, false, c.writeDrop)
}

func (c *core) flushDirty(now time.Time) {
	// Delivering may settle messages and so make further sessions dirty; those
	// are appended and served in the same pass.
	for i := 0; i < len(c.dirty); i++ {
		s := c.dirty[i]
		s.dirty = false
		if s.state == sessionLeft {
			continue
		}
		if s.joined() {
			c.deliver(now, s)
		}
		c.sendDone(s)
		if len(s.out) > 0 {
			s.conn.Send(s.out)
			if s.out = s.out[:0]; cap(s.out) > outBytesKept {
				s.out = nil
			}
		}
	}
	clear(c.dirty)
	c.dirty = c.dirty[:0]
}

// sendDone tells a sender which of its messages are settled.
func (c *core) sendDone(s *session) {
	for rest := s.done; len(rest) > 0; {
		n := min(len(rest), wire.TokensMax)
		c.scratch.done.Tokens = rest[:n]
		s.out = c.enc.Append(s.out, &c.scratch.done)
		rest = rest[n:]
	}
	if s.done = s.done[:0]; cap(s.done) > wire.TokensMax {
		s.done = nil
	}
}

// writeDrop hands one drop record to the log and to those who follow drops.
func (c *core) writeDrop(rec wire.DropRecord, written func()) bool {
	if !c.journal.drop(rec, written) {
		return false
	}
	c.streamDrop(rec)
	return true
}

// tickInterval is how often the core looks at deadlines.
const tickInterval = 100 * time.Millisecond

const (
	// idleAfter so long without any message the stock of buffers is given back.
	idleAfter = 10 * time.Second
	// rotateInterval is half of the time that latency percentiles speak of.
	rotateInterval = 5 * time.Second
)

// tick looks at what changes with time alone, every tickInterval while there is
// anything to look at.
func (c *core) tick(now time.Time) {
	c.checkHolds(now)
	c.checkOrphans(now)
	c.checkLanes(now)
	c.checkShortages(now)
	c.logEvacuated(now, false)
	if c.idle && now.Sub(c.active) >= idleAfter {
		c.stock.trim()
	}
	if !c.idle {
		c.idle, c.active = true, now
	}
	if now.Sub(c.rotated) >= rotateInterval {
		c.rotated = now
		for _, f := range c.flows {
			for _, nd := range f.nodes {
				for _, e := range nd.inputs {
					e.stats.latency.rotate()
				}
			}
		}
	}
}

// busy reports whether there is anything that ticks have to look at soon.
func (c *core) busy() bool {
	return c.holds.n > 0 || len(c.drops.pending) > 0 || len(c.evacuations) > 0 || c.lanesActive
}

// leftReason puts the end of a connection in words.
func leftReason(s *session, err error) string {
	var refused *wire.Error
	switch {
	case s.leaving != "":
		return s.leaving
	case errors.As(err, &refused):
		return refused.Code.String()
	case err != nil:
		return err.Error()
	}
	return "connection closed"
}

func (c *core) logNode(s *session, msg string, fields ...zap.Field) {
	c.journal.info(msg, append([]zap.Field{
		zap.String("dataflow", s.node.flow.name),
		zap.String("node", s.node.id),
		zap.Uint64("session", uint64(s.id)),
		zap.String("remote_addr", s.conn.RemoteAddr()),
	}, fields...)...)
}

// drain asks every node to end and lets nobody in any more.
func (c *core) drain() {
	c.draining = true
	for _, f := range c.flows {
		for _, n := range f.nodes {
			if n.sess != nil {
				c.send(n.sess, &wire.Stop{Reason: "broker is stopping"})
			}
		}
	}
}

// drained reports whether no node is left.
func (c *core) drained() bool {
	for _, s := range c.sessions {
		if s.joined() {
			return false
		}
	}
	return true
}

// stop ends every connection; what still waits is dropped and logged.
func (c *core) stop(now time.Time) {
	c.draining = true
	c.flush(now)
	for _, id := range slices.Sorted(maps.Keys(c.sessions)) {
		s := c.sessions[id]
		if s == nil {
			continue // a node of a dataflow that went with its control connection
		}
		c.refuse(now, s, wire.Errorf(wire.CodeShuttingDown, "the broker has stopped"))
	}
	c.flush(now)
	c.logEvacuated(now, true)
	// The last records may wait for the log: nobody waits for the router any more.
	c.drops.emit(now, true, c.journal.dropAtLast)
}
