package demo

import (
	"context"
	"errors"

	"github.com/brokerd/brokerd/examples/demo/vision"
	"github.com/brokerd/brokerd/node"
)

// cameraReceivers is how many inputs read camera/image. The camera begins when
// all are there.
const cameraReceivers = 3

// runCamera renders the next picture at every tick of the timer, in place.
func runCamera(ctx context.Context, p *process) error {
	photos, err := vision.LoadPhotos()
	if err != nil {
		return err
	}
	n, err := node.Connect(ctx, p.cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	out, err := n.Output("image")
	if err != nil {
		return err
	}
	camera := vision.NewCamera(photos)
	started := false
	frame := uint64(0)
	for {
		event, err := n.Next(ctx)
		if err != nil {
			return err
		}
		switch event.Kind {
		case node.EventInput:
			p.recorder.received(event)
			event.Message.Release()
			if started = started || out.Receivers() >= cameraReceivers; !started {
				continue
			}
			if err := shoot(ctx, out, camera, frame); err != nil {
				return err
			}
			p.recorder.published(vision.FrameBytes)
			frame++
		case node.EventStop, node.EventInputClosed:
			return errors.Join(out.Close(), n.Close())
		case node.EventError:
			return event.Err
		}
	}
}

// shoot renders one picture straight into the memory from which others read it.
func shoot(ctx context.Context, out *node.Output, camera *vision.Camera, frame uint64) error {
	loan, err := out.Loan(ctx, vision.FrameBytes)
	if err != nil {
		return err
	}
	defer loan.Discard() // does nothing once it is published
	camera.Render(loan.Bytes(), frame)
	return loan.Publish(ctx,
		node.Int(keyFrame, int64(frame)),
		node.Int(keyWidth, vision.FrameWidth),
		node.Int(keyHeight, vision.FrameHeight),
		node.String(keyEncoding, "rgb8"))
}
