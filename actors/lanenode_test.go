package actors

import (
	"bytes"
	"maps"
	"slices"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// key names an output over all sessions of its node.
func (p *lanePeer) key(out wire.OutputIndex) string { return p.node + "/" + p.ports.Outputs[out].ID }

func (p *lanePeer) say(msg wire.Message) { p.outbox = append(p.outbox, msg) }

func (p *lanePeer) transmit(n int) {
	for range min(n, len(p.outbox)) {
		msg := p.outbox[0]
		p.outbox = p.outbox[1:]
		p.m.w.say(p.id, msg)
	}
	p.m.w.play("flush", "")
}

// Send queues what the router says until the node reads it.
func (p *lanePeer) Send(b []byte) {
	for len(b) > 0 {
		body, rest, err := wire.NextFrame(b, 1<<30)
		if err != nil || body == nil {
			p.m.t.Fatalf("half a frame: %v", err)
		}
		b = rest
		msg, err := wire.NewDecoder().Decode(bytes.Clone(body))
		if err != nil {
			p.m.t.Fatal(err)
		}
		p.inbox = append(p.inbox, msg)
	}
}
func (p *lanePeer) Established(bool)   {}
func (p *lanePeer) Close()             { p.closed = true }
func (p *lanePeer) RemoteAddr() string { return p.node }

func (p *lanePeer) read(n int) {
	for range min(n, len(p.inbox)) {
		msg := p.inbox[0]
		p.inbox = p.inbox[1:]
		p.take(msg)
	}
}

func (p *lanePeer) askRegion() {
	if p.local {
		p.say(&wire.RegionRequest{SlotBytes: 4096, Slots: 6})
	}
}

func (p *lanePeer) receive(more int) {
	p.consumed = p.delivered
	p.say(&wire.Next{Limit: p.delivered + uint64(more), Consumed: p.consumed})
}

func (p *lanePeer) release(n int) {
	k := min(n, len(p.held))
	if k > 0 {
		p.say(&wire.Done{Tokens: p.held[:k:k]})
		p.held = p.held[k:]
	}
	for range min(n, len(p.holds)) {
		h := p.holds[0]
		p.holds = p.holds[1:]
		p.intact(h.at, h.seq)
		p.m.ledger[h.at] &^= 1 << h.bit
	}
}

// intact fails if a slot was used again while this node reads it.
func (p *lanePeer) intact(at place, seq wire.Seq) {
	if have := p.m.content[at]; have != seq {
		p.m.t.Fatalf("%s reads message %d in %v, where message %d is now", p.node, seq, at, have)
	}
}

// reap takes back slots that nobody has any more, and then lanes.
func (p *lanePeer) reap() {
	for at, mask := range p.lent {
		if p.m.ledger[at]&mask == 0 {
			delete(p.lent, at)
			if !p.retired[at.region] {
				p.free = append(p.free, at)
			}
		}
	}
	slices.SortFunc(p.free, func(a, b place) int { return int(a.region) - int(b.region) + int(a.offset) - int(b.offset) })
	for _, id := range slices.Sorted(maps.Keys(p.out)) {
		l := p.out[id]
		held := false
		for at, mask := range p.lent {
			held = held || p.m.ledger[at]&mask&(1<<l.Bit) != 0
		}
		if l.closed && !held && !p.adopting {
			delete(p.out, id)
			p.say(&wire.LaneDone{Lane: id})
		}
	}
}

// modelGeometry is that of all regions in the model.
var modelGeometry = shmpool.Geometry{SlotBytes: 4096, Slots: 6}
