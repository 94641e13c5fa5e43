package node

import (
	"context"
	"errors"
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
	// fallback says that the payload is inline because it gets no shared memory.
	fallback bool
	estate   *estate // not nil: lease is set, and good for this estate only
	lease    lease
	meta     lease // for the metadata, if they do not fit behind the payload

	now time.Time
	seq wire.Seq
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
	o.mu.Lock()
	return o.postUnlock(ctx, out, metadata)
}

// postUnlock is post with o.mu held, which is given up.
func (o *Output) postUnlock(ctx context.Context, out *outgoing, metadata []Attr) error {
	for ; ; o.mu.Lock() {
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
		if !out.fallback || !o.online() {
			return 0, errWantSlot
		}
		o.leaveLanes(len(out.payload))
		return admitChange, nil
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
		if !l.block || !want && l.producer.Roomy() && !l.producer.Closed() {
			continue
		}
		_, verdict := l.producer.Room()
		if want && verdict == lane.Full {
			// For a receiver that is quick, half of the queue at a time: a wake-up costs
			// more than a message. A slow one may be waited for with each message, and does
			// perhaps not take another before it has an answer to the first.
			room := 1
			if o.quickRoom {
				room = int(l.grant.QueueSize+1) / 2
			}
			l.producer.Want(room)
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

// quickRoom is how soon a quick receiver makes room.
const quickRoom = time.Millisecond

// waitFor gives up o.mu and waits for a change, or (room) for room on the lanes.
func (o *Output) waitFor(ctx context.Context, room bool) error {
	w := outputWaitPool.Get().(*outputWait)
	*w = outputWait{o: o, seen: o.changes, room: room}
	o.waiting++
	if room && o.quickRoom {
		if o.roomTimer == nil {
			o.roomTimer = time.AfterFunc(quickRoom, o.notQuick)
		} else {
			o.roomTimer.Reset(quickRoom)
		}
	}
	o.mu.Unlock()
	begun := time.Now()
	err := o.n.sleeper.wait(ctx, w)
	o.mu.Lock()
	o.waiting--
	if room {
		if o.roomTimer != nil && o.waiting == 0 {
			o.roomTimer.Stop()
		}
		if o.changes == w.seen { // else it was not for the room that the wait has ended
			o.quickRoom = time.Since(begun) < quickRoom
		}
	}
	o.mu.Unlock()
	*w = outputWait{}
	outputWaitPool.Put(w)
	return err
}

// notQuick has those who wait for half of a queue look for less.
func (o *Output) notQuick() {
	o.mu.Lock()
	o.quickRoom = false
	o.mu.Unlock()
	o.n.sleeper.rouse()
}

func (o *Output) waitUnlockFor(ctx context.Context, what admission) error {
	if what != admitLink {
		return o.waitFor(ctx, what == admitRoom)
	}
	l := o.session.link
	o.mu.Unlock()
	return l.waitRoom(ctx)
}

// metadataAlign is the alignment of metadata behind a payload, in bytes.
const metadataAlign = 8

// count1 counts a message that is published, with o.mu held.
func (o *Output) count1(size int) {
	o.seq++
	o.traffic.messages++
	o.traffic.bytes += uint64(size)
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
		if s.local && size > int(s.welcome.InlineMax) {
			o.n.stats.inlineFallbacks.Add(1)
		}
	}
	return verdict, nil
}
