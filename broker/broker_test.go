package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// patience is how long a test waits for what must happen. It is no measure of
// speed.
const patience = 20 * time.Second

const testFlow = `
nodes:
  - id: camera
    outputs: [image]
  - id: sink
    inputs:
      image: {source: camera/image, queue_size: 2000}
`

func parseFlow(t testing.TB, yaml string) *dataflow.Flow {
	t.Helper()
	flow, _, err := dataflow.Parse("test", []byte(yaml), dataflow.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return flow
}

// testBroker is a broker on a free port.
type testBroker struct {
	*Broker
	t    testing.TB
	addr string
	logs *observer.ObservedLogs
	end  func() error // ends Run and returns its result
}

func startBroker(t testing.TB, change func(*Config)) *testBroker {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	cfg := Defaults()
	cfg.Logger = zap.New(core)
	cfg.Listen = "127.0.0.1:0"
	cfg.ShmPrefix = testPrefix
	cfg.DrainTimeout = 200 * time.Millisecond
	cfg.LingerTimeout = 200 * time.Millisecond
	cfg.Flows = []*dataflow.Flow{parseFlow(t, testFlow)}
	if change != nil {
		change(&cfg)
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	select {
	case <-b.Ready():
	case err := <-ended:
		cancel()
		t.Fatalf("the broker did not start: %v", err)
	}
	tb := &testBroker{Broker: b, t: t, addr: b.Addr().String(), logs: logs}
	tb.end = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("Run did not return")
		}
	})
	t.Cleanup(func() {
		if err := tb.end(); err != nil {
			t.Errorf("the broker's end: %v", err)
		}
		if t.Failed() {
			for _, e := range logs.All() {
				t.Log(e.Level, e.Message, e.ContextMap())
			}
		}
	})
	return tb
}

// eventually waits for a condition that no channel tells of.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// linesWith returns the log lines that have a field of that value.
func (tb *testBroker) linesWith(field, value string) []observer.LoggedEntry {
	return tb.logs.Filter(func(e observer.LoggedEntry) bool {
		got, _ := e.ContextMap()[field].(string)
		return got == value
	}).All()
}

// peer is a client that speaks frames and does exactly what it is told.
type peer struct {
	net.Conn
	t   testing.TB
	buf []byte
	dec *wire.Decoder
}

func (tb *testBroker) dial() *peer {
	tb.t.Helper()
	conn, err := net.Dial("tcp", tb.addr)
	if err != nil {
		tb.t.Fatal(err)
	}
	tb.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &peer{Conn: conn, t: tb.t, dec: wire.NewDecoder()}
}

func (p *peer) send(messages ...wire.Message) {
	p.t.Helper()
	var b []byte
	for _, m := range messages {
		b = wire.NewEncoder().Append(b, m)
	}
	if _, err := p.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// next returns the next message, or the error of the stream.
func (p *peer) next() (wire.Message, error) {
	body, err := wire.ReadFrame(p, 1<<30, p.buf)
	if err != nil {
		return nil, err
	}
	p.buf = body
	return p.dec.Decode(body)
}

// until returns the first message of kind M, skipping others.
func until[M wire.Message](p *peer) M {
	p.t.Helper()
	for {
		m, err := p.next()
		if err != nil {
			p.t.Fatalf("waiting for %T: %v", *new(M), err)
		}
		if m, ok := m.(M); ok {
			return m
		}
		if e, ok := m.(*wire.Error); ok {
			p.t.Fatalf("waiting for %T: %v", *new(M), e)
		}
	}
}

// refusal reads the Error that ends the connection, and the end.
func (p *peer) refusal() *wire.Error {
	p.t.Helper()
	e := until[*wire.Error](p)
	refused := &wire.Error{Code: e.Code, Text: e.Text}
	if _, err := p.next(); !errors.Is(err, io.EOF) {
		p.t.Fatalf("after the error: %v", err)
	}
	return refused
}

func hello(node string) *wire.Hello {
	return &wire.Hello{VersionMin: wire.VersionMin, VersionMax: wire.VersionMax, Dataflow: "test", Node: node, Client: "test"}
}

func controlHello() *wire.Hello {
	return &wire.Hello{VersionMin: wire.VersionMin, VersionMax: wire.VersionMax, Role: wire.RoleControl, Client: "test"}
}

// join does the handshake of a remote node.
func (tb *testBroker) join(node string) *peer {
	tb.t.Helper()
	p := tb.dial()
	p.send(hello(node))
	until[*wire.Welcome](p)
	p.send(&wire.Attach{})
	until[*wire.Ready](p)
	until[*wire.Ports](p)
	return p
}

// joinLocal does the handshake of a node that sees the shared memory.
func (tb *testBroker) joinLocal(node string) *peer {
	tb.t.Helper()
	p := tb.dial()
	p.send(hello(node))
	w := until[*wire.Welcome](p)
	probe, nonce, err := shmpool.OpenProbe(w.ProbeName, w.ProbeOffset, w.ProbeLength)
	if err != nil {
		tb.t.Fatal(err)
	}
	tb.t.Cleanup(func() { _ = probe.Close() })
	if err := probe.Lock(w.Session); err != nil {
		tb.t.Fatal(err)
	}
	p.send(&wire.Attach{Nonce: nonce})
	if ready := until[*wire.Ready](p); !ready.Local {
		tb.t.Fatalf("not local: %s", ready.Reason)
	}
	until[*wire.Ports](p)
	return p
}

func (tb *testBroker) status() wire.Status {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	status, err := tb.Status(ctx)
	if err != nil {
		tb.t.Fatal(err)
	}
	return status
}

// Messages flow, frames larger than the handshake's limit included.
func TestMessages(t *testing.T) {
	tb := startBroker(t, nil)
	camera, sink := tb.join("camera"), tb.join("sink")
	sink.send(&wire.Next{Limit: 100})
	for i, size := range []int{0, 1, 5000, 100_000, 3 << 20} {
		payload := bytes.Repeat([]byte{byte(size + 1)}, size)
		camera.send(&wire.Publish{Seq: wire.Seq(i + 1), TimeNS: time.Now().UnixNano(), Length: uint64(size), Payload: payload})
		item := until[*wire.Inputs](sink).Items[0]
		if item.Length != uint64(size) || !bytes.Equal(item.Payload, payload) {
			t.Fatalf("%d bytes came out as %d", size, len(item.Payload))
		}
		sink.send(&wire.Next{Limit: 100, Consumed: uint64(i + 1)})
	}
}

func (tb *testBroker) nodeConnected(id string) bool {
	for _, n := range tb.status().Nodes {
		if n.Node == id {
			return n.Connected
		}
	}
	return false
}

func TestStatus(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.Version = "1.2.3" })
	tb.joinLocal("camera")
	status := tb.status()
	if status.Version != "1.2.3" || status.Addr != tb.addr || len(status.Edges) != 1 || !status.Nodes[0].Local {
		t.Fatalf("status %+v", status)
	}
	if status.Memory.LimitBytes != Defaults().TotalBytes {
		t.Fatalf("memory limit %d", status.Memory.LimitBytes)
	}
}

func TestReload(t *testing.T) {
	tb := startBroker(t, nil)
	more := parseFlow(t, strings.Replace(testFlow, "queue_size: 2000", "queue_size: 7", 1))
	ctx := context.Background()
	changes, err := tb.Reload(ctx, []*dataflow.Flow{more})
	if err != nil || len(changes) != 1 || !strings.Contains(changes[0], "queue_size") {
		t.Fatalf("changes %q, %v", changes, err)
	}
	if changes, err = tb.Reload(ctx, nil); err != nil || len(changes) != 1 || changes[0] != "test: removed" {
		t.Fatalf("changes %q, %v", changes, err)
	}
	if changes, err = tb.Reload(ctx, []*dataflow.Flow{more}); err != nil || len(changes) != 1 || changes[0] != "test: loaded" {
		t.Fatalf("changes %q, %v", changes, err)
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	cfg := Defaults()
	if err := cfg.Validate(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	for want, spoil := range map[string]func(*Config){
		"listen":        func(c *Config) { c.Listen = "nowhere" },
		"TLS is needed": func(c *Config) { c.Listen, c.AuthToken = "0.0.0.0:7447", []byte("token") },
		"client certificates are needed": func(c *Config) {
			c.Listen, c.TLS = "0.0.0.0:7447", &tls.Config{Certificates: make([]tls.Certificate, 1)}
		},
		"no certificate":    func(c *Config) { c.TLS = &tls.Config{} },
		"http":              func(c *Config) { c.HTTP = "nowhere" },
		"connections_max":   func(c *Config) { c.ConnectionsMax = 0 },
		"frame_max":         func(c *Config) { c.FrameBytesMax = 1 },
		"inline_max":        func(c *Config) { c.InlineBytesMax = c.FrameBytesMax },
		"outbound_max":      func(c *Config) { c.OutboundBytesMax = 0 },
		"handshake_timeout": func(c *Config) { c.HandshakeTimeout = 0 },
		"drain_timeout":     func(c *Config) { c.DrainTimeout = -1 },
		"queue_bytes_max":   func(c *Config) { c.QueueBytesMax = 100 },
		"buffers_max":       func(c *Config) { c.BuffersBytesMax = c.FrameBytesMax - 1 },
		"queue_total_max":   func(c *Config) { c.QueueTotalMax = c.QueueBytesMax - 1 },
		"outstanding":       func(c *Config) { c.OutstandingMax = 0 },
		"held_messages_max": func(c *Config) { c.HeldMessagesMax = 0 },
		"dataflows_max":     func(c *Config) { c.FlowsMax, c.Flows = 1, make([]*dataflow.Flow, 2) },
		"event_loops":       func(c *Config) { c.EventLoops = 0 },
		"read_bytes":        func(c *Config) { c.ReadBytes = 5000 },
		"shm_mode":          func(c *Config) { c.ShmMode = 0o666 },
		"shm_node_limit":    func(c *Config) { c.NodeBytes = c.TotalBytes + 1 },
		"auth token":        func(c *Config) { c.AuthToken = make([]byte, 2000) },
	} {
		cfg := Defaults()
		spoil(&cfg)
		if _, err := New(cfg); !errors.Is(err, ErrBadConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestRunOnce(t *testing.T) {
	tb := startBroker(t, nil)
	if err := tb.Run(context.Background()); !errors.Is(err, ErrRunTwice) {
		t.Fatal(err)
	}
	cfg := Defaults()
	cfg.Listen, cfg.ShmPrefix = tb.addr, testPrefix
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Run(context.Background()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("second broker on the same port: %v", err)
	}
	if err := tb.end(); err != nil {
		t.Fatal(err)
	}
	if _, err := tb.Status(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("after the end: %v", err)
	}
}

// A start that fails half-way gives back what it had.
func TestStartFailsLate(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	ours, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Defaults()
	cfg.Listener, cfg.ShmPrefix, cfg.HTTP = ours, testPrefix, taken.Addr().String()
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Run(context.Background()); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "http") {
		t.Fatalf("with the HTTP address taken: %v", err)
	}
	if _, err := ours.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("the listener is still open: %v", err)
	}
}

// A listener from outside (socket activation) serves as well.
func TestGivenListener(t *testing.T) {
	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here")
	}
	tb := startBroker(t, func(cfg *Config) { cfg.Listener = listener })
	if tb.addr != listener.Addr().String() {
		t.Fatalf("address %s", tb.addr)
	}
	tb.join("camera")
}

// The end is bounded in time also if nobody cooperates, and everybody is told.
// A listener that somebody shuts down from outside is replaced, and the broker
// ends in good order all the same.
func TestListenerShutDown(t *testing.T) {
	tb := startBroker(t, nil)
	living := tb.join("camera")
	for range 3 {
		a := tb.running().acceptor
		a.closing.Lock()
		raw, err := a.listener.(*net.TCPListener).SyscallConn()
		a.closing.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		if err := errors.Join(raw.Control(func(fd uintptr) {
			failed = syscall.Shutdown(int(fd), syscall.SHUT_RDWR)
		}), failed); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it listens again", func() bool {
			conn, err := net.Dial("tcp", tb.addr)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		p := tb.dial()
		p.send(controlHello())
		until[*wire.Welcome](p)
		living.send(&wire.Ping{Nonce: 1})
		until[*wire.Pong](living)
	}
	if n := tb.logs.FilterMessage("listener was shut down from outside; listening again").Len(); n != 3 {
		t.Errorf("%d lines in the log", n)
	}
}

func TestStopIsBounded(t *testing.T) {
	tb := startBroker(t, nil)
	stubborn, silent := tb.join("camera"), tb.dial()
	half := tb.dial()
	if _, err := half.Write([]byte{1, 0, 0}); err != nil {
		t.Fatal(err)
	}
	control := tb.dial()
	control.send(controlHello())
	until[*wire.Welcome](control)
	ended := make(chan error, 1)
	start := time.Now()
	go func() { ended <- tb.end() }()
	until[*wire.Stop](stubborn) // and stays
	if e := until[*wire.Error](stubborn); e.Code != wire.CodeShuttingDown {
		t.Errorf("stubborn node was told %v", e)
	}
	if e := until[*wire.Error](silent); e.Code != wire.CodeShuttingDown {
		t.Errorf("silent connection was told %v", e)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	if _, err := net.Dial("tcp", tb.addr); err == nil {
		t.Error("something still listens")
	}
}

// A broker without shared memory carries everything inline.
func TestWithoutSharedMemory(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.SharedMemory = false })
	p := tb.dial()
	p.send(hello("camera"))
	if w := until[*wire.Welcome](p); w.ProbeName != "" {
		t.Fatalf("a probe is on offer: %s", w)
	}
	p.send(&wire.Attach{})
	if ready := until[*wire.Ready](p); ready.Local {
		t.Fatal("local without shared memory")
	}
}

// Names that no shared memory object can have are found before anything starts.
func TestBadPrefix(t *testing.T) {
	for _, prefix := range []string{"", "a.b", "not/a/name", "with-dash"} {
		cfg := Defaults()
		cfg.ShmPrefix = prefix
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "shm_prefix") {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
}

// Where shared memory cannot be used the broker warns, and works.
func TestUnusableSharedMemory(t *testing.T) {
	// A group that the kernel cannot give files to.
	tb := startBroker(t, func(cfg *Config) { cfg.ShmMode, cfg.ShmGID = 0o660, -7 })
	if tb.logs.FilterMessageSnippet("no shared memory").Len() != 1 {
		t.Error("no warning")
	}
	tb.join("camera")
}
