package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Path is one way for messages from a sending process to receiving processes.
// Each of its functions runs in a process of its own, which ends with its
// context.
type Path struct {
	Name string
	What string // one line for people

	// Broker says that the processes are nodes of a dataflow that Run loads:
	// node.ConfigFromEnv tells them which.
	Broker bool
	// FirstByte says that payloads are written where they are sent from and only
	// their first byte is written and read, so that times need not depend on the
	// size.
	FirstByte bool
	// Slow is how many times longer the pauses between large messages have to be
	// than for others, or they meet on the way; 0: as long.
	Slow int
	// Sizes that the path can carry, bytes; SizeMax 0: any.
	SizeMin, SizeMax int

	// Between, if not nil, is the process that the others connect to.
	Between func(context.Context, Setup) (Between, error)
	Receive func(context.Context, Setup) (Receiver, error)
	Send    func(context.Context, Setup) (Sender, error)
}

// Setup tells a process of a path about the others. Between is started first,
// then the receivers, then the sender.
type Setup struct {
	Between   string   `json:"between,omitempty"`   // what the process between has announced
	Receivers []string `json:"receivers,omitempty"` // what the receivers have announced; for the sender
}

// Between is a process that messages go through.
type Between interface {
	// Addr is announced to receivers and sender.
	Addr() string
	io.Closer
}

// Receiver is the receiving end of a path. Its methods are called from one
// goroutine.
type Receiver interface {
	// Addr is announced to the sender.
	Addr() string
	// Prepare is called before the first message of a size, while the sender's
	// Prepare runs.
	Prepare(ctx context.Context, size int) error
	// Next waits for the next message; its payload is valid until Release.
	Next(ctx context.Context) ([]byte, error)
	Release()
	io.Closer
}

// Sender is the sending end of a path. Its methods are called from one
// goroutine.
type Sender interface {
	Prepare(ctx context.Context, size int) error
	// Send copies the payload and sends it. It waits when Window(size) messages
	// are on their way: no path may lose one. A path with FirstByte looks at
	// nothing but length and first byte of payload.
	Send(ctx context.Context, payload []byte) error
	io.Closer
}

// Reserver is a Sender that can make memory ready before the first message.
type Reserver interface {
	Reserve(ctx context.Context, bytes, count int) error
}

// Checker is a Sender that can tell whether its last messages really went its
// way.
type Checker interface {
	// Check is called after count messages were sent.
	Check(count int) error
}

// carries tells whether messages of a size can go this way.
func (p *Path) carries(size int) bool {
	return size >= p.SizeMin && (p.SizeMax == 0 || size <= p.SizeMax)
}

// ports of a node: each for the sizes up to its own. Their queues are what may
// be on its way unpaced: much for what is small, and never so much that memory
// of messages leaves the caches for that alone.
var ports = []struct {
	id      string
	sizeMax int // bytes
	window  int // messages
}{
	{"tiny", 256, 4096},
	{"small", 8 << 10, 256},
	{"medium", 128 << 10, 16},
	{"large", SizeMax, 4},
}

// port is the index in ports for a size.
func port(size int) int {
	for i, p := range ports {
		if size <= p.sizeMax {
			return i
		}
	}
	return len(ports) - 1
}

// Window is how many messages of a size may be on their way on every path.
func Window(size int) int { return ports[port(size)].window }

// Flow is the dataflow of a path with so many receivers. All edges block: a
// dropped message would flatter the numbers.
func Flow(receivers int) string {
	var b strings.Builder
	var outputs []string
	for _, p := range ports {
		outputs = append(outputs, p.id)
	}
	fmt.Fprintf(&b, "nodes:\n  - id: sender\n    outputs: [%s]\n", strings.Join(outputs, ", "))
	for i := range receivers {
		fmt.Fprintf(&b, "  - id: %s\n    inputs:\n", receiverNode(i))
		for _, p := range ports {
			fmt.Fprintf(&b, "      %s: {source: sender/%s, queue_size: %d, policy: block}\n", p.id, p.id, p.window)
		}
	}
	return b.String()
}

func receiverNode(i int) string { return fmt.Sprintf("receiver-%d", i+1) }

// Own are the paths of brokerd itself and those that need nothing but sockets.
func Own() []*Path {
	return append(brokerdPaths(), TCP(), Unix(), Relay())
}

// Find returns the path of that name.
func Find(paths []*Path, name string) (*Path, error) {
	i := slices.IndexFunc(paths, func(p *Path) bool { return p.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("no path %q; there are %s", name, strings.Join(Names(paths), ", "))
	}
	return paths[i], nil
}

// Names lists the paths.
func Names(paths []*Path) []string {
	var names []string
	for _, p := range paths {
		names = append(names, p.Name)
	}
	return names
}

// errEnded is what a receiver says when no more messages can come.
var errEnded = errors.New("the sender is gone")
