package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// errWantSlot: an inline payload has to be in a slot, because a lane was started.
var errWantSlot = errors.New("node: message needs shared memory")

// outgoing is a message to publish: inline (payload) or a slot of an estate.
type outgoing struct {
	payload []byte
	estate  *estate // not nil: lease is set, and good for this estate only
	lease   lease
	meta    lease // for the metadata, if they do not fit behind the payload

	now time.Time
	seq wire.Seq
}

// halfway is a message that lanes have and the broker has not: one of the lanes
// turned out to be closed when others had it already. Its publisher does not wait
// for it, but nobody else publishes on the output before it is done: that keeps
// the order.
type halfway struct {
	active  bool
	estate  *estate
	publish wire.Publish // with metadata of its own
}

// admission says what a message has to wait for.
type admission uint8

const (
	admitted    admission = iota
	admitChange           // of the output's state
	admitRoom             // on a lane, or a change
	admitLink             // for the connection to take more
)

// post publishes one message. It is the one place where messages leave a node:
// to the lanes, then to the broker if some receiver needs that. It returns
// errLinkDown if the message's slot belongs to a connection that is gone, and
// errWantSlot if it has none and needs one.
func (o *Output) post(ctx context.Context, out *outgoing, metadata []Attr) error {
	for {
		o.mu.Lock()
		what, err := o.admit(out)
		done := false
		switch {
		case err != nil:
			o.mu.Unlock()
		case what != admitted:
			err = o.waitUnlockFor(ctx, what)
		case len(o.lanes) > 0:
			done, err = o.publishLanes(ctx, out, metadata)
		default:
			done, err = o.publishBroker(ctx, out, metadata)
		}
		if done {
			return nil
		}
		if err != nil {
			out.dropMeta()
			if errors.Is(err, ErrTooLarge) && out.estate == nil {
				o.reportFailure(err, len(out.payload))
			}
			return err
		}
	}
}

// dropMeta gives back the slot of metadata that were not published.
func (out *outgoing) dropMeta() {
	if out.meta.token != 0 {
		out.estate.memory.discard(out.meta.token)
		out.meta = lease{}
	}
}

// admit decides whether a message can go out now, with o.mu held: to all lanes,
// and to the broker if that is needed. Nothing may stop it halfway but a lane that
// is closed at that moment.
func (o *Output) admit(out *outgoing) (admission, error) {
	switch {
	case o.closed != nil:
		return 0, o.closed
	case out.estate != nil && (out.estate != o.estate || out.lease.spoilt(len(o.lanes) > 0)):
		return 0, errLinkDown
	case out.estate == nil && len(o.lanes) > 0:
		return 0, errWantSlot
	case o.half.active:
		return admitChange, nil
	case !o.online():
		if len(o.lanes) == 0 || o.awayWaits {
			return admitChange, nil
		}
	case o.needsBroker():
		if o.shutLanes > 0 || o.count >= o.window {
			return admitChange, nil
		}
		if len(o.lanes) > 0 && !o.session.link.hasRoom() {
			return admitLink, nil
		}
	}
	if o.laneBlocks.Load() && !o.roomOnLanes(false) {
		return admitRoom, nil
	}
	return admitted, nil
}

// online reports whether there is a broker that takes messages, with o.mu held.
func (o *Output) online() bool { return o.session != nil && o.flowed }

// needsBroker reports whether some receiver gets messages through the broker,
// with o.mu held.
func (o *Output) needsBroker() bool {
	return o.brokered > 0 || o.shutLanes > 0 || len(o.lanes) == 0
}

// roomOnLanes reports whether all lanes with policy block have room, with o.mu
// held. If want is set it has them ring when they have.
func (o *Output) roomOnLanes(want bool) bool {
	room := true
	for i := 0; i < len(o.lanes); i++ {
		l := o.lanes[i]
		if !l.block {
			continue
		}
		_, verdict := l.producer.Room()
		if want && verdict == lane.Full {
			// Half of the queue at a time: a wake-up costs more than a message.
			l.producer.Want(int(l.grant.QueueSize+1) / 2)
			_, verdict = l.producer.Room()
		}
		switch verdict {
		case lane.Full:
			room = false
		case lane.Closed, lane.Corrupt:
			o.shut(l, verdict == lane.Corrupt)
			i--
			room = false // look again at what that means
			o.changes++
		}
	}
	return room
}

// outputWait is what one caller of post waits for.
type outputWait struct {
	o    *Output
	seen uint64
	room bool
}

var outputWaitPool = sync.Pool{New: func() any { return new(outputWait) }}

func (w *outputWait) ready() bool {
	o := w.o
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changes != w.seen || w.room && o.roomOnLanes(true) || o.changes != w.seen
}

// waitFor gives up o.mu and waits for a change, or (room) for room on the lanes.
func (o *Output) waitFor(ctx context.Context, room bool) error {
	w := outputWaitPool.Get().(*outputWait)
	*w = outputWait{o: o, seen: o.changes, room: room}
	o.waiting++
	o.mu.Unlock()
	err := o.n.sleeper.wait(ctx, w)
	o.mu.Lock()
	o.waiting--
	o.mu.Unlock()
	*w = outputWait{}
	outputWaitPool.Put(w)
	return err
}

func (o *Output) waitUnlockFor(ctx context.Context, what admission) error {
	if what != admitLink {
		return o.waitFor(ctx, what == admitRoom)
	}
	l := o.session.link
	o.mu.Unlock()
	return l.waitRoom(ctx)
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
		if out.meta, err = m.take(ctx, size, o); err != nil {
			out.meta = lease{}
			o.reportFailure(err, len(out.lease.buffer))
		}
		return false, err
	}
	out.now = time.Now()
	out.seq = o.seq + 1
	needed := o.online() && o.needsBroker()
	lanes, answered, shut := o.push(out, needed)
	needed = needed || shut && o.online()
	m.sent(out.lease, lanes, needed, out)
	if len(o.victims) > 0 {
		m.evicted(o.victims)
		o.victims = o.victims[:0]
	}
	o.count1(len(out.lease.buffer))
	o.n.stats.laneSent.Add(1)
	verdict := appendDone
	s := o.session
	switch {
	case !needed:
	case shut:
		// What the broker makes of the lane decides how it takes the message.
		o.half = halfway{active: true, estate: out.estate, publish: o.publishOf(out, answered)}
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
	o.ringUnlock(shut)
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

// metadataAlign is the alignment of metadata behind a payload, in bytes.
const metadataAlign = 8

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

// count1 counts a message that is published, with o.mu held.
func (o *Output) count1(size int) {
	o.seq++
	stats := &o.n.stats
	stats.published.Add(1)
	stats.publishedBytes.Add(uint64(size))
}

// ringUnlock gives up o.mu and wakes the receivers of what was pushed.
func (o *Output) ringUnlock(changed bool) {
	if len(o.toRing) == 0 {
		if changed {
			o.unlockChanged()
		} else {
			o.mu.Unlock()
		}
		return
	}
	o.ringMu.Lock()
	defer o.ringMu.Unlock()
	o.ringing, o.toRing = o.toRing, o.ringing[:0]
	if changed {
		o.unlockChanged()
	} else {
		o.mu.Unlock()
	}
	for _, b := range o.ringing {
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
		h.publish.Output, h.publish.Epoch = o.index, o.epoch
		if o.session.link.send(&h.publish) {
			o.count++
		} else {
			m.unneeded(h.publish.Token)
		}
	}
	*h = halfway{}
	o.startLanes()
	if o.closed != nil {
		o.tellClosed()
	}
}

// publishBroker publishes an admitted message that goes to no lane. It gives up
// o.mu. If it is not done it has waited, and the message has to be admitted again.
func (o *Output) publishBroker(ctx context.Context, out *outgoing, metadata []Attr) (done bool, err error) {
	s := o.session
	verdict, err := o.append(s, out, metadata)
	switch {
	case err != nil:
		o.mu.Unlock()
		return false, err
	case verdict == appendDown:
		// The reader is about to find out, and will take the session away.
		return false, o.waitUnlock(ctx)
	}
	o.mu.Unlock()
	if verdict == appendFull {
		return false, s.link.waitRoom(ctx)
	}
	if out.estate != nil {
		out.estate.memory.published()
	}
	out.dropMeta()
	if verdict == appendWrite {
		s.link.flush()
	}
	return true, nil
}

// append numbers the message and appends it to the connection's buffer, with o.mu
// held.
func (o *Output) append(s *session, out *outgoing, metadata []Attr) (appended, error) {
	if err := o.encode(metadata); err != nil {
		return appendDown, err
	}
	out.now, out.seq = time.Now(), o.seq+1
	p := &o.publish
	size := len(out.payload)
	shared := out.estate != nil
	if shared {
		size = len(out.lease.buffer)
		*p = o.publishOf(out, 0)
		out.lease.entry.seq, out.lease.entry.size = out.seq, size
		out.estate.memory.publish(out.lease)
	} else {
		*p = wire.Publish{Output: o.index, Epoch: o.epoch, Seq: out.seq, TimeNS: out.now.UnixNano(), Length: uint64(size)}
		if len(o.meta) > 0 {
			p.Metadata = o.meta
		}
		if total := uint64(size) + uint64(len(p.Metadata)) + publishOverheadBytes; total > s.welcome.FrameMax {
			return appendDown, s.tooLarge(o, size)
		}
		if p.Payload = out.payload; p.Payload == nil {
			p.Payload = []byte{}
		}
	}
	verdict := s.link.append(p, out.now, true)
	p.Payload, p.Metadata = nil, nil
	if verdict < appendDone {
		if shared {
			out.estate.memory.unpublish(out.lease)
		}
		return verdict, nil
	}
	o.count++
	o.count1(size)
	if !shared {
		o.n.stats.copied(size)
	}
	return verdict, nil
}
