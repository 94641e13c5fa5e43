package actors

import (
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// evacuationGraceMin and a quarter of the hold timeout is what a node that
// evacuates gets beyond that timeout, before what it holds counts as held too long.
// It looks at what it holds every eighth of the timeout, and then it has to copy.
const evacuationGraceMin = time.Second

// grace is the time that a receiver gets to evacuate what it has held for so long.
func (s *session) grace(hold time.Duration) time.Duration {
	if s == nil || !s.evacuates || hold == 0 {
		return 0
	}
	return evacuationGraceMin + hold/4
}

// evacuation counts what one receiver has moved out of shared memory, on one path.
type evacuation struct {
	count, bytes uint64 // since the broker started
	unlogged     evacuatedMessages
	holder       string
	sess         *session
	logged       time.Time
	listed       bool // in core.evacuations
}

// evacuatedMessages are some messages that were evacuated, and the oldest of them.
type evacuatedMessages struct {
	count, bytes uint64
	seq          wire.Seq
	region       wire.RegionID
	held         time.Duration
}

func (m *evacuatedMessages) add(more evacuatedMessages) {
	if m.count == 0 || more.held > m.held {
		m.seq, m.region, m.held = more.seq, more.region, more.held
	}
	m.count += more.count
	m.bytes += more.bytes
}

// pendingEvacuation is a count that has not been logged.
type pendingEvacuation struct {
	edge *edge
	path path
}

// evacuationMessage is the list of what a node may say of evacuation.
func (c *core) evacuationMessage(now time.Time, s *session, m wire.Message) (known bool, err *wire.Error) {
	switch m := m.(type) {
	case *wire.Evacuated:
		return true, c.evacuated(now, s, m)
	case *wire.Kept:
		c.kept(now, s, m)
		return true, nil
	}
	return false, nil
}

// evacuated is a receiver that has moved messages to memory of its own. Of those
// that came through the broker it gives the tokens back with that. Of those on
// lanes the ledgers say the same, and this is only for the counts.
func (c *core) evacuated(now time.Time, s *session, m *wire.Evacuated) *wire.Error {
	if int(m.Input) >= len(s.inputs) || s.inputs[m.Input].timer != nil {
		return wire.Errorf(wire.CodeNotYours, "evacuated on input %d, which no messages in shared memory come to", m.Input)
	}
	e := s.inputs[m.Input]
	if len(m.Tokens) > 0 {
		return c.evacuatedTokens(now, s, e, m.Tokens)
	}
	if !s.speaksLanes {
		return wire.Errorf(wire.CodeNotYours, "evacuated without tokens by a node without lanes")
	}
	if m.Bytes > uint64(m.Count)*shmpool.SlotBytesMax {
		return wire.Errorf(wire.CodeProtocol, "evacuated %d bytes in %d messages, which are larger than any slot", m.Bytes, m.Count)
	}
	c.countEvacuated(now, s, e, pathLane, evacuatedMessages{
		count: uint64(m.Count), bytes: m.Bytes, seq: m.Seq, region: m.Region,
		held: time.Duration(min(m.HeldMS, uint64(time.Duration(1<<63-1)/time.Millisecond))) * time.Millisecond,
	})
	return nil
}

// evacuatedTokens settles them like Done, but believes nothing: a node that
// evacuates gives each token back once. A token counts for the edge that its
// message came by. That may be another one than e: a reload that gives an input
// another source puts a new edge in the place of the one before.
func (c *core) evacuatedTokens(now time.Time, s *session, e *edge, tokens []wire.Token) *wire.Error {
	var sum evacuatedMessages
	of := e // whose sum it is
	for _, token := range tokens {
		i, ok := c.holds.find(token)
		if !ok || c.holds.holds[i].session != s || c.holds.holds[i].edge.id != e.id {
			return wire.Errorf(wire.CodeNotYours, "evacuated token %d, which this node does not hold of input %q", token, e.id)
		}
		h := &c.holds.holds[i]
		if h.edge != of && sum.count > 0 {
			c.countEvacuated(now, s, of, pathBrokered, sum)
			sum = evacuatedMessages{}
		}
		of = h.edge
		sum.add(evacuatedMessages{
			count: 1, bytes: h.message.length, seq: h.message.seq, region: h.message.region.id, held: now.Sub(h.since),
		})
		c.unref(c.holds.remove(i))
	}
	c.countEvacuated(now, s, of, pathBrokered, sum)
	if s.ready.len() > 0 {
		c.touch(s) // it may have waited for this
	}
	return nil
}

func (c *core) countEvacuated(now time.Time, s *session, e *edge, p path, sum evacuatedMessages) {
	v := &e.evacuations[p]
	v.count += sum.count
	v.bytes += sum.bytes
	v.unlogged.add(sum)
	v.holder, v.sess = s.label(), s
	c.counters.EvacuatedMessages += sum.count
	c.counters.EvacuatedBytes += sum.bytes
	if !v.listed {
		v.listed = true
		c.evacuations = append(c.evacuations, pendingEvacuation{e, p})
	}
	c.logEvacuated(now, false)
}

// logEvacuated writes what was evacuated since the last line of an edge, at most a
// line a second for each, so that the counts in the log add up.
func (c *core) logEvacuated(now time.Time, all bool) {
	kept := c.evacuations[:0]
	for _, p := range c.evacuations {
		e := p.edge
		v := &e.evacuations[p.path]
		if !all && now.Sub(v.logged) < holdLogInterval {
			kept = append(kept, p)
			continue
		}
		c.journal.warn("message evacuated",
			zap.String("dataflow", e.flow.name), zap.String("from", e.from), zap.String("to", e.to), zap.String("holder", v.holder),
			zap.Uint64("count", v.unlogged.count), zap.Uint64("total", v.count), zap.Uint64("bytes", v.unlogged.bytes),
			zap.Uint64("seq", uint64(v.unlogged.seq)), zap.Float64("held_ms", float64(v.unlogged.held)/float64(time.Millisecond)),
			zap.Float64("hold_timeout_ms", float64(e.holdTimeout)/float64(time.Millisecond)),
			zap.Uint64("region", uint64(v.unlogged.region)), zap.String("path", p.path.String()),
			zap.Uint64("kept_messages", v.sess.keeps.Messages), zap.Uint64("kept_bytes", v.sess.keeps.Bytes),
			zap.Uint64("held_max", c.cfg.HeldBytesMax))
		v.unlogged, v.logged, v.listed, v.sess = evacuatedMessages{}, now, false, nil
	}
	clear(c.evacuations[len(kept):])
	c.evacuations = kept
}

// stuckLogInterval is the least time between two lines about a node that cannot
// evacuate.
const stuckLogInterval = 10 * time.Second

// kept takes a node's word of what it keeps.
func (c *core) kept(now time.Time, s *session, m *wire.Kept) {
	before := s.keeps
	s.keeps = *m
	if m.Stuck == 0 || before.Stuck > 0 && now.Sub(s.stuckLogged) < stuckLogInterval || now.Sub(s.stuckLogged) < holdLogInterval {
		return
	}
	s.stuckLogged = now
	c.journal.warn("message cannot be evacuated", zap.String("dataflow", s.node.flow.name), zap.String("node", s.node.id),
		zap.Uint64("stuck", m.Stuck), zap.String("why", m.Text),
		zap.Uint64("kept_messages", m.Messages), zap.Uint64("kept_bytes", m.Bytes), zap.Uint64("held_max", c.cfg.HeldBytesMax))
}

// evacuatedTotal is what was evacuated of an edge, on all paths.
func (e *edge) evacuatedTotal() (count, bytes uint64) {
	for p := range e.evacuations {
		count += e.evacuations[p].count
		bytes += e.evacuations[p].bytes
	}
	return count, bytes
}
