// Command viewer looks at the pictures where painter wrote them.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"time"

	"github.com/brokerd/brokerd/node"
)

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
	how := "through the connection"
	if n.Local() {
		how = "in shared memory"
	}
	for {
		event, err := n.Next(ctx)
		if err != nil {
			return err
		}
		switch event.Kind {
		case node.EventInput:
			m := event.Message
			age := m.Age() // before the work below adds to it
			shade, _ := m.Metadata().Lookup("shade")
			same := bytes.Count(m.Payload(), []byte{byte(shade.Int())})
			fmt.Printf("%d of %d bytes have shade %d; %s, %s after it was sent\n",
				same, len(m.Payload()), shade.Int(), how, age.Round(time.Microsecond))
			m.Release()
		case node.EventInputClosed, node.EventStop:
			return nil
		case node.EventError:
			return event.Err
		}
	}
}
