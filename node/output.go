package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// publishOverheadBytes is more than a Publish needs besides metadata and payload.
const publishOverheadBytes = 128

// Output is one output of the node. It lasts as long as the node, over
// reconnects. Its methods may be called from any goroutine; messages of one
// output arrive in the order of their sequence numbers.
type Output struct {
	n  *Node
	id string

	receivers atomic.Int64
	waits     atomic.Bool // the window is finite: a receiver has policy block

	mu      sync.Mutex // guards what follows
	session *session   // nil while the broker is away
	index   wire.OutputIndex
	open    bool // as the last Ports says
	told    bool // that it is closed here: at most once for each opening by the broker
	epoch   uint32
	window  uint64 // Publishes allowed since the broker opened this index; 0 until the first Flow
	count   uint64 // Publishes made since then
	seq     wire.Seq
	closed  error // not nil: why nothing more can be published
	changed waiters
	publish wire.Publish // scratch
	meta    []byte       // scratch
	failed  sendFailures
	loans   []*loanState // unused
}

// ID returns the output's id.
func (o *Output) ID() string { return o.id }

// Receivers returns how many nodes are connected that receive this output; 0
// while the broker is away.
func (o *Output) Receivers() int { return int(o.receivers.Load()) }

// blocks reports whether some receiver makes the sender wait.
func (o *Output) blocks() bool { return o.waits.Load() }

// WaitReceivers waits until at least n receivers are connected. Errors: the
// context's, ErrClosed, ErrOutputClosed.
func (o *Output) WaitReceivers(ctx context.Context, n int) error {
	for {
		o.mu.Lock()
		if err := o.closed; err != nil {
			o.mu.Unlock()
			return err
		}
		if o.Receivers() >= n {
			o.mu.Unlock()
			return nil
		}
		if err := o.waitUnlock(ctx); err != nil {
			return err
		}
	}
}

// waitUnlock gives up o.mu and waits for a change of the output's state.
func (o *Output) waitUnlock(ctx context.Context) error {
	one := o.changed.add()
	o.mu.Unlock()
	return o.changed.wait(ctx, &o.mu, one)
}

// Send publishes a copy of payload, which is the caller's again on return. It
// waits while the broker is away, while a receiver with policy block has no room,
// and while the connection is congested.
//
// Errors: the context's (nothing was sent), ErrClosed, ErrOutputClosed,
// ErrNoMemory, ErrTooLarge, ErrMetadata. A nil error means that the message is on
// its way to the broker: if the connection is lost it may be lost too.
func (o *Output) Send(ctx context.Context, payload []byte, metadata ...Attr) error {
	for {
		s, err := o.current(ctx)
		if err != nil {
			return err
		}
		if s.inline(len(payload)) {
			err = o.post(ctx, outgoing{payload: payload}, metadata)
		} else {
			err = o.sendShared(ctx, s, payload, metadata)
		}
		if !errors.Is(err, errLinkDown) {
			return err
		}
	}
}

// sendShared copies the payload to a slot and publishes that.
func (o *Output) sendShared(ctx context.Context, s *session, payload []byte, metadata []Attr) error {
	l, err := s.memory.take(ctx, len(payload), o)
	if err != nil {
		o.reportFailure(err, len(payload))
		return err
	}
	copy(l.buffer, payload)
	o.n.stats.copied(len(payload))
	if err := o.post(ctx, outgoing{session: s, lease: l}, metadata); err != nil {
		s.memory.discard(l.token)
		return err
	}
	return nil
}

// current returns the connection to send on, and waits for one.
func (o *Output) current(ctx context.Context) (*session, error) {
	for {
		o.mu.Lock()
		if err := o.closed; err != nil {
			o.mu.Unlock()
			return nil, err
		}
		if s := o.session; s != nil {
			o.mu.Unlock()
			return s, nil
		}
		if err := o.waitUnlock(ctx); err != nil {
			return nil, err
		}
	}
}

// inline reports whether a payload of n bytes goes into the frame.
func (s *session) inline(n int) bool {
	return !s.local || n <= int(s.welcome.InlineMax)
}

// outgoing is a message to publish: inline (payload) or a slot of a session.
type outgoing struct {
	payload []byte
	session *session // not nil: lease is set, and good for this session only
	lease   lease
}

// post publishes one message. It is the one place where messages leave a node.
// It returns errLinkDown if the message's slot belongs to a connection that is
// gone.
func (o *Output) post(ctx context.Context, out outgoing, metadata []Attr) error {
	for {
		o.mu.Lock()
		s := o.session
		switch {
		case o.closed != nil:
			err := o.closed
			o.mu.Unlock()
			return err
		case out.session != nil && out.session != s:
			o.mu.Unlock()
			return errLinkDown
		case s == nil || o.count >= o.window:
			if err := o.waitUnlock(ctx); err != nil {
				return err
			}
			continue
		}
		verdict, err := o.append(s, &out, metadata)
		if err == nil && verdict == appendDown {
			// The reader is about to find out, and will take the session away.
			err = o.waitUnlock(ctx)
		} else {
			o.mu.Unlock()
		}
		if verdict >= appendDone && out.session != nil {
			s.memory.published()
		}
		switch {
		case err != nil:
			if errors.Is(err, ErrTooLarge) {
				o.reportFailure(err, len(out.payload))
			}
			return err
		case verdict == appendFull:
			if err := s.link.waitRoom(ctx); err != nil {
				return err
			}
		case verdict == appendWrite:
			s.link.flush()
			return nil
		case verdict == appendDone:
			return nil
		}
	}
}

// append numbers the message and appends it to the connection's buffer, with o.mu
// held.
func (o *Output) append(s *session, out *outgoing, metadata []Attr) (appended, error) {
	p := &o.publish
	*p = wire.Publish{Output: o.index, Epoch: o.epoch, Seq: o.seq + 1}
	if len(metadata) > 0 {
		o.meta = wire.AppendMetadata(o.meta[:0], metadata)
		if err := wire.ValidateMetadata(o.meta); err != nil {
			return appendDown, fmt.Errorf("node: output %q: %w", o.id, err)
		}
		p.Metadata = o.meta
	}
	now := time.Now()
	p.TimeNS = now.UnixNano()
	size := len(out.payload)
	shared := out.session != nil
	if shared {
		l := &out.lease
		size = len(l.buffer)
		p.Token, p.Region, p.Offset = l.token, l.region, l.offset
		s.memory.publish(l.token)
	} else {
		if total := uint64(size) + uint64(len(p.Metadata)) + publishOverheadBytes; total > s.welcome.FrameMax {
			return appendDown, s.tooLarge(o, size)
		}
		if p.Payload = out.payload; p.Payload == nil {
			p.Payload = []byte{}
		}
	}
	p.Length = uint64(size)
	verdict := s.link.append(p, now, true)
	p.Payload, p.Metadata = nil, nil
	if verdict < appendDone {
		if shared {
			s.memory.unpublish(out.lease.token)
		}
		return verdict, nil
	}
	o.seq++
	o.count++
	stats := &o.n.stats
	stats.published.Add(1)
	stats.publishedBytes.Add(uint64(size))
	if !shared {
		stats.copied(size)
	}
	return verdict, nil
}

func (s *session) tooLarge(o *Output, size int) error {
	advice := "send it in parts, or raise the broker's frame limit"
	if !s.local {
		advice += fmt.Sprintf(", or let the node use shared memory (it does not: %s)", s.reason)
	}
	return fmt.Errorf("%w: output %q: %d bytes do not fit in a frame of %d bytes; %s",
		ErrTooLarge, o.id, size, s.welcome.FrameMax, advice)
}

// Close says that nothing more will be published on this output. Its receivers
// get InputClosed after the last message. Closing again does nothing.
func (o *Output) Close() error {
	o.mu.Lock()
	if o.closed != nil {
		o.mu.Unlock()
		return nil
	}
	o.closed = fmt.Errorf("%w: %q", ErrOutputClosed, o.id)
	o.receivers.Store(0)
	o.changed.wakeAll()
	o.failed.flush(o.session, o.index)
	o.tellClosed()
	o.mu.Unlock()
	return nil
}

// tellClosed sends OutputClose if the broker does not know it yet, with o.mu held.
func (o *Output) tellClosed() {
	if o.session != nil && o.open && !o.told {
		o.told = o.session.link.send(&wire.OutputClose{Output: o.index})
	}
}

// bind connects the output to a position in a session's Ports. What the user has
// closed stays closed there.
func (o *Output) bind(s *session, index wire.OutputIndex, open bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.session != s || o.index != index {
		o.session, o.index, o.count, o.open = s, index, 0, false
	}
	if open && !o.open {
		// Nothing may go out before the first Flow, nor, when a reload has brought
		// the output back, before the next one: its epoch says which receivers
		// with policy block the message is for. The count goes on.
		o.epoch, o.window, o.told = 0, 0, false
		o.receivers.Store(0)
		o.waits.Store(false)
	}
	o.open = open
	switch removed := errors.Is(o.closed, errOutputRemoved); {
	case !open:
		o.receivers.Store(0)
		if o.closed == nil {
			o.closed = fmt.Errorf("%w: %q: %w", ErrOutputClosed, o.id, errOutputRemoved)
		}
	case removed:
		o.closed = nil // a reload has brought it back
	case o.closed != nil:
		o.tellClosed()
	}
	o.failed.flush(s, index)
	o.changed.wakeAll()
}

// unbind takes the session away until the next bind.
func (o *Output) unbind(s *session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.session == s {
		o.session = nil
		o.receivers.Store(0)
		o.changed.wakeAll()
	}
}

var errOutputRemoved = errors.New("the dataflow does not have it any more")

// end makes all further calls return err.
func (o *Output) end(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed == nil {
		o.closed = err
	}
	if errors.Is(err, errOutputRemoved) {
		o.open = false
		o.receivers.Store(0)
	}
	o.failed.flush(o.session, o.index)
	o.changed.wakeAll()
}

// flow takes over what the broker says about the output's receivers.
func (o *Output) flow(s *session, m *wire.Flow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.session != s || o.index != m.Output {
		return // it is for a position of before, which is closed
	}
	o.epoch, o.window = m.Epoch, m.Window
	o.waits.Store(m.Window != wire.WindowUnlimited)
	if o.closed == nil {
		o.receivers.Store(int64(m.Receivers))
	}
	o.changed.wakeAll()
}
