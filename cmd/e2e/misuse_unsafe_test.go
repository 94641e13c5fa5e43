//go:build linux

package e2e

import (
	"context"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/brokerd/brokerd/node"
)

// The mistakes that protect mode finds, each in a function of its own for the sake
// of the stack.

var sink byte

// misuse does with a message what must not be done.
func misuse(m node.Message, how string) {
	switch how {
	case "released":
		readReleased(m)
	case "write":
		writePayload(m)
	case "overrun":
		overrunPayload(m)
	case "elsewhere":
		done := make(chan struct{})
		p := m.Payload()
		letGo(m)
		go func() { defer close(done); readElsewhere(p) }()
		<-done
	}
}

func readReleased(m node.Message) {
	p := m.Payload()
	m.Release()
	sink += p[len(p)/2]
}

func letGo(m node.Message) { m.Release() }

func readElsewhere(p []byte) { sink += p[0] }

func writePayload(m node.Message) { m.Payload()[1]++ }

// overrunPayload goes on where C code, or a wrong length, would.
func overrunPayload(m node.Message) {
	p := m.Payload()
	sink += *(*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(p)), (len(p)+63)/64*64))
}

// loseMessage keeps the payload of a message, and not the message.
func loseMessage(n *node.Node) []byte {
	ev, err := n.Next(context.Background())
	for ; err == nil && ev.Kind != node.EventInput; ev, err = n.Next(context.Background()) {
	}
	if err != nil {
		return nil
	}
	return ev.Message.Payload()
}

// readLost reads a payload of which the last handle is gone.
func readLost(p []byte) {
	for {
		runtime.GC()
		runtime.Gosched()
		sink += p[0]
	}
}

// misuseLoan does the same with a loan.
func misuseLoan(out *node.Output, size int, how string) error {
	loan, err := out.Loan(context.Background(), size)
	if err != nil {
		return err
	}
	bytes := loan.Bytes()
	switch how {
	case "published":
		if err := loan.Publish(context.Background()); err != nil {
			return err
		}
		writePublished(bytes)
	case "discarded":
		loan.Discard()
		writePublished(bytes)
	}
	return fmt.Errorf("%s: nothing has happened", how)
}

func writePublished(bytes []byte) { bytes[7] = 1 }
