package node

import (
	"context"
	"fmt"
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// halfway is a message that lanes have and the broker has not: one of the lanes
// turned out to be closed when others had it already. Its publisher does not wait
// for it, but nobody else publishes on the output before it is done: that keeps
// the order.
type halfway struct {
	active  bool
	estate  *estate
	entry   *tokenEntry
	publish wire.Publish // with metadata of its own
}

// publishLanes pushes an admitted message to all lanes, and gives it to the
// broker if needed. It gives up o.mu. If it is not done, nothing has happened and
// the message has to be admitted again.
func (o *Output) publishLanes(ctx context.Context, out *outgoing, metadata []Attr) (done bool, err error) {
	m := out.estate.memory
	if err := o.encode(metadata); err != nil {
		o.mu.Unlock()
		return false, err
	}
	if !o.placeMetadata(out) {
		size := len(o.meta)
		o.mu.Unlock()
		if out.meta, err = m.takeFor(ctx, size, len(out.lease.buffer), o); err != nil {
			out.meta = lease{}
			o.reportFailure(err, len(out.lease.buffer))
		}
		return false, err
	}
	out.now = time.Now()
	out.seq = o.seq + 1
	needed := o.online() && o.needsBroker()
	lanes, answered, shut := o.push(out, needed)
	// As soon as possible: that they wake up is most of the way. What is left to do
	// here is done meanwhile.
	o.ring()
	needed = needed || shut && o.online()
	m.sent(out.lease, lanes, needed, out)
	if len(o.victims) > 0 {
		m.evicted(o.victims)
		o.victims = o.victims[:0]
	}
	o.count1(len(out.lease.buffer))
	o.traffic.lanes++
	verdict := appendDone
	s := o.session
	switch {
	case !needed:
	case shut:
		// What the broker makes of the lane decides how it takes the message.
		o.half = halfway{active: true, estate: out.estate, entry: out.lease.entry, publish: o.publishOf(out, answered)}
		m.setUnsent(out.lease.entry, true)
		o.half.publish.Metadata = append(wire.RawMetadata(nil), o.half.publish.Metadata...)
		o.finishHalf()
	default:
		p := &o.publish
		*p = o.publishOf(out, answered)
		if verdict = s.link.append(p, out.now, false); verdict >= appendDone {
			o.count++
		} else {
			m.unneeded(out.lease.token)
		}
		p.Metadata = nil
	}
	if shut {
		o.unlockChanged()
	} else {
		o.mu.Unlock()
	}
	m.published()
	if out.meta.token != 0 {
		m.published()
	}
	if verdict == appendWrite {
		s.link.flush()
	}
	return true, nil
}

// encode makes the metadata ready in o.meta, with o.mu held.
func (o *Output) encode(metadata []Attr) error {
	o.meta = o.meta[:0]
	if len(metadata) == 0 {
		return nil
	}
	o.meta = wire.AppendMetadata(o.meta, metadata)
	if err := wire.ValidateMetadata(o.meta); err != nil {
		return fmt.Errorf("node: output %q: %w", o.id, err)
	}
	return nil
}

// placeMetadata puts the metadata into the message's slot, or into the one of
// their own. It returns false if they need that and do not have it.
func (o *Output) placeMetadata(out *outgoing) bool {
	d := &o.descriptor
	e := out.lease.entry
	*d = lane.Descriptor{Region: e.region.id, Offset: e.slot.Offset, Length: uint64(len(out.lease.buffer))}
	if len(o.meta) == 0 {
		return true
	}
	behind := (len(out.lease.buffer) + metadataAlign - 1) &^ (metadataAlign - 1)
	switch {
	case behind+len(o.meta) <= len(out.lease.slot):
		copy(out.lease.slot[behind:], o.meta)
		d.MetaRegion, d.MetaOffset = d.Region, d.Offset+uint64(behind)
	case out.meta.token != 0 && len(o.meta) <= len(out.meta.slot):
		copy(out.meta.slot, o.meta)
		d.MetaRegion, d.MetaOffset = out.meta.entry.region.id, out.meta.entry.slot.Offset
	default:
		return false
	}
	d.MetaLength = uint64(len(o.meta))
	return true
}

// push lends the slot to all lanes and pushes the message to each. lanes are the
// bits of those that have it, answered of those that need not hear of it from the
// broker: these, and the ones that refused it. shut tells that there are others.
func (o *Output) push(out *outgoing, needed bool) (lanes, answered uint64, shut bool) {
	d := &o.descriptor
	d.Seq, d.TimeNS = out.seq, out.now.UnixNano()
	var all uint64
	for _, l := range o.lanes {
		all |= l.mask
	}
	word := all
	if needed {
		word |= 1 << lane.BrokerBit
	}
	e := out.lease.entry
	e.region.ledger.Lend(e.slot.Index, word)
	if out.meta.token != 0 {
		out.meta.entry.region.ledger.Lend(out.meta.entry.slot.Index, all)
	}
	o.toRing = o.toRing[:0]
	for i := 0; i < len(o.lanes); i++ {
		l := o.lanes[i]
		verdict, cookie, evicted := l.producer.Push(d, uint64(out.lease.token))
		if evicted {
			o.victims = append(o.victims, victim{wire.Token(cookie), l.bit})
		}
		switch verdict {
		case lane.Pushed:
			lanes |= l.mask
			answered |= l.mask
			o.toRing = append(o.toRing, l.bell)
			continue
		case lane.Refused:
			answered |= l.mask
		default: // closed; or it says that it is full although it had room
			o.shut(l, verdict != lane.Closed)
			i--
			shut = true
		}
		out.clear(l.bit)
	}
	return lanes, answered, shut
}

// clear takes back what push has lent to a lane that did not take the message.
func (out *outgoing) clear(bit uint8) {
	e := out.lease.entry
	e.region.ledger.Clear(e.slot.Index, bit)
	if out.meta.token != 0 {
		e = out.meta.entry
		e.region.ledger.Clear(e.slot.Index, bit)
	}
}

// publishOf returns the frame of a message in a slot. Its metadata are o.meta.
func (o *Output) publishOf(out *outgoing, lanes uint64) wire.Publish {
	e := out.lease.entry
	p := wire.Publish{
		Output: o.index, Epoch: o.epoch, Seq: out.seq, TimeNS: out.now.UnixNano(),
		Token: out.lease.token, Region: e.region.id, Offset: e.slot.Offset, Length: uint64(len(out.lease.buffer)),
		Lanes: lanes,
	}
	if len(o.meta) > 0 {
		p.Metadata = o.meta
	}
	return p
}

// ring wakes the receivers of what was pushed, after all pushes; with o.mu held.
func (o *Output) ring() {
	for _, b := range o.toRing {
		b.Ring()
	}
}

// finishHalf gives a message that is halfway published to the broker, as soon as
// that has said what becomes of the closed lane; with o.mu held. If the connection
// is lost first, so is the message for those who are not on lanes, as any other is,
// unless a receiver with policy block waits for it.
func (o *Output) finishHalf() {
	h := &o.half
	if !h.active {
		return
	}
	m := h.estate.memory
	switch {
	case o.estate != h.estate:
		// The slot is not this connection's.
	case !o.online():
		if o.awayWaits {
			return
		}
		m.unneeded(h.publish.Token)
	case o.shutLanes > 0 || o.brokered > 0 && o.count >= o.window:
		return
	case o.brokered == 0:
		m.unneeded(h.publish.Token)
	default:
		o.publishHalf()
	}
	*h = halfway{}
	o.startLanes()
	if o.closed != nil {
		o.tellClosed()
	}
}

// publishHalf gives the message that is halfway published to the broker, with o.mu
// held. If that is not the one which knew its region, a copy goes into the frame; a
// message that is too long for one is lost, as those that the other broker had.
func (o *Output) publishHalf() {
	h, s := &o.half, o.session
	m, p := h.estate.memory, &h.publish
	p.Output, p.Epoch = o.index, o.epoch
	if !h.entry.region.foreign.Load() {
		m.setUnsent(h.entry, false)
		if s.link.send(p) {
			o.count++
		} else {
			m.unneeded(p.Token)
		}
		return
	}
	inline := *p
	inline.Token, inline.Region, inline.Offset = 0, 0, 0
	if p.Length+uint64(len(p.Metadata))+publishOverheadBytes <= s.welcome.FrameMax {
		inline.Payload = m.bytes(h.entry)
		if s.link.send(&inline) {
			o.count++
			o.n.stats.copied(len(inline.Payload))
		}
	}
	m.unneeded(p.Token)
}
