package demo

import (
	"context"
	"errors"
	"fmt"

	"github.com/brokerd/brokerd/examples/demo/vision"
	"github.com/brokerd/brokerd/node"
)

// runEdges turns pictures into edge pictures, from shared memory to shared
// memory.
func runEdges(ctx context.Context, p *process) error {
	n, err := node.Connect(ctx, p.cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	out, err := n.Output("image")
	if err != nil {
		return err
	}
	if err := out.WaitReceivers(ctx, 1); err != nil {
		return err
	}
	filter := new(vision.EdgeFilter)
	err = p.receive(ctx, n, func(event node.Event) error {
		defer event.Message.Release()
		frame, err := intOf(event.Message.Metadata(), keyFrame)
		if err != nil {
			return err
		}
		picture := event.Message.Payload()
		if len(picture) != vision.FrameBytes {
			return fmt.Errorf("demo: frame %d has %d bytes instead of %d", frame, len(picture), vision.FrameBytes)
		}
		loan, err := out.Loan(ctx, vision.EdgeBytes)
		if err != nil {
			return err
		}
		defer loan.Discard()
		filter.Filter(loan.Bytes(), picture)
		// The camera gets its memory back before anyone waits for room.
		event.Message.Release()
		p.recorder.published(vision.EdgeBytes)
		return loan.Publish(ctx,
			node.Int(keyFrame, frame),
			node.Int(keyWidth, vision.FrameWidth),
			node.Int(keyHeight, vision.FrameHeight),
			node.String(keyEncoding, "mono8"))
	})
	return errors.Join(err, out.Close(), n.Close())
}
