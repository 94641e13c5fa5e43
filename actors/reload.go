package actors

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/wire"
)

// applyFlow makes the routes of a flow what def says. What def does not change
// is not touched: its queues, counts, tokens and windows live on.
func (c *core) applyFlow(now time.Time, def *dataflow.Flow, owner ConnID) {
	f := c.flows[def.Name]
	if f == nil {
		f = &flow{name: def.Name, nodes: make(map[string]*node)}
		c.flows[def.Name] = f
	}
	f.def, f.owner = def, owner
	changed := make(map[*node]bool)
	for _, id := range keys(f.nodes) {
		if _, ok := def.Node(id); !ok {
			c.removeNode(now, f.nodes[id])
		}
	}
	// All outputs first: inputs may come from nodes further down.
	for i := range def.Nodes {
		nd := &def.Nodes[i]
		n := f.nodes[nd.ID]
		if n == nil {
			c.lastOwner++
			n = &node{flow: f, id: nd.ID, owner: c.lastOwner}
			f.nodes[nd.ID] = n
		}
		if c.applyOutputs(now, n, nd) {
			changed[n] = true
		}
	}
	for i := range def.Nodes {
		nd := &def.Nodes[i]
		if c.applyInputs(now, f.nodes[nd.ID], nd) {
			changed[f.nodes[nd.ID]] = true
		}
	}
	c.attachNewPorts(now, f, changed)
	c.countBlocking()
	for _, n := range f.sorted() {
		for _, e := range n.inputs {
			c.offerLane(e)
		}
	}
}

// attachNewPorts tells the connected nodes among changed about their ports, and
// joins what was added to their sessions.
func (c *core) attachNewPorts(now time.Time, f *flow, changed map[*node]bool) {
	nodes := slices.DeleteFunc(f.sorted(), func(n *node) bool { return !changed[n] })
	for _, n := range nodes {
		switch s := n.sess; {
		case s == nil:
			n.dropClosedPorts()
		case max(len(n.outputs), len(n.inputs)) > wire.PortsMax:
			// Places of this session have run out; the next one starts anew.
			c.refuse(now, s, wire.Errorf(wire.CodeInternal, "the dataflow has changed its ports %d times; connect again", wire.PortsMax))
			n.dropClosedPorts()
		default:
			c.send(s, n.ports())
			for i := len(s.outputs); i < len(n.outputs); i++ {
				s.outputs = append(s.outputs, n.outputs[i])
			}
			for _, o := range n.outputs {
				if o.fresh {
					c.updateFlow(o, true)
				}
			}
		}
		for _, o := range n.outputs {
			o.fresh = false
		}
	}
	for _, n := range nodes {
		for i := 0; n.sess != nil && i < len(n.inputs); i++ {
			s, e := n.sess, n.inputs[i]
			switch {
			case i == len(s.inputs):
				s.inputs = append(s.inputs, e)
			case s.inputs[i] != e:
				s.inputs[i] = e
			default:
				continue
			}
			c.attachEdge(now, s, e, i)
		}
	}
}

func (c *core) applyOutputs(now time.Time, n *node, def *dataflow.Node) (changed bool) {
	for _, o := range n.outputs {
		if !o.closed && !def.HasOutput(o.id) {
			o.closed, changed = true, true
			c.closeOutput(now, o, "output removed from the dataflow")
		}
	}
	for _, id := range def.Outputs {
		if _, ok := n.output(id); !ok {
			n.addOutput(id)
			changed = true
		}
	}
	return changed
}

func (c *core) applyInputs(now time.Time, n *node, def *dataflow.Node) (changed bool) {
	for _, e := range n.inputs {
		if e.closed {
			continue
		}
		in, ok := def.Input(e.id)
		if ok && e.sameSource(in.Source) {
			if e.from != in.Source.Text || e.queueSize != in.QueueSize || e.policy != in.Policy || e.holdTimeout != in.HoldTimeout {
				changed = true
				c.reconfigure(now, e, *in)
			}
			continue
		}
		c.removeEdge(now, e)
		changed = true
	}
	for _, in := range def.Inputs {
		if _, ok := n.input(in.ID); ok {
			continue
		}
		e := newEdge(n.flow, n, in)
		n.addInput(e)
		changed = true
		if e.timer == nil {
			o, _ := n.flow.nodes[in.Source.Node].output(in.Source.Output)
			e.source = o
			o.edges = append(o.edges, e)
		}
	}
	return changed
}

// addOutput appends an output, or opens again what had the same id: an output
// keeps its place and its count of publishes.
func (n *node) addOutput(id string) {
	for _, o := range n.outputs {
		if o.id == id {
			o.closed, o.fresh = false, true
			return
		}
	}
	n.outputs = append(n.outputs, &output{
		node: n, id: id, index: wire.OutputIndex(len(n.outputs)), fresh: true, window: wire.WindowUnlimited,
	})
}

// addInput appends an input, or puts it where one of the same id was.
func (n *node) addInput(e *edge) {
	for i, old := range n.inputs {
		if old.id == e.id {
			n.inputs[i] = e
			return
		}
	}
	n.inputs = append(n.inputs, e)
}

func (e *edge) sameSource(s dataflow.Source) bool {
	if s.IsTimer() || e.timer != nil {
		return e.timer != nil && e.timer.period == s.Timer
	}
	return !e.source.closed && e.source.node.id == s.Node && e.source.id == s.Output
}

// reconfigure changes the settings of an edge that lives on.
func (c *core) reconfigure(now time.Time, e *edge, in dataflow.Input) {
	e.from = in.Source.Text
	blocked := e.policy == wire.PolicyBlock
	same := e.queueSize == in.QueueSize && e.policy == in.Policy && e.holdTimeout == in.HoldTimeout
	e.configure(in)
	e.most = max(e.most, e.queueSize)
	for e.policy != wire.PolicyBlock && !blocked && e.queue.len() > e.room() {
		c.drop(now, e, c.popQueue(e), wire.DropQueueFull)
	}
	if e.source == nil {
		return
	}
	if l := e.lane; l != nil && !same {
		c.closeLane(now, l, settingsChanged)
	}
	if !blocked && e.policy == wire.PolicyBlock && e.sess != nil {
		e.source.epoch++
		e.epoch = e.source.epoch
	}
	c.updateFlow(e.source, true)
}

// removeEdge ends an edge. What waits in it is dropped; what is held stays held.
func (c *core) removeEdge(now time.Time, e *edge) {
	e.closed = true
	l := e.lane
	if s := e.sess; s != nil {
		c.cancelClosing(e)
		c.detachEdge(now, s, e, wire.DropClosed)
		s.ready.remove(func(x *edge) bool { return x == e })
		c.cutRemoved(now, l)
		c.send(s, &wire.InputClosed{Input: e.index, Reason: "input removed from the dataflow"})
	}
	if e.source != nil {
		e.source.edges = slices.DeleteFunc(e.source.edges, func(x *edge) bool { return x == e })
		c.cutRemoved(now, l)
		c.updateFlow(e.source, true)
	}
	if e.holds.n > 0 {
		c.removed = append(c.removed, e)
	}
}

// removeNode ends a node: its process is asked to stop and its connection is
// closed.
func (c *core) removeNode(now time.Time, n *node) {
	for _, o := range n.outputs {
		o.closed = true
	}
	if s := n.sess; s != nil {
		c.send(s, &wire.Stop{Reason: "node removed from the dataflow"})
		c.refuse(now, s, wire.Errorf(wire.CodeUnknownNode, "node %q was removed from dataflow %q", n.id, n.flow.name))
	}
	for _, e := range n.inputs {
		if !e.closed {
			c.removeEdge(now, e)
		}
	}
	delete(n.flow.nodes, n.id)
}

func (c *core) removeFlow(now time.Time, f *flow) {
	for _, id := range keys(f.nodes) {
		c.removeNode(now, f.nodes[id])
	}
	delete(c.flows, f.name)
	c.countBlocking()
	c.journal.info("dataflow unloaded", zap.String("dataflow", f.name))
}

// reload makes the configuration's flows those of defs, and logs what has changed.
// Flows of control connections stay. An error changes nothing.
func (c *core) reload(now time.Time, defs []*dataflow.Flow) error {
	wanted := make(map[string]bool)
	for _, def := range defs {
		if old := c.flows[def.Name]; old != nil && !old.configured {
			return fmt.Errorf("dataflow %q was loaded %s; unload it first", def.Name, old.origin())
		}
		if wanted[def.Name] {
			return fmt.Errorf("two dataflows are called %q", def.Name)
		}
		wanted[def.Name] = true
	}
	for _, name := range keys(c.flows) {
		if f := c.flows[name]; f.configured && !wanted[name] {
			c.removeFlow(now, f)
		}
	}
	for _, def := range defs {
		old := c.flows[def.Name]
		var oldDef *dataflow.Flow
		if old != nil {
			oldDef = old.def
		}
		diff := dataflow.Diff(oldDef, def)
		if old != nil && diff.Empty() {
			continue
		}
		c.applyFlow(now, def, 0)
		c.flows[def.Name].configured = true
		if old == nil {
			c.journal.info("dataflow loaded", flowFields(def, "configuration")...)
		} else {
			c.journal.info("dataflow changed", zap.String("dataflow", def.Name), zap.Strings("changes", diff.Strings()))
		}
	}
	return nil
}

func flowFields(f *dataflow.Flow, by string) []zap.Field {
	return []zap.Field{
		zap.String("dataflow", f.Name), zap.String("file", f.File), zap.String("by", by),
		zap.Int("nodes", len(f.Nodes)), zap.Int("edges", len(f.Edges())),
	}
}
