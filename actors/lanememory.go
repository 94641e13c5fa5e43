package actors

import (
	"errors"
	"slices"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// bell is what a node is woken with.
type bell struct {
	region wire.RegionID // 0: none yet
	name   string
	asked  bool // of the pool
}

// poolAsk is who gets the memory that the pool was asked for.
type poolAsk struct {
	lane  *edgeLane
	bell  *session
	adopt *adoptPart
}

// deniedRetry is how long an edge stays with the broker before memory for its
// lane is asked for again.
const deniedRetry = 10 * time.Second

// errLaneMemory is memory that was cut short as soon as it was made.
var errLaneMemory = errors.New("memory is not as long as it was made")

// askMemory asks the pool for a region of one slot that the broker maps, too.
func (c *core) askMemory(s *session, g shmpool.Geometry, who poolAsk) {
	c.lastTag++
	c.asked[c.lastTag] = who
	c.poolOut = append(c.poolOut, poolRequest{kind: poolLane, session: s.id, owner: s.node.owner, tag: c.lastTag, geometry: g})
}

func (c *core) askBell(s *session) {
	if !s.bell.asked {
		s.bell.asked = true
		c.askMemory(s, shmpool.Geometry{SlotBytes: lane.BellSlotBytes, Slots: 1}, poolAsk{bell: s})
	}
}

// memoryGranted takes the pool's answer to askMemory.
func (c *core) memoryGranted(now time.Time, rep *poolReply) {
	who := c.asked[rep.tag]
	delete(c.asked, rep.tag)
	switch {
	case who.bell != nil:
		c.bellGranted(now, who.bell, rep)
	case who.lane.stage != laneAsked:
		if rep.err == nil { // nobody wants it any more
			c.poolOut = append(c.poolOut, poolRequest{kind: poolReturn, region: rep.region})
		}
	case rep.err != nil:
		c.denyLane(now, who.lane, rep.err)
	case lane.Init(rep.words, lane.Config{Lane: rep.region, QueueSize: who.lane.cfg.QueueSize, Policy: who.lane.cfg.Policy}) != nil:
		c.poolOut = append(c.poolOut, poolRequest{kind: poolDiscard, region: rep.region})
		c.denyLane(now, who.lane, errLaneMemory)
	default:
		l := who.lane
		l.cfg.Lane, l.name = rep.region, rep.name
		l.keeper = lane.NewKeeper(rep.words, l.cfg, nil)
		c.keep(l)
		c.offerReceiver(l)
	}
}

func (c *core) bellGranted(now time.Time, s *session, rep *poolReply) {
	switch {
	case rep.err != nil:
		s.bell.asked = false
		for _, l := range slices.Clone(s.lanes) {
			if l.stage == laneAsked {
				c.denyLane(now, l, rep.err)
			}
		}
	case !s.joined():
		c.poolOut = append(c.poolOut, poolRequest{kind: poolReturn, region: rep.region})
	default:
		clear(rep.words)
		s.bell.region, s.bell.name = rep.region, rep.name
		for _, l := range slices.Clone(s.lanes) {
			c.offerReceiver(l)
		}
	}
}

// denyLane leaves an edge with the broker for want of memory.
func (c *core) denyLane(now time.Time, l *edgeLane, err error) {
	e := l.edge
	e.denied = "memory for the lane denied: " + err.Error()
	c.retryAt = now.Add(deniedRetry)
	c.abandon(now, l)
	c.tellPath(e)
}

// retryDenied asks again for what there was no memory for.
func (c *core) retryDenied(now time.Time) {
	if c.retryAt.IsZero() || now.Before(c.retryAt) {
		return
	}
	c.retryAt = time.Time{}
	c.eachEdge(func(e *edge) {
		if e.denied != "" {
			e.denied = ""
			c.offerLane(e)
		}
	})
}

// abandon forgets a lane that no node has heard of.
func (c *core) abandon(now time.Time, l *edgeLane) {
	l.stage = laneDrained
	if l.edge.lane == l {
		l.edge.lane = nil
	}
	c.reclaimRead(l)
	c.endLane(now, l)
}
