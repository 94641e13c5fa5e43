package actors

import (
	"maps"
	"slices"
	"strings"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// publish sends one message on an output: first to its lanes, then to the broker
// if somebody needs it from there. It returns false if the sender has to wait.
func (p *lanePeer) publish(out wire.OutputIndex, shared bool) bool {
	f, ok := p.flow[out]
	if !ok || p.ended[out] || !p.ports.Outputs[out].Open {
		return false
	}
	var lanes []*modelLane
	brokered := f.Brokered > 0
	for _, id := range slices.Sorted(maps.Keys(p.out)) {
		l := p.out[id]
		if l.port != p.ports.Outputs[out].ID || !l.started || l.closed {
			continue
		}
		if l.gone = l.gone || l.producer.Closed(); l.gone {
			if l.Policy == wire.PolicyBlock {
				return false // until LaneClose has come, with the flow before it
			}
			brokered = true
			continue
		}
		if n, _ := l.producer.Room(); n == 0 && l.Policy == wire.PolicyBlock {
			return false
		}
		lanes = append(lanes, l)
	}
	brokered = brokered || len(lanes) == 0
	if brokered && p.published[out] >= f.Window {
		return false
	}
	p.short[out] = p.short[out] || len(p.free) == 0 && p.inlines && p.local && (len(lanes) > 0 || shared)
	if p.short[out] && len(lanes) > 0 {
		if !p.shortTold[out] {
			p.shortTold[out] = true
			p.say(&wire.Shortage{Output: out, Bytes: 5000})
		}
		return false // until all lanes are closed
	}
	key := p.key(out)
	p.m.seq[key]++
	seq := p.m.seq[key]
	if p.reap(); len(p.free) == 0 && !p.short[out] && (len(lanes) > 0 || shared) {
		p.m.losing(key, seq)
		p.say(&wire.SendFailed{Output: out, Reason: wire.DropNoMemory, Count: 1, Bytes: 100, SeqFirst: seq, SeqLast: seq})
		for _, l := range lanes {
			l.producer.Failed(1)
		}
		return true
	}
	msg := &wire.Publish{Output: out, Epoch: f.Epoch, Seq: seq, TimeNS: p.m.w.now.UnixNano()}
	switch {
	case p.short[out]:
		msg.Payload, msg.Length = make([]byte, 5000), 5000
		p.short[out], p.shortTold[out] = false, false
	case len(lanes) > 0 || shared:
		p.place(msg, lanes, brokered)
	default:
		msg.Payload, msg.Length = []byte("payload"), 7
	}
	for _, l := range lanes {
		p.push(msg, l)
	}
	if brokered {
		p.published[out]++
		p.say(msg)
	}
	return true
}

// place takes a slot and enters in its ledger who will read it.
func (p *lanePeer) place(msg *wire.Publish, lanes []*modelLane, brokered bool) {
	at := p.free[0]
	p.free = p.free[1:]
	var mask uint64
	for _, l := range lanes {
		mask |= 1 << l.Bit
	}
	msg.Region, msg.Offset, msg.Length = at.region, at.offset, 4000
	if brokered {
		mask |= 1 << lane.BrokerBit
		msg.Token = wire.Token(at.region)<<32 | wire.Token(at.offset)
		p.tokens[msg.Token] = at
	}
	p.m.ledger[at], p.lent[at], p.m.content[at] = mask, mask, msg.Seq
	p.places = append(p.places, at)
}

func (p *lanePeer) push(msg *wire.Publish, l *modelLane) {
	cookie := uint64(len(p.places) - 1)
	v, victim, evicted := l.producer.Push(&lane.Descriptor{
		Seq: msg.Seq, TimeNS: msg.TimeNS, Region: msg.Region, Offset: msg.Offset, Length: msg.Length,
	}, cookie)
	if evicted {
		p.m.ledger[p.places[victim]] &^= 1 << l.Bit
	}
	switch v {
	case lane.Pushed:
	case lane.Refused:
		p.m.ledger[p.places[cookie]] &^= 1 << l.Bit
	default:
		p.m.t.Fatalf("push on lane %d: %v", l.Lane, v)
	}
	msg.Lanes |= 1 << l.Bit
}

// take does what a node does with a message of the router.
func (p *lanePeer) take(msg wire.Message) {
	m := p.m
	switch msg := msg.(type) {
	case *wire.Ports:
		p.ports = msg
	case *wire.Flow:
		p.flow[msg.Output] = *msg
	case *wire.RegionGrant:
		p.regions[msg.Region], p.known[msg.Region] = true, msg.Name
		for k := range msg.Slots {
			p.free = append(p.free, place{msg.Region, modelGeometry.SlotOffset(k)})
		}
	case *wire.RegionRetire:
		p.retired[msg.Region] = true
		p.free = slices.DeleteFunc(p.free, func(at place) bool { return at.region == msg.Region })
	case *wire.RegionOpen:
		p.opened[msg.Region] = msg.Owner
	case *wire.Done:
		for _, token := range msg.Tokens {
			at, ok := p.tokens[token]
			if !ok {
				m.t.Fatalf("%s: token %d came back twice", p.node, token)
			}
			delete(p.tokens, token)
			m.ledger[at] &^= 1 << lane.BrokerBit
		}
	case *wire.Inputs:
		for _, it := range msg.Items {
			p.delivered++
			p.inOrder(p.ports.Inputs[it.Input].ID, it.Seq)
			if it.Token != 0 {
				p.intact(place{it.Region, it.Offset}, it.Seq)
				p.held = append(p.held, it.Token)
			}
		}
	case *wire.InputClosed:
		for _, l := range p.in {
			if l.port == p.ports.Inputs[msg.Input].ID && l.started && !p.adopting {
				var d lane.Descriptor
				if v, _, _ := l.consumer.Pop(&d); v != lane.Ended {
					m.t.Fatalf("%s: input %d is closed, and lane %d says %v", p.node, msg.Input, l.Lane, v)
				}
			}
		}
		delete(p.lastSeq, p.ports.Inputs[msg.Input].ID)
	case *wire.LaneGrant:
		p.granted(msg)
	case *wire.LaneStart:
		p.in[msg.Lane].started = true
	case *wire.LaneClose:
		p.laneClosed(msg)
	case *wire.Adopted:
		p.adopted(msg)
	case *wire.Error:
		m.t.Fatalf("%s was told %v", p.node, msg)
	}
}

// inOrder checks that an input gets its messages in order, whatever way they
// came, and with policy block all of them.
func (p *lanePeer) inOrder(input string, seq wire.Seq) {
	last := p.lastSeq[input]
	if seq <= last {
		p.m.t.Fatalf("%s: input %s got seq %d after %d", p.node, input, seq, last)
	}
	i := slices.IndexFunc(p.ports.Inputs, func(port wire.InputPort) bool { return port.ID == input })
	port := wire.InputPort{} // removed by a reload, and what is on its lane is read all the same
	if i >= 0 {
		port = p.ports.Inputs[i]
	}
	for s := last + 1; last > 0 && s < seq && port.ID == "j"; s++ {
		if !p.m.lost[port.Source][s] {
			p.m.t.Fatalf("%s: input %s with policy block got seq %d after %d, without %d", p.node, input, seq, last, s)
		}
	}
	p.lastSeq[input] = seq
}

// granted maps a lane. The sender starts at once.
func (p *lanePeer) granted(g *wire.LaneGrant) {
	l := &modelLane{LaneGrant: *g, answered: true}
	p.bell, p.known[g.BellRegion], p.known[g.Lane] = g.BellRegion, g.BellName, g.Name
	cfg := lane.Config{Lane: g.Lane, QueueSize: g.QueueSize, Policy: g.Policy}
	var err error
	if g.Role == wire.LaneReceiver {
		p.in[g.Lane] = l
		l.port = p.ports.Inputs[g.Port].ID
		l.consumer, err = lane.NewConsumer(p.m.w.words[g.Lane], cfg)
	} else {
		p.out[g.Lane] = l
		l.port = p.ports.Outputs[g.Port].ID
		l.producer, err = lane.NewProducer(p.m.w.words[g.Lane], cfg)
	}
	if err != nil {
		p.m.t.Fatal(err)
	}
	if uint64(p.id+wire16(g.Lane))%13 == 0 {
		delete(p.in, g.Lane)
		delete(p.out, g.Lane)
		p.say(&wire.LaneReady{Lane: g.Lane, Text: "no address space"})
		return
	}
	p.say(&wire.LaneReady{Lane: g.Lane})
	if g.Role == wire.LaneSender {
		l.started = true
		clear(p.shortTold)
		p.say(&wire.LaneStart{Lane: g.Lane})
	}
}

func wire16(id wire.RegionID) ConnID { return ConnID(id & 0xffff) }

func (p *lanePeer) laneClosed(msg *wire.LaneClose) {
	if l := p.out[msg.Lane]; l != nil {
		l.closed = true
		if msg.Withdrawn > 0 {
			n := uint32(0)
			l.producer.Since(msg.From, func(cookie uint64) {
				n++
				p.m.ledger[p.places[cookie]] &^= 1 << l.Bit
			})
			if n != msg.Withdrawn {
				p.m.t.Fatalf("%s: %d messages withdrawn from lane %d, from there on it has sent %d", p.node, msg.Withdrawn, msg.Lane, n)
			}
		}
		if msg.Settled {
			for at := range p.lent {
				p.m.ledger[at] &^= 1 << l.Bit
			}
		}
	}
	if l := p.in[msg.Lane]; l != nil {
		l.closed = true
		if !l.started {
			delete(p.in, msg.Lane)
			p.say(&wire.LaneDone{Lane: msg.Lane})
		}
	}
}

// resume goes on with a message whose region was not known, if it is now. It
// returns false if the node has to wait.
func (p *lanePeer) resume() bool {
	d, l := p.stuck, p.stuckOn
	if l == nil {
		return true
	}
	for p.opened[d.Region] == 0 && !p.adopting && len(p.inbox) > 0 {
		p.read(1) // its announcement is on the way
	}
	owner := p.opened[d.Region]
	sender, _, _ := strings.Cut(l.Peer, "/")
	if owner == 0 && (p.adopting || p.m.away[sender] != nil) {
		return false // until its sender has come back, too
	}
	if owner == 0 && p.m.leaky {
		// Its sender has gone, and with it all knowledge of that region.
		p.stuckOn = nil
		p.m.losing(l.Peer, d.Seq)
		if p.in[l.Lane] != l {
			return true // the broker knows nothing of that lane either
		}
		p.say(&wire.LaneFault{Lane: l.Lane, Reason: wire.DropBadDescriptor, Count: 1, Bytes: d.Length, SeqFirst: d.Seq, SeqLast: d.Seq, Text: "unknown region"})
		return true
	}
	if owner != l.PeerBellRegion {
		p.m.t.Fatalf("%s: message %d on lane %d in region %d of bell %d, not %d", p.node, d.Seq, l.Lane, d.Region, owner, l.PeerBellRegion)
	}
	at := place{d.Region, d.Offset}
	p.intact(at, d.Seq)
	p.inOrder(l.port, d.Seq)
	p.holds = append(p.holds, laneHold{at, l.Bit, d.Seq})
	p.stuckOn = nil
	return true
}

// pop takes messages off the lanes of the node's inputs.
func (p *lanePeer) pop(n int) {
	for _, id := range slices.Sorted(maps.Keys(p.in)) {
		l := p.in[id]
		for range n {
			if !l.started || !p.resume() {
				break
			}
			var d lane.Descriptor
			v, _, _ := l.consumer.Pop(&d)
			if v == lane.Ended && l.closed && !p.adopting && p.resume() {
				delete(p.in, id)
				p.say(&wire.LaneDone{Lane: id})
				break
			}
			if v == lane.Corrupt {
				p.m.t.Fatalf("lane %d is corrupt", id)
			}
			if v != lane.Got {
				break
			}
			p.stuck, p.stuckOn = d, l
		}
	}
	p.resume()
}
