package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/pool"
	"github.com/brokerd/brokerd/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is an allocator of regions in the heap. create, if set, is called
// before each creation.
type memory struct {
	create func(wire.RegionID) error
	mu     sync.Mutex
	open   map[wire.RegionID]*heapRegion
	reads  chan struct{} // if set, every read waits for one element
}

type heapRegion struct {
	m        *memory
	id       wire.RegionID
	header   []byte
	unlinked atomic.Bool
	closed   atomic.Bool
}

func (m *memory) Create(id wire.RegionID, g shmpool.Geometry) (pool.Region, error) {
	if m.create != nil {
		if err := m.create(id); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open == nil {
		m.open = map[wire.RegionID]*heapRegion{}
	}
	r := &heapRegion{m: m, id: id, header: make([]byte, shmpool.HeaderBytes)}
	shmpool.EncodeHeader(r.header, id, g)
	m.open[id] = r
	return r, nil
}

func (m *memory) Adopt(_ string, id wire.RegionID, g shmpool.Geometry) (pool.Region, error) {
	return m.Create(id, g)
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.open)
}

func (r *heapRegion) Name() string { return fmt.Sprintf("region-%d", r.id) }
func (r *heapRegion) Rest()        {}
func (r *heapRegion) Unlink() error {
	r.unlinked.Store(true)
	return nil
}
func (r *heapRegion) Close() error {
	if r.closed.Swap(true) {
		return errors.New("closed twice")
	}
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	delete(r.m.open, r.id)
	return nil
}
func (r *heapRegion) ReadAt(p []byte, off int64) (int, error) {
	if off < shmpool.HeaderBytes {
		return copy(p, r.header[off:]), nil
	}
	if r.m.reads != nil {
		<-r.m.reads
	}
	if r.closed.Load() {
		return 0, errors.New("read of a closed region")
	}
	for i := range p {
		p[i] = byte(r.id)
	}
	return len(p), io.EOF
}

var testLimits = pool.Limits{TotalBytes: 1 << 20, NodeBytes: 1 << 20, Regions: 8, CacheBytes: 1 << 20, CacheAge: time.Minute}

// recorder is a connection that keeps what it was sent.
type recorder struct {
	mu     sync.Mutex
	frames []wire.Message
	closed bool
}

func (c *recorder) Send(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(b) > 0 {
		body, rest, err := wire.NextFrame(b, 1<<30)
		if err != nil || body == nil {
			panic(fmt.Sprintf("half a frame: %v", err))
		}
		b = rest
		m, err := wire.NewDecoder().Decode(bytes.Clone(body))
		if err != nil {
			panic(err)
		}
		c.frames = append(c.frames, m)
	}
}
func (c *recorder) Established(bool)   {}
func (c *recorder) RemoteAddr() string { return "recorder" }
func (c *recorder) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// got returns the frames of a kind so far.
func got[M wire.Message](c *recorder) (found []M) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.frames {
		if m, ok := m.(M); ok {
			found = append(found, m)
		}
	}
	return found
}

// rig is a running router with a pool in the heap.
type rig struct {
	t       *testing.T
	router  *Router
	pool    *PoolActor
	journal *Journal
	memory  *memory
	logs    *observer.ObservedLogs
	next    ConnID
}

const rigFlow = `
nodes:
  - id: s
    outputs: [o]
  - id: r
    inputs: {i: {source: s/o, queue_size: 4}}
`

func newRig(t *testing.T, wrap func(zapcore.Core) zapcore.Core) *rig {
	core, logs := observer.New(zapcore.DebugLevel)
	if wrap != nil {
		core = wrap(core)
	}
	g := &rig{t: t, memory: &memory{}, logs: logs, journal: NewJournal(zap.New(core))}
	var err error
	if g.pool, err = NewPoolActor(testLimits, 0, g.memory, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dead: map[ConnID]bool{}}
	g.router = NewRouter(RouterConfig{}, RouterDeps{Journal: g.journal, Pool: g.pool, Probe: w, Liveness: w})
	go g.pool.Run()
	go g.router.Run()
	flow, _, err := dataflow.Parse("f", []byte(rigFlow), dataflow.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.router.Reload(t.Context(), []*dataflow.Flow{flow}); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *rig) stop() {
	g.router.Stop()
	g.pool.Stop()
	g.journal.Close(time.Second)
	if n := g.memory.count(); n > 0 {
		g.t.Errorf("%d regions are left", n)
	}
}

func (g *rig) join(node string) (ConnID, *recorder) {
	g.next++
	c := &recorder{}
	if !g.router.Post(ConnEvent{Type: ConnOpened, ID: g.next, Conn: c}) {
		g.t.Fatal("the router has stopped")
	}
	g.say(g.next, &wire.Hello{Dataflow: "f", Node: node}, &wire.Attach{Nonce: []byte("right")})
	return g.next, c
}

func (g *rig) say(id ConnID, messages ...wire.Message) {
	b := NewBatch()
	for _, m := range messages {
		b.AddMessage(m, false)
	}
	g.router.Post(ConnEvent{Type: ConnMessages, ID: id, Batch: b})
}

func TestRouterServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil)
		sender, sent := g.join("s")
		receiver, received := g.join("r")
		g.say(sender, &wire.RegionRequest{Request: 1, SlotBytes: 4096, Slots: 2})
		synctest.Wait()
		grants := got[*wire.RegionGrant](sent)
		if len(grants) != 1 || len(got[*wire.RegionOpen](received)) != 1 {
			t.Fatalf("grants %v, opened %v", grants, got[*wire.RegionOpen](received))
		}
		g.say(receiver, &wire.Next{Limit: 10})
		g.say(sender, &wire.Publish{Seq: 1, TimeNS: time.Now().UnixNano(), Token: 5, Region: grants[0].Region, Offset: 4096, Length: 100})
		synctest.Wait()
		inputs := got[*wire.Inputs](received)
		if len(inputs) != 1 {
			t.Fatalf("inputs %v", inputs)
		}
		g.say(receiver, &wire.Next{Limit: 10, Consumed: 1, Done: []wire.Token{inputs[0].Items[0].Token}})
		synctest.Wait()
		if done := got[*wire.Done](sent); len(done) != 1 || done[0].Tokens[0] != 5 {
			t.Fatalf("done %v", done)
		}
		status, err := g.router.Status(t.Context())
		if err != nil || len(status.Edges) != 1 || status.Edges[0].Delivered != 1 || status.Memory.Regions != 1 {
			t.Fatalf("status %+v, %v", status, err)
		}
		g.stop()
		if !received.closed || !sent.closed {
			t.Error("connections were left open")
		}
		if g.router.Post(ConnEvent{Type: ConnOpened, ID: 99}) {
			t.Error("a stopped router takes events")
		}
		if _, err := g.router.Status(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("status of a stopped router: %v", err)
		}
	})
}

func TestDrainWaitsForNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil)
		id, c := g.join("s")
		drained := make(chan error, 1)
		go func() { drained <- g.router.Drain(t.Context()) }()
		synctest.Wait()
		if len(got[*wire.Stop](c)) != 1 {
			t.Error("the node was not asked to stop")
		}
		_, late := g.join("r")
		synctest.Wait()
		if e := got[*wire.Error](late); len(e) != 1 || e[0].Code != wire.CodeShuttingDown {
			t.Errorf("a node that comes during the drain got %v", e)
		}
		time.Sleep(time.Second)
		select {
		case err := <-drained:
			t.Fatalf("drained with a node connected: %v", err)
		default:
		}
		g.router.Post(ConnEvent{Type: ConnClosed, ID: id})
		time.Sleep(time.Second)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		// A drain that takes too long ends with its context.
		_, _ = g.join("s")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = g.router.Drain(ctx)
		g.stop()
	})
}

// stuck is a log that hangs until it is let go.
type stuck struct {
	zapcore.Core
	free chan struct{}
}

func (s stuck) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, s)
}
func (s stuck) Write(e zapcore.Entry, fields []zapcore.Field) error {
	<-s.free
	return s.Core.Write(e, fields)
}
func (s stuck) With(fields []zapcore.Field) zapcore.Core {
	return stuck{s.Core.With(fields), s.free}
}

func TestStuckLogStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		g := newRig(t, func(c zapcore.Core) zapcore.Core { return stuck{c, free} })
		sender, _ := g.join("s")
		_, _ = g.join("r")
		// Far more drops, over far longer, than the log's mailbox holds.
		const messages = 100_000
		for range messages / 100 {
			b := NewBatch()
			for i := range 100 {
				b.AddMessage(&wire.Publish{Seq: wire.Seq(i + 1), Length: 0}, false)
			}
			g.router.Post(ConnEvent{Type: ConnMessages, ID: sender, Batch: b})
			time.Sleep(2 * time.Second)
		}
		status, err := g.router.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		close(free)
		time.Sleep(2 * time.Second)
		g.stop()
		var logged uint64
		for _, line := range g.logs.FilterMessage("message dropped").All() {
			logged += line.ContextMap()["count"].(uint64)
		}
		if want := status.Counters.Drops + 4; logged != want || status.Counters.Drops != messages-4 {
			t.Errorf("%d drops logged, %d counted before the stop, of %d messages", logged, status.Counters.Drops, messages)
		}
	})
}

func TestSlowCreationDelaysOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil)
		slow := make(chan struct{})
		g.memory.create = func(id wire.RegionID) error {
			if id == 1 {
				<-slow
			}
			return nil
		}
		sender, sent := g.join("s")
		g.say(sender, &wire.RegionRequest{Request: 1, SlotBytes: 4096, Slots: 2})
		synctest.Wait()
		g.say(sender, &wire.RegionRequest{Request: 2, SlotBytes: 8192, Slots: 2})
		synctest.Wait()
		if grants := got[*wire.RegionGrant](sent); len(grants) != 1 || grants[0].Request != 2 {
			t.Fatalf("while request 1 is slow: grants %v", grants)
		}
		close(slow)
		synctest.Wait()
		if grants := got[*wire.RegionGrant](sent); len(grants) != 2 {
			t.Fatalf("grants %v", grants)
		}
		g.stop()
	})
}

func TestRefusedRegionNamesTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil)
		sender, sent := g.join("s")
		g.say(sender, &wire.RegionRequest{Request: 1, SlotBytes: 1 << 20, Slots: 4})
		g.memory.create = func(wire.RegionID) error { return errors.New("no space left on device") }
		g.say(sender, &wire.RegionRequest{Request: 2, SlotBytes: 4096, Slots: 4})
		synctest.Wait()
		denied := got[*wire.RegionDenied](sent)
		if len(denied) != 2 || denied[0].Code != wire.CodeQuota || denied[1].Code != wire.CodeNoMemory {
			t.Fatalf("denied %v", denied)
		}
		g.stop()
	})
}

// TestStopDuringCreation stops the pool while a worker creates: the region must
// not outlive it.
func TestStopDuringCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil)
		slow := make(chan struct{})
		g.memory.create = func(wire.RegionID) error { <-slow; return nil }
		sender, _ := g.join("s")
		for i := range 6 {
			g.say(sender, &wire.RegionRequest{Request: uint32(i), SlotBytes: 4096, Slots: 2})
		}
		synctest.Wait()
		go func() {
			time.Sleep(time.Second)
			close(slow)
		}()
		g.stop()
	})
}

// TestReturnWaitsForReads gives a region back while its payload is being copied
// for a remote node.
func TestReturnWaitsForReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{reads: make(chan struct{})}
		p, err := NewPoolActor(testLimits, 0, m, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		go p.Run()
		p.requests <- poolRequest{kind: poolGrant, session: 1, geometry: shmpool.Geometry{SlotBytes: 4096, Slots: 1}}
		grant := <-p.replies
		p.requests <- poolRequest{kind: poolRead, region: grant.region, offset: 4096, length: 10}
		p.requests <- poolRequest{kind: poolDiscard, region: grant.region}
		synctest.Wait()
		if m.count() != 1 {
			t.Fatal("the region was closed under a read")
		}
		m.reads <- struct{}{}
		read := <-p.replies
		if read.err != nil || !bytes.Equal(read.payload, bytes.Repeat([]byte{byte(grant.region)}, 10)) {
			t.Fatalf("read %v, %v", read.payload, read.err)
		}
		synctest.Wait()
		if m.count() != 0 {
			t.Error("the region was not closed after the read")
		}
		p.Stop()
	})
}

// notify is a connection that discards what it is sent and tells so.
type notify struct {
	discard
	sent chan struct{}
}

func (n *notify) Send([]byte) { n.sent <- struct{}{} }

// BenchmarkRouter measures the actor: events through its mailbox, frames into a
// connection that discards them. A receiver answers each batch.
func BenchmarkRouter(b *testing.B) {
	const batch = 100
	l := newLoop(b, 1, batch)
	l.start()
	conn := &notify{sent: make(chan struct{}, 8)}
	l.c.sessions[2].conn = conn
	journal := NewJournal(zap.NewNop())
	p, err := NewPoolActor(testLimits, 0, &memory{}, zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	r := NewRouter(RouterConfig{}, RouterDeps{Journal: journal, Pool: p, Probe: l.c.probe, Liveness: l.c.live})
	r.core = l.c
	go p.Run()
	go r.Run()
	b.ReportAllocs()
	b.ResetTimer()
	publish := &wire.Publish{Seq: 1, Length: 64, Payload: payload64[:]}
	delivered, before := l.delivered, l.c.counters.MessagesOut
	for i := 0; i < b.N; i += batch {
		in := NewBatch()
		for range batch {
			in.AddMessage(publish, false)
		}
		r.Post(ConnEvent{Type: ConnMessages, ID: 1, Batch: in})
		<-conn.sent
		delivered += batch
		next := NewBatch()
		next.AddMessage(&wire.Next{Limit: delivered + 1024, Consumed: delivered}, false)
		r.Post(ConnEvent{Type: ConnMessages, ID: 2, Batch: next})
	}
	status, err := r.Status(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	if n := status.Counters.MessagesOut - before; n < uint64(b.N) || status.Counters.Drops > 0 {
		b.Fatalf("%d of %d messages went through: %+v", n, b.N, status.Counters)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.StopTimer()
	r.Stop()
	p.Stop()
	journal.Close(time.Second)
}
