// Command painter writes large pictures straight into shared memory.
package main

import (
	"context"
	"log"

	"github.com/brokerd/brokerd/node"
)

// A picture of one byte a pixel.
const width, height = 4096, 2048

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	cfg, err := node.ConfigFromEnv()
	if err != nil {
		return err
	}
	n, err := node.Connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	out, err := n.Output("picture")
	if err != nil {
		return err
	}
	for shade := byte(0); ; {
		event, err := n.Next(ctx)
		if err != nil {
			return err
		}
		switch event.Kind {
		case node.EventInput:
			event.Message.Release()
			if err := paint(ctx, out, shade); err != nil {
				return err
			}
			shade++
		case node.EventStop:
			return nil
		case node.EventError:
			return event.Err
		}
	}
}

// paint borrows memory, fills it and sends it. What is sent is the place, not
// the content: that is read where it was written.
func paint(ctx context.Context, out *node.Output, shade byte) error {
	loan, err := out.Loan(ctx, width*height)
	if err != nil {
		return err
	}
	// Gives the memory back on every way out before Publish; after it, nothing.
	defer loan.Discard()
	// The memory holds whatever was there before: all of it must be written.
	picture := loan.Bytes()
	for i := range picture {
		picture[i] = shade
	}
	return loan.Publish(ctx,
		node.Int("width", width),
		node.Int("height", height),
		node.Int("shade", int64(shade)))
}
