package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// testTimeout ends a test that waits for something which does not come.
const testTimeout = 10 * time.Second

// testPrefix starts the names of all shared memory objects of this test process.
var testPrefix = fmt.Sprintf("nodetest-%d-", os.Getpid())

// peer is a scripted broker: it listens on a real socket and owns real shared
// memory, and each test says message by message what it does.
type peer struct {
	t        testing.TB
	listener net.Listener
	ports    wire.Ports
	welcome  wire.Welcome // FrameMax, InlineMax, HeartbeatMS; the rest is filled in
	remote   bool         // offers no shared memory
	noFlow   bool         // leaves out the first Flow of each output
	probe    *os.File
	nonce    []byte

	mu      sync.Mutex
	session wire.SessionID
	region  wire.RegionID
	names   []string
}

// newPeer starts a peer whose node has outputs "out" and "aux" and inputs "in"
// and "other".
func newPeer(t testing.TB) *peer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{
		t: t, listener: listener,
		ports: wire.Ports{
			Outputs: []wire.OutputPort{{ID: "out", Open: true}, {ID: "aux", Open: true}},
			Inputs: []wire.InputPort{
				{ID: "in", Source: "camera/image", QueueSize: 10, Open: true},
				{ID: "other", Source: "timer/millis/100", QueueSize: 10, Policy: wire.PolicyBlock, HoldTimeoutMS: 5000, Open: true},
			},
		},
		welcome: wire.Welcome{FrameMax: 1 << 20, InlineMax: 4096, HeartbeatMS: 1000},
	}
	if shmpool.Dir == "" {
		p.remote = true
	} else {
		p.makeProbe()
	}
	t.Cleanup(p.close)
	return p
}

func (p *peer) name(kind string) string {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	name := testPrefix + kind + "-" + hex.EncodeToString(random[:])
	p.mu.Lock()
	p.names = append(p.names, name)
	p.mu.Unlock()
	return name
}

func (p *peer) makeProbe() {
	p.nonce = make([]byte, 32)
	_, _ = rand.Read(p.nonce)
	p.welcome.ProbeName, p.welcome.ProbeLength = p.name("probe"), 32
	p.welcome.ProbeOffset = 8
	file, err := os.OpenFile(filepath.Join(shmpool.Dir, p.welcome.ProbeName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := file.WriteAt(p.nonce, 8); err != nil {
		p.t.Fatal(err)
	}
	p.probe = file
}

func (p *peer) close() {
	_ = p.listener.Close()
	if p.probe != nil {
		_ = p.probe.Close()
	}
	for _, name := range p.names {
		_ = os.Remove(filepath.Join(shmpool.Dir, name))
	}
}

// testRegion is a region as its creator sees it.
type testRegion struct {
	id       wire.RegionID
	name     string
	geometry shmpool.Geometry
	file     *os.File
}

func (p *peer) newRegion(slotBytes uint64, slots uint32) testRegion {
	p.t.Helper()
	p.mu.Lock()
	p.region++
	id := p.region
	p.mu.Unlock()
	r := testRegion{id: id, name: p.name("region"), geometry: shmpool.Geometry{SlotBytes: slotBytes, Slots: slots}}
	if err := r.geometry.Validate(); err != nil {
		p.t.Fatal(err)
	}
	file, err := os.OpenFile(filepath.Join(shmpool.Dir, r.name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	r.file = file
	p.t.Cleanup(func() { _ = file.Close() })
	header := make([]byte, shmpool.HeaderBytes)
	shmpool.EncodeHeader(header, id, r.geometry)
	err = file.Truncate(int64(r.geometry.Bytes()))
	if err == nil {
		_, err = file.WriteAt(header, 0)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (r testRegion) write(p *peer, slot uint32, b []byte) (offset uint64) {
	offset = r.geometry.SlotOffset(slot)
	if _, err := r.file.WriteAt(b, int64(offset)); err != nil {
		p.t.Fatal(err)
	}
	return offset
}

func (r testRegion) read(p *peer, offset, length uint64) []byte {
	b := make([]byte, length)
	if _, err := r.file.ReadAt(b, int64(offset)); err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (r testRegion) open() *wire.RegionOpen {
	return &wire.RegionOpen{Region: r.id, Name: r.name, Bytes: r.geometry.Bytes(), SlotBytes: r.geometry.SlotBytes, Slots: r.geometry.Slots}
}

func (r testRegion) grant(request uint32) *wire.RegionGrant {
	return &wire.RegionGrant{Request: request, Region: r.id, Name: r.name, Bytes: r.geometry.Bytes(), SlotBytes: r.geometry.SlotBytes, Slots: r.geometry.Slots}
}

// peerConn is one accepted connection.
type peerConn struct {
	p       *peer
	conn    net.Conn
	encoder *wire.Encoder
	mu      sync.Mutex // guards encoder and writes
	session wire.SessionID
	hello   wire.Hello
}

// accept takes a connection and reads its Hello.
func (p *peer) accept() *peerConn {
	p.t.Helper()
	_ = p.listener.(*net.TCPListener).SetDeadline(time.Now().Add(testTimeout))
	conn, err := p.listener.Accept()
	if err != nil {
		p.t.Fatalf("accept: %v", err)
	}
	p.mu.Lock()
	p.session++
	c := &peerConn{p: p, conn: conn, encoder: wire.NewEncoder(), session: p.session}
	p.mu.Unlock()
	p.t.Cleanup(func() { _ = conn.Close() })
	c.hello = *expectFrom[*wire.Hello](c)
	return c
}

// welcomeIn completes the handshake.
func (c *peerConn) welcomeIn() *peerConn {
	c.p.t.Helper()
	w := c.p.welcome
	w.Version, w.Instance, w.Session = 1, "test", c.session
	if c.p.remote {
		w.ProbeName = ""
	}
	c.send(&w)
	attach := expectFrom[*wire.Attach](c)
	c.send(&wire.Ping{Nonce: 77}) // as a broker does that has waited for Attach
	expectFrom[*wire.Pong](c)
	ready := &wire.Ready{Local: len(attach.Nonce) > 0 && string(attach.Nonce) == string(c.p.nonce)}
	if !ready.Local {
		ready.Reason = "nonce differs"
	}
	c.send(ready, &c.p.ports)
	for i := range c.p.ports.Outputs {
		if c.p.noFlow {
			break
		}
		c.send(&wire.Flow{Output: wire.OutputIndex(i), Window: wire.WindowUnlimited})
	}
	return c
}

func (c *peerConn) send(messages ...wire.Message) {
	c.p.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var b []byte
	for _, m := range messages {
		b = c.encoder.Append(b, m)
	}
	if _, err := c.conn.Write(b); err != nil {
		c.p.t.Errorf("peer: write: %v", err)
	}
}

// receive returns the next message, which stays valid.
func (c *peerConn) receive() (wire.Message, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(testTimeout))
	body, err := wire.ReadFrame(c.conn, 1<<30, nil)
	if err != nil {
		return nil, err
	}
	return wire.NewDecoder().Decode(body)
}

// expectFrom returns the next message of kind M. Others before it are skipped if they
// are of the kinds that come by themselves: Next, Done, Ping.
func expectFrom[M wire.Message](c *peerConn) M {
	c.p.t.Helper()
	var want M
	for {
		m, err := c.receive()
		if err != nil {
			c.p.t.Fatalf("peer: waiting for %s: %v", want.Kind(), err)
		}
		if m, ok := m.(M); ok {
			return m
		}
		switch m.(type) {
		case *wire.Next, *wire.Done, *wire.Ping:
		default:
			c.p.t.Fatalf("peer: waiting for %s, got %s", want.Kind(), m)
		}
	}
}

// skipTo returns the next message of kind M for which ok holds, whatever comes
// before it.
func skipTo[M wire.Message](c *peerConn, ok func(M) bool) M {
	c.p.t.Helper()
	var want M
	for {
		m, err := c.receive()
		if err != nil {
			c.p.t.Fatalf("peer: waiting for a certain %s: %v", want.Kind(), err)
		}
		if m, is := m.(M); is && ok(m) {
			return m
		}
	}
}

func any1[M wire.Message](M) bool { return true }

// drain reads until the connection ends.
func (c *peerConn) drain() {
	for {
		if _, err := c.receive(); err != nil {
			return
		}
	}
}

// config is what a node needs to connect to p.
func (p *peer) config() Config {
	return Config{
		Addr: p.listener.Addr().String(), Dataflow: "demo", Node: "edges",
		Logger: slog.New(slog.DiscardHandler), BackoffMax: 20 * time.Millisecond,
	}
}

// connect starts a node and accepts it.
func (p *peer) connect(cfg Config) (*Node, *peerConn) {
	p.t.Helper()
	type result struct {
		n   *Node
		err error
	}
	connected := make(chan result, 1)
	go func() {
		n, err := Connect(testContext(p.t), cfg)
		connected <- result{n, err}
	}()
	c := p.accept().welcomeIn()
	r := <-connected
	if r.err != nil {
		p.t.Fatalf("Connect: %v", r.err)
	}
	p.t.Cleanup(func() {
		_ = c.conn.Close()
		_ = r.n.Close()
	})
	return r.n, c
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func mustOutput(t testing.TB, n *Node, id string) *Output {
	t.Helper()
	o, err := n.Output(id)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func mustNext(t testing.TB, n *Node, kind EventKind) Event {
	t.Helper()
	ev, err := n.Next(testContext(t))
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	if ev.Kind != kind {
		t.Fatalf("Next: got %s (%q, %v), want %s", ev.Kind, ev.Reason, ev.Err, kind)
	}
	return ev
}

func wantErr(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
}

// eventually waits for what another goroutine or the garbage collector does and
// does not tell.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not come true", what)
		}
	}
}
