package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/wire"
)

// Metadata keys of the demo's messages.
const (
	keyFrame    = "frame"    // int: number of the picture, from 0
	keyPrevious = "previous" // int: the picture that a pan counts from
	keyWidth    = "width"    // int: pixels
	keyHeight   = "height"   // int: pixels
	keyEncoding = "encoding" // string: "rgb8" or "mono8"
	keyCut      = "cut"      // bool: the two pictures have nothing in common
	keyBlocks   = "blocks"   // int: blocks that were searched for a pan
	keyAgreeing = "agreeing" // int: of them, those that confirm it
)

// program is one node of the demo.
type program struct {
	name string
	run  func(ctx context.Context, p *process) error
}

// programs in the order they are started: who receives is there before who
// sends, so that nothing is sent to nobody.
var programs = []program{
	{"sink", runSink},
	{"motion", runMotion},
	{"edges", runEdges},
	{"slow", runSlow},
	{"camera", runCamera},
}

// Nodes are the names that RunNode knows.
func Nodes() []string {
	var names []string
	for _, p := range programs {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return names
}

// process is what the programs have in common.
type process struct {
	cfg      node.Config
	recorder *recorder
}

// RunNode runs one of the five programs until its inputs are closed, the broker
// says stop (the camera only: what follows it finishes what is on the way), or
// the context ends. Broker, dataflow and node id come from the environment, see
// node.ConfigFromEnv.
func RunNode(ctx context.Context, name string) error {
	index := slices.IndexFunc(programs, func(p program) bool { return p.name == name })
	if index < 0 {
		return fmt.Errorf("demo: no node %q, there are %s", name, strings.Join(Nodes(), ", "))
	}
	cfg, err := node.ConfigFromEnv()
	if err != nil {
		return err
	}
	recorder, err := newRecorder(name)
	if err != nil {
		return err
	}
	p := &process{cfg: cfg, recorder: recorder}
	err = programs[index].run(ctx, p)
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, node.ErrClosed)) {
		err = nil // asked to end
	}
	return errors.Join(err, recorder.close(err == nil))
}

// receive hands every message to handle, which releases it, until all inputs
// are closed.
func (p *process) receive(ctx context.Context, n *node.Node, handle func(node.Event) error) error {
	open := make(map[string]bool)
	for _, input := range n.Inputs() {
		open[input.ID] = true
	}
	for len(open) > 0 {
		event, err := n.Next(ctx)
		if err != nil {
			return err
		}
		switch event.Kind {
		case node.EventInput:
			p.recorder.received(event)
			if err := handle(event); err != nil {
				return err
			}
		case node.EventInputClosed:
			delete(open, event.Input)
		case node.EventError:
			return event.Err
		case node.EventStop, node.EventReconnected:
			// Stop ends the camera. The end of its output then runs down the
			// dataflow, behind the last picture.
		}
	}
	return nil
}

// intOf reads an integer that a message of the demo must have.
func intOf(metadata wire.RawMetadata, key string) (int64, error) {
	value, ok := metadata.Lookup(key)
	if !ok || value.Type() != wire.TypeInt {
		return 0, fmt.Errorf("demo: message without integer %q", key)
	}
	return value.Int(), nil
}
