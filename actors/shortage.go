package actors

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/wire"
)

// An output that gets no shared memory may send its messages inside frames, if the
// broker was told to allow that. As long as it does, all of its messages go through
// the broker, which keeps their order; its edges get no lanes.

// shortagePause is for how long no message of an output may have come inline until
// the output gets lanes again. If it is short of memory again as soon, that is
// doubled, up to shortagePauseMax: lanes are not to come and go for ever.
const (
	shortagePause    = 10 * time.Second
	shortagePauseMax = 5 * time.Minute
)

// shortageReason is why an edge of such an output has no lane.
const shortageReason = "no shared memory; fall-back inline"

// shortage is what is known of an output's want of memory.
type shortage struct {
	since time.Time // zero: it has none
	until time.Time // it is over then, unless a message comes
	over  time.Time // when the one before was
	pause time.Duration
	count uint64 // messages since it began

	// Not logged yet.
	unlogged, bytes uint64
	logged          time.Time
}

func (h *shortage) active() bool { return !h.since.IsZero() }

// shortageTold is a sender that has to send inline, on an output that has lanes.
func (c *core) shortageTold(now time.Time, s *session, m *wire.Shortage) *wire.Error {
	if uint64(m.Output) >= uint64(len(s.outputs)) {
		return wire.Errorf(wire.CodeNotYours, "shortage of output %d; the node has %d outputs", m.Output, len(s.outputs))
	}
	if !s.local || s.adopting != nil {
		return wire.Errorf(wire.CodeWrongState, "shortage of a node that is not local, or before adopted")
	}
	o := s.outputs[m.Output]
	// Before the windows are told: such messages will wait in the broker's own heap.
	o.largest = max(o.largest, min(m.Bytes, c.cfg.FrameBytesMax))
	c.short(now, o)
	return nil
}

// inlined is a message that has come inline because there was no memory for it.
func (c *core) inlined(now time.Time, o *output, bytes uint64) {
	c.counters.InlineFallbackMessages++
	c.counters.InlineFallbackBytes += bytes
	c.short(now, o)
	h := &o.shortage
	h.count++
	h.unlogged++
	h.bytes += bytes
	if now.Sub(h.logged) >= holdLogInterval {
		c.logShortage(now, o)
	}
}

// short notes that an output is short of memory now, and has it go through the
// broker altogether.
func (c *core) short(now time.Time, o *output) {
	h := &o.shortage
	if !h.active() {
		if h.over.IsZero() || now.Sub(h.over) > h.pause {
			h.pause = shortagePause
		} else {
			h.pause = min(2*h.pause, shortagePauseMax)
		}
		h.since, h.count = now, 0
		c.shortages = append(c.shortages, o)
		for _, e := range o.edges {
			if l := e.lane; l != nil {
				c.closeLane(now, l, shortageReason)
			}
			c.tellPath(e)
		}
	}
	h.until = now.Add(h.pause)
}

func (c *core) logShortage(now time.Time, o *output) {
	h := &o.shortage
	c.journal.warn("messages travel inline for want of shared memory",
		zap.String("dataflow", o.node.flow.name), zap.String("from", o.node.id+"/"+o.id),
		zap.Uint64("count", h.unlogged), zap.Uint64("total", h.count), zap.Uint64("bytes", h.bytes),
		zap.String("cause", o.node.deniedText))
	h.unlogged, h.bytes, h.logged = 0, 0, now
}

// checkShortages logs what has gathered, and ends those of which nothing has come
// for long.
func (c *core) checkShortages(now time.Time) {
	if len(c.shortages) == 0 {
		return
	}
	for _, o := range slices.Clone(c.shortages) {
		h := &o.shortage
		if h.unlogged > 0 && now.Sub(h.logged) >= holdLogInterval {
			c.logShortage(now, o)
		}
		if !now.Before(h.until) {
			c.endShortage(now, o, false)
			c.offerLanes(o)
		}
	}
}

// endShortage ends it; with gone set because its sender is gone.
func (c *core) endShortage(now time.Time, o *output, gone bool) {
	h := &o.shortage
	if !h.active() {
		return
	}
	if h.unlogged > 0 {
		c.logShortage(now, o)
	}
	if !gone {
		c.journal.info("messages need not travel inline any more",
			zap.String("dataflow", o.node.flow.name), zap.String("from", o.node.id+"/"+o.id),
			zap.Uint64("total", h.count), zap.Float64("after_s", now.Sub(h.since).Seconds()))
	}
	*h = shortage{over: now, pause: h.pause, logged: h.logged}
	c.shortages = slices.DeleteFunc(c.shortages, func(x *output) bool { return x == o })
}
