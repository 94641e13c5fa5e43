package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
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

	receivers  atomic.Int64
	waits      atomic.Bool // the window is finite: a receiver on the brokered path has policy block
	laneBlocks atomic.Bool // a receiver on a lane has policy block

	mu       sync.Mutex // guards what follows
	session  *session   // nil while the broker is away
	estate   *estate    // of that session, or of the one before
	index    wire.OutputIndex
	open     bool // as the last Ports says
	told     bool // that it is closed here: at most once for each opening by the broker
	epoch    uint32
	window   uint64 // Publishes allowed since the broker opened this index; 0 until the first Flow
	count    uint64 // Publishes made since then
	flowed   bool   // a Flow has come since then: the broker takes messages
	brokered uint32 // receivers that need the broker, as the last Flow says
	seq      wire.Seq
	traffic  traffic
	closed   error        // not nil: why nothing more can be published
	changes  uint64       // of all that waiters wait for
	waiting  int          // how many do
	publish  wire.Publish // scratch
	meta     []byte       // scratch
	failed   sendFailures
	loans    []*loanState // unused

	lanes     []*laneOut // that messages go to
	granted   []*laneOut // not started yet
	half      halfway
	awayWaits bool // without a broker nothing may go out: a receiver with policy block would miss it
	// Lanes found closed whose LaneClose has not come yet: messages wait for it. And
	// those of them whose receiver has policy block: they wait without a broker, too.
	shutLanes, shutBlocks int
	descriptor            lane.Descriptor // scratch
	victims               []victim        // scratch
	toRing                []*peerBell     // scratch
	shortTold             bool            // the broker was asked to close the lanes, for want of memory
	quickRoom             bool            // the last wait for room on a lane was short
	roomTimer             *time.Timer     // to doubt that
}

// ID returns the output's id.
func (o *Output) ID() string { return o.id }

// Receivers returns how many nodes are connected that receive this output; 0
// while the broker is away.
func (o *Output) Receivers() int { return int(o.receivers.Load()) }

// Lanes returns how many of the receivers get their messages on lanes: straight
// through shared memory, without the broker.
func (o *Output) Lanes() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.lanes)
}

// blocks reports whether some receiver makes the sender wait.
func (o *Output) blocks() bool { return o.waits.Load() || o.laneBlocks.Load() }

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
func (o *Output) waitUnlock(ctx context.Context) error { return o.waitFor(ctx, false) }

// unlockChanged gives up o.mu and rouses those who wait for a change.
func (o *Output) unlockChanged() {
	o.changes++
	rouse := o.waiting > 0
	o.mu.Unlock()
	if rouse {
		o.n.sleeper.rouse()
	}
}

// Send publishes a copy of payload, which is the caller's again on return. It
// waits while the broker is away, while a receiver with policy block has no room,
// and while the connection is congested. Receivers on lanes need no broker: while
// it is away, messages go to those alone, unless another receiver has policy block.
//
// Errors: the context's (nothing was sent), ErrClosed, ErrOutputClosed,
// ErrNoMemory, ErrTooLarge, ErrMetadata. A nil error means that the message is on
// its way: if the connection is lost, those who do not have it on a lane may lose it.
func (o *Output) Send(ctx context.Context, payload []byte, metadata ...Attr) error {
	for {
		if done, err := o.sendQuick(ctx, payload, metadata); done {
			return err
		}
		e, err := o.place(ctx, len(payload))
		if err != nil {
			return err
		}
		if e == nil {
			out := outgoing{payload: payload}
			err = o.post(ctx, &out, metadata)
		} else if err = o.sendShared(ctx, e, payload, metadata); errors.Is(err, errInline) {
			err = o.sendInline(ctx, payload, metadata)
		}
		if err == nil || !isElsewhere(err) {
			return err
		}
	}
}

// quickBytes is the largest payload that is copied under a lock.
const quickBytes = 4096

// sendQuick sends a small message to lanes, if there are any and nothing has to be
// waited for, with fewer locks than there are steps. It is what the time of small
// messages depends on, and does nothing that Send could not do without it.
func (o *Output) sendQuick(ctx context.Context, payload []byte, metadata []Attr) (done bool, err error) {
	if len(payload) > quickBytes {
		return false, nil
	}
	o.mu.Lock()
	if len(o.lanes) == 0 {
		o.mu.Unlock()
		return false, nil
	}
	e := o.estate
	l, ok := e.memory.takeFree(len(payload))
	if !ok {
		o.mu.Unlock()
		return false, nil
	}
	copy(l.buffer, payload)
	o.n.stats.copied(len(payload))
	out := outgoing{estate: e, lease: l}
	if err = o.postUnlock(ctx, &out, metadata); err != nil {
		e.memory.discard(l.token)
		return !isElsewhere(err), err
	}
	return true, nil
}

// isElsewhere reports whether a message has to be put to another place and tried
// again there.
func isElsewhere(err error) bool {
	return errors.Is(err, errLinkDown) || errors.Is(err, errWantSlot) || errors.Is(err, errInline)
}

// sendShared copies the payload to a slot and publishes that.
func (o *Output) sendShared(ctx context.Context, e *estate, payload []byte, metadata []Attr) error {
	l, err := e.memory.take(ctx, len(payload), o)
	if err != nil {
		o.reportFailure(err, len(payload))
		return err
	}
	copy(l.buffer, payload)
	o.n.stats.copied(len(payload))
	out := outgoing{estate: e, lease: l}
	if err := o.post(ctx, &out, metadata); err != nil {
		e.memory.discard(l.token)
		return err
	}
	return nil
}

// place returns where a message of n bytes belongs now: in shared memory of an
// estate, or (nil) in the frame. It waits while there is nobody to send to.
func (o *Output) place(ctx context.Context, n int) (*estate, error) {
	for {
		o.mu.Lock()
		s := o.session
		switch {
		case o.closed != nil:
			err := o.closed
			o.mu.Unlock()
			return nil, err
		case len(o.lanes) > 0:
			e := o.estate
			o.mu.Unlock()
			return e, nil
		case s != nil:
			o.mu.Unlock()
			if s.inline(n) {
				return nil, nil
			}
			return s.estate, nil
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
	o.failed.flush(o.session, o.index)
	o.tellClosed()
	if o.session == nil {
		o.closeLanes()
	}
	o.unlockChanged()
	return nil
}

// closeLanes closes the lanes, because there is no broker to do it; with o.mu held.
func (o *Output) closeLanes() {
	for _, l := range o.lanes {
		l.producer.CloseByOwner()
		l.bell.Ring()
	}
}

// tellClosed sends OutputClose if the broker does not know it yet, with o.mu held.
// A message that is halfway published goes first.
func (o *Output) tellClosed() {
	if o.session != nil && o.open && !o.told && !o.half.active {
		o.told = o.session.link.send(&wire.OutputClose{Output: o.index})
	}
}

// bind connects the output to a position in a session's Ports. What the user has
// closed stays closed there.
func (o *Output) bind(s *session, index wire.OutputIndex, open bool) {
	o.mu.Lock()
	defer o.unlockChanged()
	if o.session != s || o.index != index {
		o.session, o.estate, o.index, o.count, o.open = s, s.estate, index, 0, false
		o.shortTold = false
	}
	if open && !o.open {
		// Nothing may go to the broker before the first Flow, nor, when a reload has
		// brought the output back, before the next one: its epoch says which receivers
		// with policy block the message is for. The count goes on.
		o.epoch, o.window, o.flowed, o.told = 0, 0, false, false
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
}

// unbind takes the session away until the next bind.
func (o *Output) unbind(s *session) {
	o.mu.Lock()
	defer o.unlockChanged()
	if o.session != s {
		return
	}
	if o.flowed {
		o.awayWaits = o.waits.Load() && o.brokered > 0
	}
	o.awayWaits = o.awayWaits || o.shutBlocks > 0
	o.session, o.flowed = nil, false
	o.receivers.Store(0)
	o.finishHalf()
}

var errOutputRemoved = errors.New("the dataflow does not have it any more")

// end makes all further calls return err.
func (o *Output) end(err error) {
	o.mu.Lock()
	defer o.unlockChanged()
	if o.closed == nil {
		o.closed = err
	}
	if errors.Is(err, errOutputRemoved) {
		o.open = false
		o.receivers.Store(0)
	}
	o.failed.flush(o.session, o.index)
}

// flow takes over what the broker says about the output's receivers.
func (o *Output) flow(s *session, m *wire.Flow) {
	o.mu.Lock()
	defer o.unlockChanged()
	if o.session != s || o.index != m.Output {
		return // it is for a position of before, which is closed
	}
	o.epoch, o.window, o.brokered = m.Epoch, m.Window, m.Brokered
	o.flowed, o.awayWaits = true, false
	o.waits.Store(m.Window != wire.WindowUnlimited)
	if o.closed == nil {
		o.receivers.Store(int64(m.Receivers))
	}
	o.finishHalf()
}
