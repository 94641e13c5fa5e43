package actors

import (
	"time"

	"github.com/brokerd/brokerd/shmpool/pool"
	"github.com/brokerd/brokerd/wire"
)

// statusRequest is somebody who waits for a Status: a control connection, or a
// caller in this process.
type statusRequest struct {
	session ConnID
	id      uint32
	reply   chan<- wire.Status // nil for a control connection; has room for one
}

// statusReady answers everybody who asked, now that the pool's sums are here.
func (c *core) statusReady(now time.Time, sums pool.Stats) {
	if len(c.statusFor) == 0 {
		return
	}
	status := c.status(now, sums)
	var body []byte // the same for everybody
	for _, r := range c.statusFor {
		if r.reply != nil {
			r.reply <- status
		} else if s := c.sessions[r.session]; s != nil {
			if body == nil {
				body = mustJSON(status)
			}
			s.unanswered--
			c.send(s, &wire.Reply{ID: r.id, Body: body})
		}
	}
	c.statusFor = c.statusFor[:0]
}

// status describes everything that the router knows.
func (c *core) status(now time.Time, sums pool.Stats) wire.Status {
	counters := c.counters
	counters.Drops, counters.Tokens = c.drops.total, c.holds.n
	if c.cfg.SessionCounters != nil {
		c.cfg.SessionCounters(&counters)
	}
	s := wire.Status{
		Version:       c.cfg.Version,
		Instance:      c.cfg.Instance,
		UptimeSeconds: now.Sub(c.started).Seconds(),
		Addr:          c.cfg.Addr,
		Connections:   len(c.sessions),
		Nodes:         []wire.NodeStatus{},
		Edges:         []wire.EdgeStatus{},
		Dataflows:     []wire.DataflowStatus{},
		Counters:      counters,
		Memory: wire.MemoryStatus{
			LimitBytes: sums.LimitBytes, UsedBytes: sums.UsedBytes, CachedBytes: sums.CachedBytes, RetiredBytes: sums.RetiredBytes,
			Regions: sums.Regions, CachedRegions: sums.CachedRegions, RetiredRegions: sums.RetiredRegions,
			CreatedTotal: sums.CreatedTotal, ReusedTotal: sums.ReusedTotal, UnlinkedTotal: sums.UnlinkedTotal,
		},
	}
	for _, name := range keys(c.flows) {
		f := c.flows[name]
		d := wire.DataflowStatus{Name: f.name, Source: f.origin(), Nodes: len(f.nodes)}
		for _, n := range f.sorted() {
			if n.sess != nil {
				d.Connected++
			}
			s.Nodes = append(s.Nodes, n.status(now))
			for _, e := range n.inputs {
				if !e.closed {
					d.Edges++
					s.Edges = append(s.Edges, c.edgeStatus(e))
				}
			}
		}
		s.Dataflows = append(s.Dataflows, d)
	}
	return s
}

func (n *node) status(now time.Time) wire.NodeStatus {
	st := wire.NodeStatus{Dataflow: n.flow.name, Node: n.id}
	if s := n.sess; s != nil {
		st.Connected, st.Local, st.LocalReason = true, s.local, s.remoteReason
		st.RemoteAddr, st.Client = s.conn.RemoteAddr(), s.client
		st.ConnectedSeconds = now.Sub(s.since).Seconds()
		st.Regions, st.RegionBytes = len(s.regions), s.regionBytes
		st.KeptBytes, st.KeptMessages = s.keeps.Bytes, s.keeps.Messages
		st.Stuck, st.StuckReason = s.keeps.Stuck, s.keeps.Text
	}
	for _, e := range n.inputs {
		st.HeldBytes += e.holds.bytes
		st.HeldMessages += e.holds.n
	}
	return st
}

func (c *core) edgeStatus(e *edge) wire.EdgeStatus {
	onLane := 0
	if l := e.lane; l != nil {
		c.count(l)
		onLane = int(l.books.queued())
	}
	p, why, _ := c.path(e)
	st := wire.EdgeStatus{
		Dataflow: e.flow.name, From: e.from, To: e.to,
		Policy: e.policy.String(), QueueSize: e.queueSize,
		Path: p.String(), PathReason: why,
		Queued: e.queue.len() + onLane, InFlight: e.out, Held: e.holds.n,
		Published: e.stats.published, Delivered: e.stats.delivered,
		Dropped: e.stats.dropped + e.stats.unlogged, NoReceiver: e.stats.noReceiver, Bytes: e.stats.bytes,
		Drops:        map[string]uint64{},
		LatencyP50MS: e.stats.latency.percentile(0.50),
		LatencyP99MS: e.stats.latency.percentile(0.99),
	}
	st.Evacuated, _ = e.evacuatedTotal()
	for r := range reasonCount {
		if total := e.dropTotal(wire.DropReason(r)); total > 0 {
			st.Drops[wire.DropReason(r).String()] = total
		}
	}
	if e.stats.unlogged > 0 {
		st.Drops[wire.DropQueueFull.String()] += e.stats.unlogged
	}
	return st
}
