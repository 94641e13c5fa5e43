package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/brokerd/brokerd/examples/demo/vision"
	"github.com/brokerd/brokerd/node"
)

// panBytes is the payload of motion/pan: dx and dy in pixels, two little-endian
// 32-bit integers. That is far below the limit up to which a payload travels
// inside its frame.
const panBytes = 8

// runMotion estimates how far the camera moved since the picture before.
func runMotion(ctx context.Context, p *process) error {
	n, err := node.Connect(ctx, p.cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	out, err := n.Output("pan")
	if err != nil {
		return err
	}
	if err := out.WaitReceivers(ctx, 1); err != nil {
		return err
	}
	estimator := new(vision.PanEstimator)
	var payload [panBytes]byte
	previous := int64(-1)
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
		if frame != previous+1 {
			// Over a gap the camera may have gone farther than the search does.
			estimator.Reset()
		}
		previous = frame
		estimate, ok := estimator.Next(picture)
		event.Message.Release()
		if !ok {
			return nil
		}
		binary.LittleEndian.PutUint32(payload[:], uint32(int32(estimate.DX)))
		binary.LittleEndian.PutUint32(payload[4:], uint32(int32(estimate.DY)))
		p.recorder.published(panBytes)
		return out.Send(ctx, payload[:],
			node.Int(keyFrame, frame),
			node.Int(keyPrevious, frame-1),
			node.Bool(keyCut, estimate.Cut),
			node.Int(keyBlocks, int64(estimate.Blocks)),
			node.Int(keyAgreeing, int64(estimate.Agreeing)))
	})
	return errors.Join(err, out.Close(), n.Close())
}
