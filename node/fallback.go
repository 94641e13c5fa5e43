package node

import (
	"context"
	"errors"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// A message that gets no shared memory may go inside the frame, if the broker
// allows that and it fits. The broker tells its operators of each. All of an
// output's messages take that way then, so that they stay in order: a lane cannot
// carry such a message, so the broker is asked to close the lanes first.

// errInline says that a message has to go inline for want of shared memory.
var errInline = errors.New("node: message travels inline for want of shared memory")

const (
	// inlinePatience is for how long an output with a block receiver waits for memory
	// as ever: that its receiver is slow is no want of memory.
	inlinePatience = time.Second
	// inlineLinger: a size of which a message went inline so recently is not waited
	// for again.
	inlineLinger = 10 * time.Second
)

// inlineMax is the largest payload that may go inline for want of memory; 0: none.
// There is room for metadata of any size.
func (s *session) inlineMax() uint64 {
	const spare = publishOverheadBytes + wire.MetadataBytesMax
	if !s.local || s.welcome.Features&wire.FeatureInline == 0 || s.welcome.FrameMax <= spare {
		return 0
	}
	return s.welcome.FrameMax - spare
}

// inlines decides whether a message for which memory was denied goes inline, with
// m.mu held. begun is when it began to wait.
func (m *memory) inlines(c *slotClass, o *Output, size int, begun, now time.Time) bool {
	switch {
	case !m.mayInline(size), errors.Is(c.denied, wire.ErrTooLarge):
		return false
	case o.blocks() && now.Sub(c.inlineAt) >= inlineLinger && now.Sub(begun) < inlinePatience:
		return false
	}
	c.inlineAt = now
	if now.Sub(c.toldAt) >= tellPause {
		c.toldAt = now
		cause := c.denied
		m.untold = append(m.untold, func() {
			m.e.n.log.Warn("no shared memory: message travels inline", "output", o.id, "bytes", size, "error", cause)
		})
	}
	return true
}

func (m *memory) mayInline(size int) bool { return m.link != nil && uint64(size) <= m.link.inlineMax }

// inlinesAgain decides the same without asking the broker: it has just denied
// memory of this size.
func (m *memory) inlinesAgain(c *slotClass, size int) bool {
	if c.inlineAt.IsZero() || !m.mayInline(size) {
		return false
	}
	now := time.Now()
	if now.Sub(c.deniedAt) >= denialPause || now.Sub(c.inlineAt) >= inlineLinger {
		return false
	}
	c.inlineAt = now
	return true
}

// sendInline publishes what gets no shared memory.
func (o *Output) sendInline(ctx context.Context, payload []byte, metadata []Attr) error {
	out := outgoing{payload: payload, fallback: true}
	return o.post(ctx, &out, metadata)
}

// leaveLanes asks the broker to close the lanes, once, with o.mu held.
func (o *Output) leaveLanes(size int) {
	if !o.shortTold {
		o.shortTold = o.session.link.send(&wire.Shortage{Output: o.index, Bytes: uint64(size)})
	}
}
