// Command listener prints what it hears.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/brokerd/brokerd/node"
)

func main() {
	if err := listen(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func listen(ctx context.Context) error {
	cfg, err := node.ConfigFromEnv()
	if err != nil {
		return err
	}
	n, err := node.Connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	for {
		event, err := n.Next(ctx)
		if err != nil {
			return err
		}
		switch event.Kind {
		case node.EventInput:
			m := event.Message
			count, _ := m.Metadata().Lookup("count")
			fmt.Printf("%s: %q (count %d, %d missed before it)\n", event.Input, m.Payload(), count.Int(), m.Dropped())
			// The payload is a view of memory that the sender wants back.
			m.Release()
		case node.EventInputClosed, node.EventStop: // the talker has gone, or all shall end
			return nil
		case node.EventError:
			return event.Err
		}
	}
}
