package demo

import (
	"context"
	"time"

	"github.com/brokerd/brokerd/node"
)

// slowTime is what the slow node takes for one picture.
const slowTime = 50 * time.Millisecond

// runSlow holds each picture for a while, longer than the camera takes for the
// next one.
func runSlow(ctx context.Context, p *process) error {
	n, err := node.Connect(ctx, p.cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	err = p.receive(ctx, n, func(event node.Event) error {
		defer event.Message.Release()
		select {
		case <-time.After(slowTime):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return err
}
