package node

import (
	"fmt"
	"sync"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// StartExampleBroker runs a broker of a few lines for the examples: it serves the
// dataflow "demo", in which camera/image goes to edges/frame. It returns its
// address, and a function that ends it.
func StartExampleBroker() (addr string, stop func()) {
	t := &exampleTB{}
	b := &miniBroker{p: newPeer(t), nodes: make(map[string]*miniConn), tokens: make(map[wire.Token]miniToken)}
	ended := make(chan struct{})
	go b.serve(ended)
	return b.p.listener.Addr().String(), func() {
		_ = b.p.listener.Close()
		<-ended
		for i := len(t.cleanups) - 1; i >= 0; i-- {
			t.cleanups[i]()
		}
	}
}

// exampleTB lets examples use what tests use.
type exampleTB struct {
	testing.TB
	mu       sync.Mutex
	cleanups []func()
}

func (t *exampleTB) Helper()                           {}
func (t *exampleTB) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (t *exampleTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (t *exampleTB) Errorf(string, ...any)             {} // a write to a node that has left; what matters is the example's output
func (t *exampleTB) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

type miniBroker struct {
	p *peer

	mu      sync.Mutex
	nodes   map[string]*miniConn
	regions []testRegion
	token   wire.Token
	tokens  map[wire.Token]miniToken // of deliveries
}

type miniToken struct {
	sender *miniConn
	token  wire.Token
}

type miniConn struct {
	*peerConn
	queue     []wire.Input
	limit     uint64
	delivered uint64
	closing   bool // InputClosed has to follow the last message
}

func (b *miniBroker) serve(ended chan<- struct{}) {
	defer close(ended)
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := b.p.listener.Accept()
		if err != nil {
			return
		}
		b.p.mu.Lock()
		b.p.session++
		c := &miniConn{peerConn: &peerConn{p: b.p, conn: conn, encoder: wire.NewEncoder(), session: b.p.session}}
		b.p.mu.Unlock()
		conns.Go(func() { b.talk(c) })
	}
}

func (b *miniBroker) talk(c *miniConn) {
	defer func() { _ = c.conn.Close() }()
	m, err := c.receive()
	hello, ok := m.(*wire.Hello)
	if err != nil || !ok {
		return
	}
	w := b.p.welcome
	w.Version, w.Instance, w.Session = 1, "example", c.session
	ports := &wire.Ports{}
	switch hello.Node {
	case "camera":
		ports.Outputs = []wire.OutputPort{{ID: "image", Open: true}}
	case "edges":
		ports.Inputs = []wire.InputPort{{ID: "frame", Source: "camera/image", QueueSize: 10, Open: true}}
	default:
		c.send(wire.Errorf(wire.CodeUnknownNode, "dataflow %q has camera and edges, but no %q", hello.Dataflow, hello.Node))
		return
	}
	c.send(&w)
	if m, err = c.receive(); err != nil {
		return
	}
	attach, _ := m.(*wire.Attach)
	b.mu.Lock() // a node that knows that it has joined may count on it
	c.send(&wire.Ready{Local: attach != nil && len(attach.Nonce) > 0}, ports)
	for i := range ports.Outputs {
		c.send(&wire.Flow{Output: wire.OutputIndex(i), Window: wire.WindowUnlimited})
	}
	b.join(hello.Node, c)
	b.mu.Unlock()
	defer b.leave(hello.Node)
	for {
		m, err := c.receive()
		if err != nil {
			return
		}
		if _, bye := m.(*wire.Bye); bye {
			return
		}
		b.handle(c, m)
	}
}

func (b *miniBroker) join(name string, c *miniConn) {
	b.nodes[name] = c
	for _, r := range b.regions {
		c.send(r.open())
	}
	if sender, ok := b.nodes["camera"]; ok && b.nodes["edges"] != nil {
		sender.send(&wire.Flow{Output: 0, Epoch: 1, Receivers: 1, Window: wire.WindowUnlimited})
	}
}

func (b *miniBroker) leave(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.nodes, name)
	if receiver := b.nodes["edges"]; receiver != nil && name == "camera" {
		receiver.closing = true
		b.deliver(receiver)
	}
}

func (b *miniBroker) handle(c *miniConn, m wire.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch m := m.(type) {
	case *wire.Publish:
		b.publish(c, m)
	case *wire.Next:
		c.limit = m.Limit
		b.settle(m.Done)
		b.deliver(c)
	case *wire.Done:
		b.settle(m.Tokens)
	case *wire.RegionRequest:
		r := b.p.newRegion(m.SlotBytes, m.Slots)
		b.regions = append(b.regions, r)
		if receiver := b.nodes["edges"]; receiver != nil {
			receiver.send(r.open())
		}
		c.send(r.grant(m.Request))
	}
}

func (b *miniBroker) publish(c *miniConn, m *wire.Publish) {
	receiver := b.nodes["edges"]
	if receiver == nil {
		if m.Token != 0 {
			c.send(&wire.Done{Tokens: []wire.Token{m.Token}})
		}
		return
	}
	item := wire.Input{Seq: m.Seq, TimeNS: m.TimeNS, Region: m.Region, Offset: m.Offset, Length: m.Length, Metadata: m.Metadata, Payload: m.Payload}
	if m.Token != 0 {
		b.token++
		item.Token = b.token
		b.tokens[b.token] = miniToken{c, m.Token}
	}
	receiver.queue = append(receiver.queue, item)
	b.deliver(receiver)
}

func (b *miniBroker) deliver(c *miniConn) {
	n := min(uint64(len(c.queue)), c.limit-min(c.limit, c.delivered))
	if n > 0 {
		c.send(&wire.Inputs{Items: c.queue[:n]})
		c.queue = c.queue[n:]
		c.delivered += n
	}
	if c.closing && len(c.queue) == 0 {
		c.closing = false
		c.send(&wire.InputClosed{Input: 0, Reason: "camera has left"})
	}
}

func (b *miniBroker) settle(tokens []wire.Token) {
	for _, token := range tokens {
		if t, ok := b.tokens[token]; ok {
			delete(b.tokens, token)
			t.sender.send(&wire.Done{Tokens: []wire.Token{t.token}})
		}
	}
}
