package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/node/internal/protect"
	"github.com/brokerd/brokerd/wire"
)

// closeTimeout bounds each of the two things Close waits for: that what was
// published reaches the kernel, and that the broker has read it.
const closeTimeout = time.Second

// Node is a process's membership in a dataflow.
type Node struct {
	// Immutable.
	cfg  Config
	log  *slog.Logger
	life context.Context // ends with Close
	die  context.CancelFunc
	done chan struct{} // closed when all goroutines have ended
	// vault has a copy of every payload in protect mode; else it is nil.
	vault *protect.Vault

	stats counters
	// privateBytes is what messages take that were evacuated from shared memory.
	privateBytes atomic.Uint64
	receiver     receiver
	sleeper      *sleeper

	mu      sync.Mutex // guards what follows
	session *session   // nil while the broker is away
	estate  *estate    // of that session, or of the one before if another broker may adopt it; written by the goroutine that reads
	closing bool
	outputs map[string]*Output
	order   []string               // ids of the outputs as the dataflow lists them
	bound   map[*session][]*Output // by OutputIndex
	inputs  []*input
}

// Connect joins the dataflow as cfg says. While no broker answers it keeps trying
// until ctx ends; then the error is ErrUnreachable. What the broker refuses is
// returned at once as *wire.Error: wire.ErrAuth, wire.ErrUnknownDataflow,
// wire.ErrUnknownNode, wire.ErrDuplicateNode, wire.ErrVersion. ctx is for
// connecting only: the node lives until Close.
func Connect(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg.withDefaults(), done: make(chan struct{}),
		outputs: make(map[string]*Output), bound: make(map[*session][]*Output),
	}
	n.log = n.cfg.Logger
	n.life, n.die = context.WithCancel(context.Background())
	n.receiver.n = n
	n.receiver.lanes.park = parkMax
	n.sleeper = newSleeper(n.cfg.Spin)
	if cfg.Protect {
		if err := n.openVault(); err != nil {
			n.die()
			return nil, err
		}
	}
	s, err := n.redial(ctx, false)
	if err != nil {
		n.die()
		return nil, err
	}
	n.attach(s, false)
	go n.supervise(s)
	return n, nil
}

// Close leaves the dataflow. What was published before goes out first, for a
// second at most. Calls that wait return ErrClosed. Messages and loans that are
// still held stay valid until they are released; with the last of them the
// node's shared memory is unmapped. Closing again does nothing.
func (n *Node) Close() error {
	n.mu.Lock()
	first := !n.closing
	n.closing = true
	s := n.session
	n.mu.Unlock()
	if !first {
		<-n.done
		return nil
	}
	n.receiver.close(ErrClosed, false)
	n.endOutputs(ErrClosed)
	if s != nil {
		s.leave()
	}
	n.die()
	<-n.done
	return nil
}

// leave says goodbye and ends the sending half of the connection. The receiving
// half is read on until the broker closes: closing a socket with unread bytes
// resets the connection, and the broker would lose what it has not read yet.
func (s *session) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	s.n.receiver.lastWords(s)
	s.link.send(&wire.Bye{Reason: "closed"})
	err := s.link.waitIdle(ctx)
	if tcp, ok := s.link.conn.(*net.TCPConn); ok && err == nil {
		err = tcp.CloseWrite()
	}
	if err != nil {
		s.link.fail(ErrClosed)
		return
	}
	_ = s.link.conn.SetReadDeadline(time.Now().Add(closeTimeout))
}

// Done is closed when the node is closed, or has given up because the broker
// refuses it; Next then returns why.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err returns why Next returns no more events: nil while it does, ErrClosed, or an
// error that wraps ErrClosed and the broker's refusal.
func (n *Node) Err() error {
	r := &n.receiver
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return r.closed
	}
	return r.final
}

// Local reports whether payloads go through shared memory now.
func (n *Node) Local() bool {
	s := n.current()
	return s != nil && s.local
}

// Dataflow returns the name of the dataflow.
func (n *Node) Dataflow() string { return n.cfg.Dataflow }

// ID returns the node's id.
func (n *Node) ID() string { return n.cfg.Node }

// Outputs returns the ids of the outputs, in the order of the dataflow.
func (n *Node) Outputs() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.order)
}

// Inputs describes the inputs, in the order of the dataflow.
func (n *Node) Inputs() []InputInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	infos := make([]InputInfo, len(n.inputs))
	for i, in := range n.inputs {
		infos[i] = in.info
	}
	return infos
}

// Output returns an output by its id. The error is ErrUnknownOutput, and lists
// the outputs that there are.
func (n *Node) Output(id string) (*Output, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o := n.outputs[id]; o != nil {
		return o, nil
	}
	if len(n.order) == 0 {
		return nil, fmt.Errorf("%w %q: node %q of dataflow %q has no outputs", ErrUnknownOutput, id, n.cfg.Node, n.cfg.Dataflow)
	}
	return nil, fmt.Errorf("%w %q: node %q of dataflow %q has %s",
		ErrUnknownOutput, id, n.cfg.Node, n.cfg.Dataflow, strings.Join(n.order, ", "))
}

func (n *Node) current() *session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.session
}

// attach puts a new connection to use.
func (n *Node) attach(s *session, again bool) {
	n.mu.Lock()
	before := n.estate
	n.session, n.estate = s, s.estate
	closing := n.closing
	n.mu.Unlock()
	if before != nil && before != s.estate {
		before.leave(before.instance != s.welcome.Instance)
	}
	n.receiver.setInputs(s, s.ports.Inputs)
	n.receiver.attach(s, again)
	n.bindOutputs(s, s.ports.Outputs)
	s.ports = nil
	s.workers.Go(s.tend)
	if closing { // Close has not seen this connection
		s.leave()
	}
	n.log.Debug("connected to the broker", s.logAttrs()...)
}

// detach takes a lost connection out of use.
func (n *Node) detach(s *session) {
	n.mu.Lock()
	n.session = nil
	outputs := n.bound[s]
	delete(n.bound, s)
	n.mu.Unlock()
	for _, o := range outputs {
		o.unbind(s)
	}
	n.receiver.detach(s)
	s.estate.memory.detach()
	if !s.estate.carries() {
		n.leaveEstate()
	}
}

// leaveEstate gives up what no broker is to adopt.
func (n *Node) leaveEstate() {
	n.mu.Lock()
	e := n.estate
	n.estate = nil
	n.mu.Unlock()
	if e != nil {
		e.leave(false)
	}
}

func (n *Node) currentEstate() *estate {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.estate
}

// boundTo returns the outputs of a session.
func (n *Node) boundTo(s *session) []*Output {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.bound[s])
}

// bindOutputs takes over what the broker says about the outputs.
func (n *Node) bindOutputs(s *session, ports []wire.OutputPort) {
	n.mu.Lock()
	bound := make([]*Output, len(ports))
	at := make(map[*Output]int, len(ports))
	for i, p := range ports {
		o := n.outputs[p.ID]
		if o == nil {
			o = &Output{n: n, id: p.ID}
			n.outputs[p.ID] = o
		}
		bound[i] = o
		if first, again := at[o]; !again || supersedes(p.Open, ports[first].Open) {
			at[o] = i
		}
	}
	n.order = nil
	for i, o := range bound {
		if at[o] == i {
			n.order = append(n.order, o.id)
		}
	}
	n.bound[s] = bound
	var gone []*Output
	for _, o := range n.outputs {
		if _, there := at[o]; !there {
			gone = append(gone, o)
		}
	}
	closing := n.closing
	n.mu.Unlock()
	for i, o := range bound {
		if at[o] == i {
			o.bind(s, wire.OutputIndex(i), ports[i].Open)
		}
	}
	for _, o := range gone {
		o.end(fmt.Errorf("%w: %q: %w", ErrOutputClosed, o.id, errOutputRemoved))
	}
	if closing {
		n.endOutputs(ErrClosed)
	}
}

// supersedes decides which of two positions with the same id counts, the later
// one (open) or the earlier one (wasOpen): what a reload has removed stays in
// Ports, closed, when a later one brings the id back at another position.
func supersedes(open, wasOpen bool) bool { return open || !wasOpen }

func (n *Node) outputAt(s *session, index wire.OutputIndex) *Output {
	n.mu.Lock()
	defer n.mu.Unlock()
	if bound := n.bound[s]; int(index) < len(bound) {
		return bound[index]
	}
	return nil
}

// setInputs keeps the inputs for Inputs, each id once.
func (n *Node) setInputs(inputs []*input) {
	at := make(map[string]int, len(inputs))
	for i, in := range inputs {
		if first, again := at[in.info.ID]; !again || supersedes(in.info.Open, inputs[first].info.Open) {
			at[in.info.ID] = i
		}
	}
	listed := make([]*input, 0, len(at))
	for i, in := range inputs {
		if at[in.info.ID] == i {
			listed = append(listed, in)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.inputs = listed
}

func (n *Node) endOutputs(err error) {
	n.mu.Lock()
	outputs := make([]*Output, 0, len(n.outputs))
	for _, o := range n.outputs {
		outputs = append(outputs, o)
	}
	n.mu.Unlock()
	for _, o := range outputs {
		o.end(err)
	}
}

// giveUp ends the node for a reason other than Close.
func (n *Node) giveUp(cause error) {
	err := fmt.Errorf("%w: %w", ErrClosed, cause)
	n.log.Error("giving up the connection to the broker", "error", cause)
	n.endOutputs(err)
	n.receiver.post(Event{Kind: EventError, Err: cause})
	n.receiver.close(err, true)
}

// isRefusal reports whether err is the broker's word, not the network's.
func isRefusal(err error) bool {
	var refused *wire.Error
	return errors.As(err, &refused)
}
