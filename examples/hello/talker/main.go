// Command talker sends a greeting at every tick of its timer.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/brokerd/brokerd/node"
)

func main() {
	if err := talk(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func talk(ctx context.Context) error {
	// Whoever starts a dataflow tells its processes where the broker is and
	// which node they are.
	cfg, err := node.ConfigFromEnv()
	if err != nil {
		return err
	}
	n, err := node.Connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	greeting, err := n.Output("greeting")
	if err != nil {
		return err
	}
	for count := int64(1); ; {
		event, err := n.Next(ctx)
		if err != nil {
			return err
		}
		switch event.Kind {
		case node.EventInput: // tick is the only input
			event.Message.Release()
			text := fmt.Sprintf("hello, number %d", count)
			if err := greeting.Send(ctx, []byte(text), node.Int("count", count)); err != nil {
				return err
			}
			count++
		case node.EventStop:
			return nil
		case node.EventError:
			return event.Err
		}
	}
}
