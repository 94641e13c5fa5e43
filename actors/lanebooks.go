package actors

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// path is how a message travels.
type path uint8

const (
	pathBrokered path = iota // its descriptor passes the router
	pathLane                 // from process to process
	pathCount
)

func (p path) String() string {
	if p == pathLane {
		return "lane"
	}
	return "brokered"
}

// laneBooks is what the router has entered of a lane's counters into the counts
// of its edge: published = delivered + dropped + unlogged + what is on the lane.
type laneBooks struct {
	seen      lane.Counters // at the last look
	published uint64
	taken     uint64
	gone      uint64 // evicted, refused or withdrawn
	logged    uint64 // of those, entered as drops
	spoilt    bool   // the counters say what they cannot: nothing more is read of them
	active    bool   // changed at the last look
}

// queued is what is on the lane.
func (b *laneBooks) queued() uint64 { return b.published - b.taken - b.gone }

// errReopened is a lane whose closed bit somebody has taken back.
var errReopened = errors.New("closed lane was opened again")

// count enters what a lane's counters have grown by.
func (c *core) count(l *edgeLane) {
	b := &l.books
	b.active = false
	if b.spoilt || l.keeper == nil || l.stage == laneDrained { // then the counts are final
		return
	}
	n, err := l.keeper.Counters()
	was := b.seen
	if err == nil && (n.Pushed < was.Pushed || n.Taken < was.Taken || n.Evicted < was.Evicted || n.Refused < was.Refused) {
		err = lane.ErrCorrupt
	}
	if err == nil && l.stage == laneClosing && !n.Closed {
		err = errReopened
	}
	if err != nil {
		c.spoilt(l, err)
		return
	}
	if n == was {
		return
	}
	b.seen, b.active = n, true
	published := n.Pushed - was.Pushed + n.Refused - was.Refused
	taken := n.Taken - was.Taken
	gone := n.Evicted - was.Evicted + n.Refused - was.Refused
	b.published += published
	b.taken += taken
	b.gone += gone
	st := &l.edge.stats
	st.published += published
	st.delivered += taken
	st.unlogged += gone
}

// laneDrops enters messages that a lane's counters have as evicted or withdrawn.
// The lane's memory is told once the log has them.
func (c *core) laneDrops(l *edgeLane, reason wire.DropReason, d dropped) {
	if d.seqLast < d.seqFirst { // written by the sender, who may be damaged
		d.seqLast = d.seqFirst
	}
	b := &l.books
	if b.spoilt { // nothing is believed beyond what was seen before
		d.count = min(d.count, b.queued())
		b.gone += d.count
		l.edge.stats.unlogged += d.count
	}
	if d.count == 0 {
		return
	}
	b.logged += d.count
	if b.logged > b.gone {
		// From before this broker: the one that died had no time to log them.
		more := b.logged - b.gone
		l.edge.stats.published += more
		l.edge.stats.unlogged += more
		b.published += more
		b.gone += more
	}
	l.edge.stats.unlogged -= d.count
	d.sender = l.sender.sess.connID()
	c.drops.add(l.edge, pathLane, reason, d)
	c.drops.confirm(l.edge, reason, l.keeper, d.count)
}

// fullDrops enters what found the lane's queue full.
func (c *core) fullDrops(now time.Time, l *edgeLane, d lane.Drops) {
	c.laneDrops(l, wire.DropQueueFull, dropped{
		count: d.Count, bytes: d.Bytes, seqFirst: d.SeqFirst, seqLast: d.SeqLast, age: ageOf(now, d.OldestNS),
	})
}

// ageOf is the age of a message by its sender's clock, which may say anything;
// 0: nobody knows.
func ageOf(now time.Time, ns int64) time.Duration {
	if ns <= 0 {
		return 0
	}
	return max(0, time.Duration(now.UnixNano()-ns))
}

// settleBooks is called when nobody reads a lane any more.
func (c *core) settleBooks(l *edgeLane) {
	c.count(l)
	if n := l.books.queued(); n > 0 {
		// Counters that cannot be trusted: what became of them, nobody can tell.
		l.books.gone += n
		l.books.logged += n
		c.drops.add(l.edge, pathLane, wire.DropBadDescriptor, dropped{sender: l.sender.sess.connID(), count: n})
	}
}

// closeBooks is called when a lane ends: what is gone has been logged by then.
func (c *core) closeBooks(l *edgeLane) {
	if b := &l.books; b.gone > b.logged {
		c.drops.add(l.edge, pathLane, wire.DropQueueFull, dropped{sender: l.sender.sess.connID(), count: b.gone - b.logged})
		l.edge.stats.unlogged -= b.gone - b.logged
		b.logged = b.gone
	}
}

// checkLanes looks at the counters of all lanes.
func (c *core) checkLanes(now time.Time) {
	c.lanesActive = false
	for i := len(c.laneList) - 1; i >= 0; i-- { // closing one may end it
		if i >= len(c.laneList) {
			continue
		}
		l := c.laneList[i]
		c.count(l)
		active := l.books.active
		if !l.books.spoilt {
			c.lookForDrops(now, l)
		}
		c.lanesActive = c.lanesActive || active || l.books.gone > l.books.logged
		if l.books.spoilt {
			c.endSpoilt(now, l)
		}
		if now.Sub(l.overdue.logged) >= holdLogInterval {
			c.logHeld(now, l)
		}
		if !l.until.IsZero() && !now.Before(l.until) {
			c.halfAdopted(now, l)
		}
		c.settleAbandoned(l)
	}
	c.retryDenied(now)
}

// endSpoilt closes a lane whose counters cannot be trusted. Its receiver has until
// the next look to read what it can; nothing else waits for it.
func (c *core) endSpoilt(now time.Time, l *edgeLane) {
	if l.stage < laneClosing {
		c.closeLane(now, l, damaged)
	} else {
		c.cutLane(now, l, wire.DropBadDescriptor, l.reason)
		c.tellSender(l)
		c.tellReceiver(l)
		c.maybeEnd(now, l)
	}
}

func (c *core) lookForDrops(now time.Time, l *edgeLane) {
	d, ok, err := l.keeper.Drops()
	switch {
	case err != nil:
		c.spoilt(l, err)
	case ok:
		c.count(l) // at least what d has
		c.fullDrops(now, l, d)
	}
}

// path says how the edge's messages travel, why so, and whether that is more
// than a step on the way.
func (c *core) path(e *edge) (p path, why string, lasting bool) {
	switch l := e.lane; {
	case l == nil:
		if why = c.laneObstacle(e); why == "" {
			why = "lane is about to be set up"
		}
		return pathBrokered, why, why != adoptingReason
	case l.stage == laneFlowing && l.until.IsZero():
		return pathLane, "both ends local", true
	case l.stage == laneFlowing:
		return pathLane, "one end has not come back since the broker started", true
	case l.stage == laneClosing:
		return pathBrokered, "lane is closing: " + l.reason, true
	}
	return pathBrokered, "lane is being set up", false
}

// tellPath logs an edge's path if it is not what the log says of it.
func (c *core) tellPath(e *edge) {
	if !c.cfg.Lanes || e.timer != nil || e.closed {
		return
	}
	if e.sess == nil || e.source.node.sess == nil {
		return // that a node has left is in the log
	}
	p, why, lasting := c.path(e)
	if told := p.String() + " " + why; lasting && told != e.pathTold {
		e.pathTold = told
		c.journal.info("edge path", zap.String("dataflow", e.flow.name), zap.String("from", e.from),
			zap.String("to", e.to), zap.String("path", p.String()), zap.String("reason", why))
	}
}

// freshPath forgets why the edge had no lane: one of its nodes is another one.
func (e *edge) freshPath() { e.failed, e.denied, e.pathTold = "", "", "" }

// remoteReason says why an edge cannot do without the broker, whatever its nodes
// are able to; empty: it could.
func (e *edge) remoteReason() string {
	switch {
	case e.timer != nil:
		return "timer of the broker"
	case e.sess == nil:
		return "receiver not connected"
	case !e.sess.local:
		return "receiver is remote, payloads in the frame: " + e.sess.remoteReason
	case e.source.node.sess == nil:
		return "sender not connected"
	case !e.source.node.sess.local:
		return "sender is remote, payloads in the frame: " + e.source.node.sess.remoteReason
	}
	return ""
}
