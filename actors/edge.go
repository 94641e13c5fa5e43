package actors

import (
	"time"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/shmpool/pool"
	"github.com/brokerd/brokerd/wire"
)

// flow is one loaded dataflow.
type flow struct {
	name       string
	def        *dataflow.Flow
	owner      ConnID // the control connection that it ends with; 0: none
	configured bool   // loaded by the configuration, and subject to its reloads
	nodes      map[string]*node
}

// node is one node of a flow, connected or not. Its ports keep their positions
// while a session lives: a reload marks removed ones as closed and appends.
type node struct {
	flow    *flow
	id      string
	owner   pool.OwnerID // whom the pool charges, over all sessions
	outputs []*output
	inputs  []*edge
	sess    *session // nil: not connected
	denied  limited  // region requests
	// deniedText is why the last of them was.
	deniedText string
}

// output is one output of a node and where its messages go.
type output struct {
	node   *node
	index  wire.OutputIndex
	id     string
	edges  []*edge
	closed bool // removed by a reload
	fresh  bool // opened by the reload that is being applied

	// Of the sender's current session.
	ended     bool // the node said so
	epoch     uint32
	published uint64
	window    uint64 // as the sender knows it
	told      uint32 // the epoch that the sender knows
	touched   bool   // listed in core.windows
	receivers uint32 // as the sender knows it
	brokered  uint32 // as the sender knows it: edges that need messages through the broker
	laneBits  uint64 // of lanes that the sender has started and is not done with
	shortage  shortage
	largest   uint64 // inline bytes of recent messages, to bound what a window may bring
}

// edge is one input of a node together with the output or timer that feeds it.
type edge struct {
	flow        *flow
	node        *node  // the receiver
	id          string // of the input
	from, to    string // camera/image, edges/frame
	source      *output
	timer       *timer // instead of a source
	queueSize   int
	policy      wire.Policy
	holdTimeout time.Duration
	closed      bool // removed by a reload

	// Of the receiver's current session.
	sess    *session // nil: not connected
	index   wire.InputIndex
	joined  uint32 // epoch of the source; older messages are not for this receiver (policy block)
	epoch   uint32 // of the source; older messages were sent without a window for this edge (policy block)
	most    int    // the largest queue size that this session has had
	queue   ring[*message]
	queued  uint64 // inline bytes in queue
	out     int    // delivered, waiting in the node for its user; or being copied for it
	ready   bool   // listed in sess.ready
	lost    uint64 // dropped since the last delivered message
	closing string // InputClosed with this reason is owed once the queue is empty

	lane     *edgeLane // nil: messages go through the broker
	laneBits uint64    // of all its lanes that the sender is not done with
	failed   string    // a lane of these sessions, and why
	denied   string    // memory for a lane
	pathTold string    // in the log

	holds   holdList
	overdue limited // messages held too long
	drops   [pathCount][reasonCount]dropCount

	evacuations [pathCount]evacuation

	stats edgeStats
}

// edgeStats count since the broker started.
type edgeStats struct {
	published  uint64 // messages meant for this edge
	delivered  uint64
	dropped    uint64
	unlogged   uint64 // dropped on lanes, and not in dropped yet
	noReceiver uint64
	bytes      uint64 // of payload, delivered
	latency    latencies
}

func newEdge(f *flow, n *node, in dataflow.Input) *edge {
	e := &edge{
		flow:  f,
		node:  n,
		id:    in.ID,
		from:  in.Source.Text,
		to:    n.id + "/" + in.ID,
		holds: newHoldList(),
	}
	if in.Source.IsTimer() {
		e.timer = &timer{edge: e, period: in.Source.Timer}
	}
	e.configure(in)
	return e
}

func (e *edge) configure(in dataflow.Input) {
	e.queueSize, e.policy, e.holdTimeout = in.QueueSize, in.Policy, in.HoldTimeout
}

// room is how many messages may wait in the broker: an input never holds more
// than its queue size between Publish and the user, wherever they wait.
func (e *edge) room() int { return max(0, e.queueSize-e.out) }

// overrun reports whether the queue of an edge with policy block holds all that
// its sender's windows can have promised: one more than the queue size, see
// core.handed. What comes beyond was sent past a window.
func (e *edge) overrun() bool {
	return e.policy == wire.PolicyBlock && e.queue.len()+e.out > e.most
}

// prefetch reports whether one more message may be handed to a node that has
// not asked for it in so many words. Half of the queue stays in the broker,
// where the newest message can still push out an old one.
func (e *edge) prefetch() bool { return e.out < e.queueSize/2 }

// takes reports whether a message of that epoch is for the current receiver.
func (e *edge) takes(epoch uint32) bool {
	return e.sess != nil && (e.policy != wire.PolicyBlock || e.joined <= epoch)
}

// late reports whether a message was sent before the sender knew that the edge
// holds it back: it is the receiver's, if there is room.
func (e *edge) late(epoch uint32) bool {
	return e.policy == wire.PolicyBlock && epoch < e.epoch && e.queue.len() >= e.room()
}

// blocks reports whether the edge holds its sender back.
func (e *edge) blocks() bool {
	return e.policy == wire.PolicyBlock && e.sess != nil && !e.closed
}

// connected counts the receivers.
func (o *output) connected() uint32 {
	var n uint32
	for _, e := range o.edges {
		if e.sess != nil {
			n++
		}
	}
	return n
}

// needBroker counts the edges that messages have to go through the broker for.
// Without any lane that is all of them, also before somebody receives.
func (o *output) needBroker() uint32 {
	var n uint32
	laned := false
	for _, e := range o.edges {
		switch {
		case e.laned():
			laned = true
		case e.sess != nil:
			n++
		}
	}
	if !laned {
		n = max(n, 1)
	}
	return n
}

// allowed is the window that the receivers' room admits now: the number of
// publishes since the start of the sender's session.
func (o *output) allowed(inlineBytesMax uint64) uint64 {
	free, limited := 0, false
	for _, e := range o.edges {
		if !e.blocks() || e.laned() {
			continue
		}
		room := max(0, e.room()-e.queue.len())
		if o.largest > 0 {
			// Large inline payloads wait in the broker's own heap.
			bytes := inlineBytesMax - min(inlineBytesMax, e.queued)
			room = min(room, int(min(bytes/o.largest, uint64(dataflow.QueueSizeMax))))
			if e.queue.len() == 0 && e.out == 0 {
				room = max(room, 1) // one message of any size must always pass
			}
		}
		if !limited || room < free {
			free, limited = room, true
		}
	}
	if !limited {
		return wire.WindowUnlimited
	}
	return o.published + uint64(free)
}

// output and input find an open port by its id.
func (n *node) output(id string) (*output, bool) {
	for _, o := range n.outputs {
		if o.id == id && !o.closed {
			return o, true
		}
	}
	return nil, false
}

func (n *node) input(id string) (*edge, bool) {
	for _, e := range n.inputs {
		if e.id == id && !e.closed {
			return e, true
		}
	}
	return nil, false
}

// ports is what the node is told about itself.
func (n *node) ports() *wire.Ports {
	p := &wire.Ports{
		Outputs: make([]wire.OutputPort, 0, len(n.outputs)),
		Inputs:  make([]wire.InputPort, 0, len(n.inputs)),
	}
	for _, o := range n.outputs {
		p.Outputs = append(p.Outputs, wire.OutputPort{ID: o.id, Open: !o.closed})
	}
	for _, e := range n.inputs {
		p.Inputs = append(p.Inputs, wire.InputPort{
			ID:            e.id,
			Source:        e.from,
			QueueSize:     uint32(e.queueSize),
			Policy:        e.policy,
			HoldTimeoutMS: uint32(e.holdTimeout / time.Millisecond),
			Open:          !e.closed,
		})
	}
	return p
}
