package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/wire"
)

// pair connects the two nodes of the dataflow that the examples use.
func pair(ctx context.Context) (camera, edges *node.Node, done func()) {
	addr, stop := node.StartExampleBroker()
	camera, err := node.Connect(ctx, node.Config{Addr: addr, Dataflow: "demo", Node: "camera"})
	if err != nil {
		log.Fatal(err)
	}
	edges, err = node.Connect(ctx, node.Config{Addr: addr, Dataflow: "demo", Node: "edges"})
	if err != nil {
		log.Fatal(err)
	}
	return camera, edges, func() {
		_ = camera.Close()
		_ = edges.Close()
		stop()
	}
}

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	camera, edges, done := pair(ctx)
	defer done()

	image, err := camera.Output("image")
	if err != nil {
		log.Fatal(err)
	}
	if err := image.WaitReceivers(ctx, 1); err != nil {
		log.Fatal(err)
	}
	if err := image.Send(ctx, []byte("a picture")); err != nil {
		log.Fatal(err)
	}
	_ = camera.Close()

	for ev := range edges.Events(ctx) {
		switch ev.Kind {
		case node.EventInput:
			fmt.Printf("%s %d: %s\n", ev.Input, ev.Message.Seq(), ev.Message.Payload())
			ev.Message.Release()
		case node.EventInputClosed:
			fmt.Printf("%s is closed: %s\n", ev.Input, ev.Reason)
			return
		}
	}
	// Output:
	// frame 1: a picture
	// frame is closed: camera has left
}

// The environment says where the broker is and who this process is. brokerctl
// run sets it.
func ExampleConfigFromEnv() {
	_ = os.Setenv("BROKERD_DATAFLOW", "demo")
	defer func() { _ = os.Unsetenv("BROKERD_DATAFLOW") }()
	_, err := node.ConfigFromEnv()
	fmt.Println(err)
	// Output:
	// node: bad configuration: environment variable BROKERD_NODE is not set; set it to the id of this node in the dataflow, for example BROKERD_NODE=camera, or start the process with `brokerctl run`
}

// Refusals of the broker can be told apart.
func ExampleConnect_refused() {
	addr, stop := node.StartExampleBroker()
	defer stop()
	_, err := node.Connect(context.Background(), node.Config{Addr: addr, Dataflow: "demo", Node: "camra"})
	fmt.Println(errors.Is(err, wire.ErrUnknownNode))
	fmt.Println(err)
	// Output:
	// true
	// unknown node: dataflow "demo" has camera and edges, but no "camra"
}

// A loan is memory that the receivers will read: nothing is copied.
func ExampleOutput_Loan() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	camera, edges, done := pair(ctx)
	defer done()
	image, err := camera.Output("image")
	if err != nil {
		log.Fatal(err)
	}

	const width, height = 640, 480
	loan, err := image.Loan(ctx, width*height)
	if err != nil {
		log.Fatal(err)
	}
	defer loan.Discard() // if it is not published
	pixels := loan.Bytes()
	for i := range pixels {
		pixels[i] = byte(i % width)
	}
	if err := loan.Publish(ctx, node.Int("width", width)); err != nil {
		log.Fatal(err)
	}

	ev, err := edges.Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer ev.Message.Release()
	stride, _ := ev.Message.Metadata().Lookup("width")
	fmt.Println(len(ev.Message.Payload()), stride.Int(), ev.Message.Payload()[639])
	fmt.Println("local:", camera.Local(), "copies:", camera.Stats().PayloadCopies)
	// Output:
	// 307200 640 127
	// local: true copies: 0
}

// Metadata are typed keys and values beside the payload.
func ExampleOutput_Send_metadata() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	camera, edges, done := pair(ctx)
	defer done()
	image, err := camera.Output("image")
	if err != nil {
		log.Fatal(err)
	}
	if err := image.Send(ctx, []byte("..."), node.String("encoding", "jpeg"), node.Float("exposure_ms", 8.5)); err != nil {
		log.Fatal(err)
	}
	ev, err := edges.Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer ev.Message.Release()
	for key, value := range ev.Message.Metadata().All() {
		fmt.Println(key, value)
	}
	// Output:
	// encoding "jpeg"
	// exposure_ms 8.5
}

// What is needed after Release has to be copied before.
func ExampleMessage_Release() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	camera, edges, done := pair(ctx)
	defer done()
	image, err := camera.Output("image")
	if err != nil {
		log.Fatal(err)
	}
	if err := image.Send(ctx, []byte("header and the rest")); err != nil {
		log.Fatal(err)
	}
	ev, err := edges.Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	header := bytes.Clone(ev.Message.Payload()[:6])
	ev.Message.Release()
	fmt.Printf("%s, message valid: %v\n", header, ev.Message.Valid())
	// Output:
	// header, message valid: false
}

// A context bounds each wait; the node stays usable.
func ExampleNode_Next_timeout() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, edges, done := pair(ctx)
	defer done()
	short, cancelShort := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancelShort()
	_, err := edges.Next(short)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output:
	// true
}
