package actors

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// TestLanesKeepTheirBooks plays nodes with lanes. Frames take their time in both
// directions, so that events meet in every order. Slots of the senders' regions
// have a ledger, as in shared memory: no slot may be used again while somebody
// reads it, and at the end none may be left over.
func TestLanesKeepTheirBooks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newLaneModel(rt)
		if rapid.Bool().Draw(rt, "warm") {
			m.warm()
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": m.verify,
			"join": func(rt *rapid.T) {
				node := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "node")
				if m.peers[node] != nil || m.away[node] != nil {
					rt.Skip("connected, or will be")
				}
				m.join(node, rapid.IntRange(0, 7).Draw(rt, "remote") == 0, rapid.IntRange(0, 9).Draw(rt, "plain") == 0)
			},
			"leave":    m.leave,
			"ghost":    m.ghost,
			"transmit": func(rt *rapid.T) { p := m.peer(rt); p.transmit(rapid.IntRange(1, 8).Draw(rt, "count")) },
			"read":     func(rt *rapid.T) { p := m.peer(rt); p.read(rapid.IntRange(1, 8).Draw(rt, "count")) },
			"publish":  m.publish,
			"pop":      func(rt *rapid.T) { m.peer(rt).pop(rapid.IntRange(1, 4).Draw(rt, "count")) },
			"release":  func(rt *rapid.T) { m.peer(rt).release(rapid.IntRange(1, 4).Draw(rt, "count")) },
			"receive":  func(rt *rapid.T) { m.peer(rt).receive(rapid.IntRange(0, 8).Draw(rt, "more")) },
			"reap":     func(rt *rapid.T) { m.peer(rt).reap() },
			"answer":   func(rt *rapid.T) { m.answer(rapid.IntRange(0, 9).Draw(rt, "deny") == 0) },
			"region":   func(rt *rapid.T) { m.peer(rt).askRegion() },
			"all":      func(rt *rapid.T) { m.everything(1) },
			"fault":    m.fault,
			"end":      m.end,
			"restart":  m.restart,
			"back":     m.back,
			"reload":   m.reload,
			"wait": func(rt *rapid.T) {
				m.w.play("wait "+rapid.SampledFrom([]string{"10ms", "100ms", "1s"}).Draw(rt, "time"), "")
			},
		})
		m.finish(rt)
	})
}

// laneModel is what well-behaved nodes know and do, and what they share.
type laneModel struct {
	t       tb
	w       *world
	next    ConnID
	peers   map[string]*lanePeer
	ghosts  []*lanePeer // processes without a connection
	seq     map[string]wire.Seq
	lost    map[string]map[wire.Seq]bool // never sent, or said to have failed
	ledger  map[place]uint64
	content map[place]wire.Seq
	leased  map[wire.RegionID]bool   // with the router
	names   map[wire.RegionID]string // of what is in shared memory
	away    map[string]*lanePeer     // that have not come back since the broker died
	flow    string                   // as it is loaded
	leaky   bool                     // somebody may hold for ever what no broker knows of
}

// lanePeer is one connected node. It is an actors.Conn.
type lanePeer struct {
	m                   *laneModel
	id                  ConnID
	node                string
	local, closed       bool
	adopting            bool // and not told yet what of it goes on
	inbox, outbox       []wire.Message
	ports               *wire.Ports
	ended               map[wire.OutputIndex]bool
	inlines             bool                      // it may send inline what gets no memory
	short, shortTold    map[wire.OutputIndex]bool // a message waits to go inline; the broker knows
	flow                map[wire.OutputIndex]wire.Flow
	published           map[wire.OutputIndex]uint64
	free                []place
	regions             map[wire.RegionID]bool
	bell                wire.RegionID
	known               map[wire.RegionID]string // names, as it was told
	lent                map[place]uint64         // the sender's own copy of what it wrote to the ledger
	tokens              map[wire.Token]place
	places              []place // by cookie
	delivered, consumed uint64
	held                []wire.Token
	lastSeq             map[string]wire.Seq // by input
	opened              map[wire.RegionID]wire.RegionID
	retired             map[wire.RegionID]bool
	out, in             map[wire.RegionID]*modelLane
	holds               []laneHold
	stuck               lane.Descriptor // popped, and not looked at yet
	stuckOn             *modelLane      // nil: there is none
}

// modelLane is one end of a lane.
type modelLane struct {
	wire.LaneGrant
	port     string
	producer *lane.Producer
	consumer *lane.Consumer
	answered bool
	started  bool
	gone     bool // found closed, or faulty
	closed   bool // LaneClose has come
}

type laneHold struct {
	at  place
	bit uint8
	seq wire.Seq
}

func newLaneModel(rt *rapid.T) *laneModel {
	m := &laneModel{
		t: rt, w: newWorld(rt), peers: map[string]*lanePeer{}, seq: map[string]wire.Seq{}, lost: map[string]map[wire.Seq]bool{},
		ledger: map[place]uint64{}, content: map[place]wire.Seq{}, leased: map[wire.RegionID]bool{},
		names: map[wire.RegionID]string{}, away: map[string]*lanePeer{}, flow: modelFlow,
	}
	m.w.start("test", true)
	m.w.play("flow f", m.flow)
	return m
}

// warm has all nodes there, with memory and lanes.
func (m *laneModel) warm() {
	for _, node := range []string{"a", "b", "c"} {
		m.join(node, false, false)
		m.peers[node].askRegion()
	}
	m.everything(3)
}

func (m *laneModel) join(node string, remote, plain bool) {
	m.next++
	p := &lanePeer{
		m: m, id: m.next, node: node, local: !remote, ended: map[wire.OutputIndex]bool{},
		inlines: m.next%2 == 1, short: map[wire.OutputIndex]bool{}, shortTold: map[wire.OutputIndex]bool{},
		flow: map[wire.OutputIndex]wire.Flow{}, published: map[wire.OutputIndex]uint64{},
		lent: map[place]uint64{}, tokens: map[wire.Token]place{}, lastSeq: map[string]wire.Seq{},
		opened: map[wire.RegionID]wire.RegionID{}, retired: map[wire.RegionID]bool{},
		regions: map[wire.RegionID]bool{}, known: map[wire.RegionID]string{}, out: map[wire.RegionID]*modelLane{}, in: map[wire.RegionID]*modelLane{},
	}
	m.peers[node] = p
	m.w.core.connEvent(m.w.now, &ConnEvent{Type: ConnOpened, ID: p.id, Conn: p})
	hello := &wire.Hello{VersionMin: 1, VersionMax: 1, Dataflow: "f", Node: node, Features: wire.FeatureLanes}
	if plain {
		hello.Features = 0
	}
	if p.inlines {
		hello.Features |= wire.FeatureInline
	}
	nonce := "right"
	if remote {
		nonce = ""
	}
	m.w.say(p.id, hello)
	m.w.say(p.id, &wire.Attach{Nonce: []byte(nonce)})
	m.w.play("flush", "")
}

func (m *laneModel) peer(rt *rapid.T) *lanePeer {
	if len(m.peers) == 0 {
		rt.Skip("nobody is there")
	}
	return m.peers[rapid.SampledFrom(keys(m.peers)).Draw(rt, "peer")]
}

// leave breaks a connection off. What was under way is lost, or not.
func (m *laneModel) leave(rt *rapid.T) {
	p := m.peer(rt)
	if rapid.IntRange(0, 3).Draw(rt, "often enough") > 0 {
		rt.Skip("stays")
	}
	p.transmit(rapid.IntRange(0, len(p.outbox)).Draw(rt, "sent"))
	m.disconnect(p, p.local && rapid.Bool().Draw(rt, "alive"))
}

func (m *laneModel) disconnect(p *lanePeer, alive bool) {
	m.leaky = m.leaky || p.adopting
	for _, msg := range p.outbox {
		switch msg := msg.(type) {
		case *wire.Publish:
			m.losing(p.key(msg.Output), msg.Seq)
		}
	}
	delete(m.peers, p.node)
	how := ""
	if alive {
		how = " alive"
		m.ghosts = append(m.ghosts, p)
	}
	m.w.play(fmt.Sprintf("close %d%s", p.id, how), "")
}

func (m *laneModel) losing(key string, seq wire.Seq) {
	if m.lost[key] == nil {
		m.lost[key] = map[wire.Seq]bool{}
	}
	m.lost[key][seq] = true
}

// ghost is a process without connection: it lets go of something, or ends.
func (m *laneModel) ghost(rt *rapid.T) {
	if len(m.ghosts) == 0 {
		rt.Skip("no ghosts")
	}
	p := m.ghosts[0]
	if p.pop(1); rapid.Bool().Draw(rt, "ends") {
		m.ghosts = m.ghosts[1:]
		p.holds = nil
		m.w.play(fmt.Sprintf("die %d", p.id), "")
		return
	}
	p.release(1)
}

func (m *laneModel) publish(rt *rapid.T) {
	p := m.peer(rt)
	if p.ports == nil || len(p.ports.Outputs) == 0 {
		rt.Skip("no outputs")
	}
	out := wire.OutputIndex(rapid.IntRange(0, len(p.ports.Outputs)-1).Draw(rt, "output"))
	for range rapid.IntRange(1, 6).Draw(rt, "count") {
		if !p.publish(out, rapid.Bool().Draw(rt, "shared")) {
			return
		}
	}
}

// fault is a node that finds a lane faulty.
func (m *laneModel) fault(rt *rapid.T) {
	p := m.peer(rt)
	if rapid.IntRange(0, 3).Draw(rt, "often enough") > 0 {
		rt.Skip("nothing wrong")
	}
	for _, lanes := range []map[wire.RegionID]*modelLane{p.out, p.in} {
		for _, id := range slices.Sorted(maps.Keys(lanes)) {
			if l := lanes[id]; !p.adopting && l.started && !l.gone {
				l.gone = l.Role == wire.LaneSender
				p.say(&wire.LaneFault{Lane: id, Text: "broken"})
				return
			}
		}
	}
	rt.Skip("no lane")
}

func (m *laneModel) end(rt *rapid.T) {
	p := m.peer(rt)
	if p.ports == nil || len(p.ports.Outputs) == 0 || rapid.IntRange(0, 7).Draw(rt, "often enough") > 0 {
		rt.Skip("goes on")
	}
	p.ended[0] = true
	p.say(&wire.OutputClose{})
}

func (m *laneModel) reload(rt *rapid.T) {
	text := modelFlow
	for _, r := range [][2]string{
		{"queue_size: 4, policy: block", "queue_size: 2, policy: block"},
		{"i: {source: a/o, queue_size: 1}", "i: {source: a/o, queue_size: 7}"},
		{"{source: c/o, queue_size: 3}", "{source: c/o, queue_size: 3, policy: " + rapid.SampledFrom([]string{"drop-newest", "block"}).Draw(rt, "policy") + "}"},
		{"      i: {source: a/o, queue_size: 5, policy: drop-newest}\n", ""},
	} {
		if rapid.Bool().Draw(rt, "changed") {
			text = strings.Replace(text, r[0], r[1], 1)
		}
	}
	m.flow = text
	m.w.play("flow f", text)
}

// answer has the pool do the oldest thing that it was asked.
func (m *laneModel) answer(deny bool) bool {
	for len(m.w.pool) > 0 {
		switch r := m.w.pool[0]; r.kind {
		case poolReturn, poolDiscard:
			if !m.leased[r.region] {
				m.t.Fatalf("region %d was given back twice", r.region)
			}
			delete(m.leased, r.region)
			delete(m.names, r.region)
		case poolRetire:
			delete(m.names, r.region)
		case poolAdopt:
			if m.names[r.region] != r.oldName {
				m.w.play("answer deny=unlinked", "")
				return true
			}
			m.leased[r.region], m.names[r.region] = true, "new-"+r.oldName
			m.w.play("answer", "")
			return true
		case poolGrant, poolLane:
			if deny {
				m.w.play("answer deny=full", "")
				return true
			}
			m.leased[m.w.last+1], m.names[m.w.last+1] = true, fmt.Sprintf("r%d", m.w.last+1)
			m.w.play("answer", "")
			return true
		case poolRead:
			m.w.play("answer", "")
			return true
		}
		m.w.pool = m.w.pool[1:]
	}
	return false
}

func (m *laneModel) verify(rt *rapid.T) {
	m.t, m.w.t = rt, rt
	m.w.core.check(rt)
	for _, p := range m.peers {
		if p.closed {
			rt.Fatalf("%s kept to the protocol and was cut off: %s", p.node, m.w.out.String())
		}
	}
	m.w.core.eachEdge(func(e *edge) {
		if e.id == "j" && e.dropTotal(wire.DropQueueFull) > 0 {
			rt.Fatalf("%s lost messages although its policy is block", e.to)
		}
	})
}

// everything lets all that is under way happen.
func (m *laneModel) everything(rounds int) {
	for range rounds {
		for _, node := range keys(m.peers) {
			p := m.peers[node]
			p.transmit(len(p.outbox))
			p.read(len(p.inbox))
			p.pop(100)
			p.release(100)
			p.receive(100)
			p.reap()
		}
		for m.answer(false) {
		}
		m.w.play("wait 100ms", "")
	}
}

// finish plays everything to its end and looks for what is left over.
func (m *laneModel) finish(rt *rapid.T) {
	m.t, m.w.t = rt, rt
	for _, node := range keys(m.away) {
		m.comeBack(node)
	}
	for len(m.ghosts) > 0 {
		m.w.play(fmt.Sprintf("die %d", m.ghosts[0].id), "")
		m.ghosts = m.ghosts[1:]
	}
	m.everything(10)
	m.w.play("wait 12s", "") // as long as nodes of a broker that died have to come back
	m.everything(20)
	m.verify(rt)
	for _, p := range m.peers {
		if len(p.lent) > 0 && !m.leaky {
			rt.Fatalf("%s never got back %d slots: %v", p.node, len(p.lent), p.lent)
		}
	}
	m.w.core.eachEdge(func(e *edge) {
		if l := e.lane; l != nil && l.books.queued() > 0 || e.sess != nil && e.timer == nil && e.queue.len() > 0 {
			rt.Fatalf("%s is stuck: %d queued, lane %+v", e.to, e.queue.len(), l)
		}
		local := e.timer == nil && m.peers[e.node.id] != nil && m.peers[e.source.node.id] != nil
		if local && e.lane == nil && m.w.core.laneObstacle(e) == "" {
			rt.Fatalf("%s could have a lane and has none", e.to)
		}
	})
	for _, node := range keys(m.peers) {
		m.disconnect(m.peers[node], false)
	}
	m.w.play("wait 12s", "") // as long as nodes of a broker that died have to come back
	for m.answer(false) {
	}
	c := m.w.core
	c.check(rt)
	for id, l := range c.lanes {
		rt.Errorf("lane %d is left over: %s stage %d, sender %+v, receiver %+v, until %v", id, l.edge.to, l.stage, l.sender, l.receiver, l.until)
	}
	if len(m.leased) > 0 || len(c.lanes)+len(c.regions)+len(c.asked)+len(c.laneList) > 0 || c.busy() {
		rt.Fatalf("left over: leased %v, %d lanes, %d regions, %d questions, busy %v", m.leased, len(c.lanes), len(c.regions), len(c.asked), c.busy())
	}
	if len(c.shortages) > 0 {
		rt.Fatalf("left over: %d shortages", len(c.shortages))
	}
	c.eachEdge(func(e *edge) {
		if st := &e.stats; st.published != st.delivered+st.dropped+st.noReceiver {
			rt.Fatalf("%s: at the end %d published, %d delivered, %d dropped, %d without receiver", e.to, st.published, st.delivered, st.dropped, st.noReceiver)
		}
	})
}
