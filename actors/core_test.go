package actors

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// TestCoreKeepsItsBooks plays random events, with nodes that keep to the
// protocol, and looks after each whether every message is accounted for.
func TestCoreKeepsItsBooks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(t, rt)
		rt.Repeat(map[string]func(*rapid.T){
			"":         m.verify,
			"join":     m.join,
			"leave":    m.leave,
			"publish":  m.publish,
			"receive":  m.receive,
			"release":  m.release,
			"evacuate": m.evacuate,
			"region":   m.region,
			"wait": func(rt *rapid.T) {
				m.w.play("wait "+rapid.SampledFrom([]string{"10ms", "100ms", "1s"}).Draw(rt, "time"), "")
			},
			"die":    m.die,
			"reject": m.reject,
			"failed": m.failed,
			"reload": m.reload,
		})
	})
}

// model is what well-behaved nodes know, kept apart from the core.
type model struct {
	t     *testing.T
	w     *world
	next  ConnID
	peers map[string]*peer // by node; connected ones
	left  []ConnID         // orphans
	seq   map[string]wire.Seq
}

// peer is one connected node. It is an actors.Conn.
type peer struct {
	m                   *model
	id                  ConnID
	node                string
	local               bool
	outputs, inputs     int
	flow                map[wire.OutputIndex]wire.Flow
	published           map[wire.OutputIndex]uint64
	slots               map[wire.Token]bool // published, not settled
	free                []place
	delivered, consumed uint64
	held                []heldToken
	lastSeq             map[wire.InputIndex]wire.Seq
	opened              map[wire.RegionID]bool
	closed              bool
}

type heldToken struct {
	token wire.Token
	input wire.InputIndex
}

type place struct {
	region wire.RegionID
	offset uint64
}

const modelFlow = `
nodes:
  - id: a
    outputs: [o, p]
    inputs: {back: {source: c/o, queue_size: 3}}
  - id: b
    inputs:
      i: {source: a/o, queue_size: 1}
      j: {source: a/p, queue_size: 4, policy: block}
      tick: {source: timer/millis/50, queue_size: 2}
  - id: c
    outputs: [o]
    inputs:
      i: {source: a/o, queue_size: 5, policy: drop-newest}
      j: {source: a/p, queue_size: 2, policy: block}
      self: {source: c/o, queue_size: 2, hold_timeout: 500ms}
`

func newModel(t *testing.T, rt *rapid.T) *model {
	m := &model{t: t, w: newWorld(rt), peers: map[string]*peer{}, seq: map[string]wire.Seq{}}
	f, _, err := dataflow.Parse("f", []byte(modelFlow), dataflow.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.w.core.reload(m.w.now, []*dataflow.Flow{f}); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *model) join(rt *rapid.T) {
	node := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "node")
	if m.peers[node] != nil {
		rt.Skip("connected")
	}
	m.next++
	p := &peer{
		m: m, id: m.next, node: node, local: rapid.Bool().Draw(rt, "local"),
		flow: map[wire.OutputIndex]wire.Flow{}, published: map[wire.OutputIndex]uint64{},
		slots: map[wire.Token]bool{}, lastSeq: map[wire.InputIndex]wire.Seq{}, opened: map[wire.RegionID]bool{},
	}
	m.peers[node] = p
	m.w.core.connEvent(m.w.now, &ConnEvent{Type: ConnOpened, ID: p.id, Conn: p})
	m.w.say(p.id, &wire.Hello{VersionMin: 1, VersionMax: 1, Dataflow: "f", Node: node,
		Features: wire.Features(rapid.Uint64Range(0, 3).Draw(rt, "features"))})
	nonce := ""
	if p.local {
		nonce = "right"
	}
	m.w.say(p.id, &wire.Attach{Nonce: []byte(nonce)})
	m.w.play("flush", "")
}

func (m *model) peer(rt *rapid.T) *peer {
	if len(m.peers) == 0 {
		rt.Skip("nobody is there")
	}
	return m.peers[rapid.SampledFrom(keys(m.peers)).Draw(rt, "peer")]
}

func (m *model) leave(rt *rapid.T) {
	p := m.peer(rt)
	delete(m.peers, p.node)
	alive := ""
	if p.local && rapid.Bool().Draw(rt, "alive") {
		alive = " alive"
		m.left = append(m.left, p.id)
	}
	m.w.play(fmt.Sprintf("close %d%s", p.id, alive), "")
}

func (m *model) die(rt *rapid.T) {
	if len(m.left) == 0 {
		rt.Skip("no orphan")
	}
	m.w.play(fmt.Sprintf("die %d", m.left[0]), "")
	m.left = m.left[1:]
}

func (m *model) publish(rt *rapid.T) {
	p := m.peer(rt)
	if p.outputs == 0 {
		rt.Skip("no outputs")
	}
	out := wire.OutputIndex(rapid.IntRange(0, p.outputs-1).Draw(rt, "output"))
	for range rapid.IntRange(1, 6).Draw(rt, "count") {
		if p.published[out] >= p.flow[out].Window {
			break
		}
		key := fmt.Sprint(p.node, out)
		m.seq[key]++
		msg := &wire.Publish{Output: out, Epoch: p.flow[out].Epoch, Seq: m.seq[key], TimeNS: m.w.now.UnixNano()}
		if len(p.free) > 0 && rapid.Bool().Draw(rt, "shared") {
			at := p.free[0]
			p.free = p.free[1:]
			msg.Region, msg.Offset, msg.Length = at.region, at.offset, 4000
			msg.Token = wire.Token(at.region)<<32 | wire.Token(at.offset)
			if p.slots[msg.Token] {
				rt.Fatalf("slot %v is used twice", at)
			}
			p.slots[msg.Token] = true
		} else {
			msg.Payload = []byte("payload")
			msg.Length = uint64(len(msg.Payload))
		}
		p.published[out]++
		m.w.say(p.id, msg)
	}
	m.w.play("flush", "")
}

func (m *model) receive(rt *rapid.T) {
	p := m.peer(rt)
	if p.inputs == 0 {
		rt.Skip("no inputs")
	}
	p.consumed += uint64(rapid.IntRange(0, int(p.delivered-p.consumed)).Draw(rt, "consumed"))
	m.w.say(p.id, &wire.Next{Limit: p.delivered + uint64(rapid.IntRange(0, 10).Draw(rt, "more")), Consumed: p.consumed})
	m.w.play("flush", "")
}

func (m *model) release(rt *rapid.T) {
	p := m.peer(rt)
	if len(p.held) == 0 {
		rt.Skip("holds nothing")
	}
	n := rapid.IntRange(1, len(p.held)).Draw(rt, "count")
	var done wire.Done
	for _, h := range p.held[:n] {
		done.Tokens = append(done.Tokens, h.token)
	}
	m.w.say(p.id, &done)
	p.held = p.held[n:]
	m.w.play("flush", "")
}

// evacuate gives back what the user goes on to hold.
func (m *model) evacuate(rt *rapid.T) {
	p := m.peer(rt)
	if s := m.w.core.sessions[p.id]; s == nil || !s.evacuates || len(p.held) == 0 {
		rt.Skip("holds nothing, or does not evacuate")
	}
	first := rapid.IntRange(0, len(p.held)-1).Draw(rt, "first")
	e := wire.Evacuated{Input: p.held[first].input, Region: 1}
	kept := p.held[:0:0]
	for i, h := range p.held {
		if i >= first && h.input == e.Input {
			e.Tokens = append(e.Tokens, h.token)
		} else {
			kept = append(kept, h)
		}
	}
	p.held = kept
	e.Count = uint32(len(e.Tokens))
	m.w.say(p.id, &wire.Kept{Messages: uint64(e.Count), Stuck: uint64(len(kept))})
	m.w.say(p.id, &e)
	m.w.play("flush", "")
}

func (m *model) region(rt *rapid.T) {
	p := m.peer(rt)
	if !p.local {
		rt.Skip("remote")
	}
	m.w.play(fmt.Sprintf("region %d slot=4096 slots=3", p.id), "")
	m.w.play("answer", "")
}

// reject gives back a message as unreadable.
func (m *model) reject(rt *rapid.T) {
	p := m.peer(rt)
	if len(p.held) == 0 {
		rt.Skip("holds nothing")
	}
	m.w.say(p.id, &wire.Reject{Token: p.held[0].token, Reason: wire.DropBadDescriptor})
	p.held = p.held[1:]
	m.w.play("flush", "")
}

func (m *model) failed(rt *rapid.T) {
	p := m.peer(rt)
	if p.outputs == 0 {
		rt.Skip("no outputs")
	}
	key := fmt.Sprint(p.node, 0)
	first := m.seq[key] + 1
	m.seq[key] += 3
	m.w.say(p.id, &wire.SendFailed{Reason: wire.DropNoMemory, Count: 3, Bytes: 30, SeqFirst: first, SeqLast: first + 2})
	m.w.play("flush", "")
}

// reload changes queue sizes, takes an input away, or brings it back.
func (m *model) reload(rt *rapid.T) {
	text := modelFlow
	for _, r := range [][2]string{
		{"queue_size: 4, policy: block", "queue_size: 2, policy: block"},
		{"i: {source: a/o, queue_size: 1}", "i: {source: a/o, queue_size: 7}"},
		{"      self: {source: c/o, queue_size: 2, hold_timeout: 500ms}\n", ""},
	} {
		if rapid.Bool().Draw(rt, "changed") {
			text = strings.Replace(text, r[0], r[1], 1)
		}
	}
	m.w.play("flow f", text)
}

// asked reports whether the pool owes an answer.
func (w *world) asked() bool {
	for _, r := range w.pool {
		if r.kind == poolGrant || r.kind == poolRead || r.kind == poolStats || r.kind == poolLane || r.kind == poolAdopt {
			return true
		}
	}
	return false
}

// verify is the core's own check, and: no answer is owed that could be given.
func (m *model) verify(rt *rapid.T) {
	for m.w.asked() {
		m.w.play("answer", "")
	}
	m.w.core.check(rt)
	for _, p := range m.peers {
		if p.closed {
			rt.Fatalf("%s kept to the protocol and was cut off: %s", p.node, m.w.out.String())
		}
		s := m.w.core.sessions[p.id]
		for _, o := range s.outputs {
			if want := o.allowed(m.w.core.inputBytes()); o.window < want && p.published[o.index] >= o.window {
				rt.Fatalf("%s is stuck at window %d of output %s, %d would be allowed", p.node, o.window, o.id, want)
			}
			for _, e := range o.edges {
				if e.policy == wire.PolicyBlock && e.dropTotal(wire.DropQueueFull) > 0 {
					rt.Fatalf("%s lost messages although its policy is block", e.to)
				}
			}
		}
		if s.consumed == s.delivered && s.delivered < s.limit && s.copying == nil {
			for _, e := range s.inputs {
				if e.queue.len() > 0 {
					rt.Fatalf("%s waits while %s has messages", p.node, e.to)
				}
			}
		}
	}
}

// Send plays the node's side of everything that the router says.
func (p *peer) Send(b []byte) {
	dec := wire.NewDecoder()
	for len(b) > 0 {
		body, rest, err := wire.NextFrame(b, 1<<30)
		if err != nil || body == nil {
			p.m.t.Fatalf("half a frame: %v", err)
		}
		b = rest
		msg, err := dec.Decode(body)
		if err != nil {
			p.m.t.Fatal(err)
		}
		p.receive(msg)
	}
}

func (p *peer) receive(msg wire.Message) {
	switch msg := msg.(type) {
	case *wire.Ports:
		p.outputs, p.inputs = len(msg.Outputs), len(msg.Inputs)
	case *wire.InputClosed:
		// A reload may put another source in its place, which counts anew.
		delete(p.lastSeq, msg.Input)
	case *wire.Flow:
		p.flow[msg.Output] = *msg
	case *wire.RegionGrant:
		for k := range msg.Slots {
			g := shmpool.Geometry{SlotBytes: msg.SlotBytes, Slots: msg.Slots}
			p.free = append(p.free, place{msg.Region, g.SlotOffset(k)})
		}
	case *wire.RegionRetire:
		kept := p.free[:0]
		for _, at := range p.free {
			if at.region != msg.Region {
				kept = append(kept, at)
			}
		}
		p.free = kept
	case *wire.RegionOpen:
		p.opened[msg.Region] = true
	case *wire.Done:
		for _, token := range msg.Tokens {
			if !p.slots[token] {
				p.m.t.Fatalf("%s: token %d came back twice", p.node, token)
			}
			delete(p.slots, token)
			p.free = append(p.free, place{wire.RegionID(token >> 32), uint64(token & 0xffff_ffff)})
		}
	case *wire.Inputs:
		for _, it := range msg.Items {
			p.delivered++
			if it.Seq <= p.lastSeq[it.Input] {
				p.m.t.Fatalf("%s: input %d got seq %d after %d", p.node, it.Input, it.Seq, p.lastSeq[it.Input])
			}
			p.lastSeq[it.Input] = it.Seq
			switch {
			case it.Token != 0 && !p.opened[it.Region]:
				p.m.t.Fatalf("%s: a message in region %d, which was not opened", p.node, it.Region)
			case it.Token != 0:
				p.held = append(p.held, heldToken{it.Token, it.Input})
			case uint64(len(it.Payload)) != it.Length:
				p.m.t.Fatalf("%s: %d bytes of payload, length %d", p.node, len(it.Payload), it.Length)
			}
		}
	}
}

func (p *peer) Established(bool)   {}
func (p *peer) Close()             { p.closed = true }
func (p *peer) RemoteAddr() string { return p.node }

// discard is a connection that takes everything and keeps nothing.
type discard struct{ bytes int }

func (d *discard) Send(b []byte)      { d.bytes += len(b) }
func (d *discard) Established(bool)   {}
func (d *discard) Close()             {}
func (d *discard) RemoteAddr() string { return "discard" }

// quiet is a journal that keeps nothing.
type quiet struct{}

func (quiet) drop(wire.DropRecord, func()) bool       { return true }
func (quiet) dropAtLast(wire.DropRecord, func()) bool { return true }
func (quiet) debug(string, ...zap.Field)              {}
func (quiet) info(string, ...zap.Field)               {}
func (quiet) warn(string, ...zap.Field)               {}

// loop is a sender and receivers on a core, for measuring. One call of round
// publishes and receives a batch of messages, as under load.
type loop struct {
	c         *core
	now       time.Time
	receivers int
	delivered uint64
	batch     int
}

func newLoop(tb testing.TB, receivers, batch int) *loop {
	yaml := "nodes:\n  - id: s\n    outputs: [o]\n"
	for i := range receivers {
		yaml += fmt.Sprintf("  - id: r%d\n    inputs: {i: {source: s/o, queue_size: 1024}}\n", i)
	}
	f, _, err := dataflow.Parse("f", []byte(yaml), dataflow.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	l := &loop{receivers: receivers, batch: batch, now: time.Unix(1000, 0)}
	w := newWorld(tb)
	l.c = newCore(RouterConfig{}.Defaults(), w, w, quiet{})
	if err := l.c.reload(l.now, []*dataflow.Flow{f}); err != nil {
		tb.Fatal(err)
	}
	for id := range ConnID(receivers + 1) {
		name := "s"
		if id > 0 {
			name = fmt.Sprintf("r%d", id-1)
		}
		l.c.connEvent(l.now, &ConnEvent{Type: ConnOpened, ID: id + 1, Conn: &discard{}})
		for _, m := range []wire.Message{&wire.Hello{Dataflow: "f", Node: name}, &wire.Attach{Nonce: []byte("right")}} {
			b := NewBatch()
			b.AddMessage(m, false)
			l.c.connEvent(l.now, &ConnEvent{Type: ConnMessages, ID: id + 1, Batch: b})
		}
	}
	return l
}

func (l *loop) round() {
	b := NewBatch()
	p := &wire.Publish{Seq: 1, TimeNS: l.now.UnixNano(), Length: 64, Payload: payload64[:]}
	for range l.batch {
		b.AddMessage(p, false)
	}
	l.c.connEvent(l.now, &ConnEvent{Type: ConnMessages, ID: 1, Batch: b})
	l.c.flush(l.now)
	l.delivered += uint64(l.batch)
	for r := range l.receivers {
		b := NewBatch()
		b.AddMessage(&wire.Next{Limit: l.delivered + 1024, Consumed: l.delivered}, false)
		l.c.connEvent(l.now, &ConnEvent{Type: ConnMessages, ID: ConnID(r + 2), Batch: b})
	}
	l.c.flush(l.now)
}

var payload64 [64]byte

func (l *loop) start() {
	for r := range l.receivers {
		b := NewBatch()
		b.AddMessage(&wire.Next{Limit: 1024}, false)
		l.c.connEvent(l.now, &ConnEvent{Type: ConnMessages, ID: ConnID(r + 2), Batch: b})
	}
	for range 64 {
		l.round()
	}
}

func TestRoutingDoesNotAllocate(t *testing.T) {
	if shmpool.Invariants {
		t.Skip("the checks of this build allocate")
	}
	l := newLoop(t, 3, 100)
	l.start()
	const rounds = 200
	perRound := testing.AllocsPerRun(rounds, l.round)
	if perMessage := perRound / 100; perMessage > 0.05 {
		t.Errorf("routing a message to 3 receivers allocates %g times", perMessage)
	}
	if got, want := l.c.counters.MessagesOut, 3*l.c.counters.MessagesIn; got != want {
		t.Errorf("%d messages out, want %d: the loop does not measure delivery", got, want)
	}
}

func BenchmarkCore(b *testing.B) {
	for _, receivers := range []int{1, 4, 8} {
		b.Run(fmt.Sprintf("1to%d", receivers), func(b *testing.B) {
			const batch = 100
			l := newLoop(b, receivers, batch)
			l.start()
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += batch {
				l.round()
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

// Nodes that bring something and leave, again and again, are forgotten when their
// processes have ended.
func TestBroughtIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.start("test", true)
	w.play("flow f", "nodes:\n  - id: r\n    outputs: [o]\n")
	for id := range 10 * broughtMin {
		w.play(fmt.Sprintf("join %d r adopting", id+1), "")
		w.play(fmt.Sprintf("adopt %d", id+1), "")
		w.play(fmt.Sprintf("close %d", id+1), "")
	}
	if n := len(w.core.brought); n == 0 || n > 2*broughtMin {
		t.Errorf("%d sessions are remembered", n)
	}
}
