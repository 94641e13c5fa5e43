package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/brokerd/brokerd/node"
)

// Names of brokerd's paths.
const (
	PathLane         = "lane"
	PathLaneLoan     = "lane-loan"
	PathBrokered     = "brokered"
	PathBrokeredLoan = "brokered-loan"
)

func brokerdPaths() []*Path {
	return []*Path{
		brokerdPath(PathLane, "Output.Send, straight from sender to receiver through shared memory", true, false),
		brokerdPath(PathLaneLoan, "the same, written in place; only the first byte is touched", true, true),
		brokerdPath(PathBrokered, "Output.Send, each message through the broker", false, false),
		brokerdPath(PathBrokeredLoan, "the same, written in place; only the first byte is touched", false, true),
	}
}

func brokerdPath(name, what string, lanes, loan bool) *Path {
	return &Path{
		Name: name, What: what, Broker: true, FirstByte: loan,
		Receive: func(ctx context.Context, _ Setup) (Receiver, error) { return newNodeReceiver(ctx, lanes) },
		Send: func(ctx context.Context, s Setup) (Sender, error) {
			return newNodeSender(ctx, lanes, loan, len(s.Receivers))
		},
	}
}

// joinTimeout is how long the other ends and their lanes are waited for.
const joinTimeout = 15 * time.Second

func connect(ctx context.Context, lanes bool) (*node.Node, error) {
	cfg, err := node.ConfigFromEnv()
	if err != nil {
		return nil, err
	}
	cfg.NoLanes = !lanes
	return node.Connect(ctx, cfg)
}

// nodeSender sends through brokerd.
type nodeSender struct {
	n         *node.Node
	lanes     bool
	loan      bool
	receivers int
	outputs   []*node.Output // as ports
	output    *node.Output
	onLanes   uint64 // messages sent on lanes until the last look
}

func newNodeSender(ctx context.Context, lanes, loan bool, receivers int) (Sender, error) {
	n, err := connect(ctx, lanes)
	if err != nil {
		return nil, err
	}
	s := &nodeSender{n: n, lanes: lanes, loan: loan, receivers: receivers}
	for _, p := range ports {
		output, err := n.Output(p.id)
		if err != nil {
			_ = n.Close()
			return nil, err
		}
		s.outputs = append(s.outputs, output)
	}
	return s, nil
}

// Prepare waits until the messages of the size will go the way that is to be
// measured.
func (s *nodeSender) Prepare(ctx context.Context, size int) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	s.output = s.outputs[port(size)]
	if err := s.output.WaitReceivers(ctx, s.receivers); err != nil {
		return fmt.Errorf("%d of %d receivers: %w", s.output.Receivers(), s.receivers, err)
	}
	if !s.lanes {
		return nil
	}
	// Lanes start some milliseconds after both ends have joined.
	for s.output.Lanes() < s.receivers {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d lanes of output %q: %w", s.output.Lanes(), s.receivers, s.output.ID(), ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	s.onLanes = s.n.Stats().LaneSent
	return nil
}

func (s *nodeSender) Reserve(ctx context.Context, bytes, count int) error {
	return s.output.Reserve(ctx, bytes, count)
}

func (s *nodeSender) Send(ctx context.Context, payload []byte) error {
	if !s.loan {
		return s.output.Send(ctx, payload)
	}
	loan, err := s.output.Loan(ctx, len(payload))
	if err != nil {
		return err
	}
	// A real sender would render here.
	if b := loan.Bytes(); len(b) > 0 {
		b[0] = payload[0]
	}
	return loan.Publish(ctx)
}

// Check finds out messages that went another way than the one measured.
func (s *nodeSender) Check(count int) error {
	sent := s.n.Stats().LaneSent
	before := s.onLanes
	s.onLanes = sent
	switch on := sent - before; {
	case s.lanes && on < uint64(count):
		return fmt.Errorf("only %d of %d messages went through lanes", on, count)
	case !s.lanes && on > 0:
		return fmt.Errorf("%d of %d messages went through lanes, not through the broker", on, count)
	}
	return nil
}

func (s *nodeSender) Close() error { return s.n.Close() }

// nodeReceiver receives through brokerd.
type nodeReceiver struct {
	n       *node.Node
	message node.Message
}

func newNodeReceiver(ctx context.Context, lanes bool) (Receiver, error) {
	n, err := connect(ctx, lanes)
	if err != nil {
		return nil, err
	}
	return &nodeReceiver{n: n}, nil
}

func (r *nodeReceiver) Addr() string                       { return "" }
func (r *nodeReceiver) Prepare(context.Context, int) error { return nil }
func (r *nodeReceiver) Release()                           { r.message.Release() }
func (r *nodeReceiver) Close() error                       { return r.n.Close() }

func (r *nodeReceiver) Next(ctx context.Context) ([]byte, error) {
	for {
		ev, err := r.n.Next(ctx)
		if err != nil {
			return nil, err
		}
		switch ev.Kind {
		case node.EventInput:
			r.message = ev.Message
			return ev.Message.Payload(), nil
		case node.EventInputClosed, node.EventStop:
			return nil, fmt.Errorf("%w: %v: %s", errEnded, ev.Kind, ev.Reason)
		case node.EventError:
			return nil, ev.Err
		}
	}
}
