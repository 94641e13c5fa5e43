package node

import (
	"errors"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// failureDelay: failed sends of one output are told to the broker at once, but
// not more often than this: the later ones are told together.
const failureDelay = 100 * time.Millisecond

// sendFailures gathers messages that could not be published, so that the broker
// can log them as drops. Guarded by its output's mutex.
type sendFailures struct {
	pending wire.SendFailed
	toldAt  time.Time
	timer   *time.Timer
}

// reportFailure counts a message of size bytes that err kept from being
// published. It has a sequence number like any other: receivers see the gap.
// Messages given up because a context ended are the caller's own affair.
func (o *Output) reportFailure(err error, size int) {
	var reason wire.DropReason
	switch {
	case errors.Is(err, ErrNoMemory):
		reason = wire.DropNoMemory
	case errors.Is(err, ErrTooLarge):
		reason = wire.DropTooLarge
	default:
		return
	}
	o.n.stats.sendFailures.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seq++
	for _, l := range o.lanes {
		l.producer.Failed(1)
	}
	f := &o.failed
	p := &f.pending
	if p.Count > 0 && p.Reason != reason {
		f.flush(o.session, o.index)
	}
	if p.Count == 0 {
		p.SeqFirst, p.Reason = o.seq, reason
	}
	p.Count++
	p.Bytes += uint64(size)
	p.SeqLast = o.seq
	switch wait := failureDelay - time.Since(f.toldAt); {
	case o.closed != nil || wait <= 0:
		f.flush(o.session, o.index)
	case f.timer == nil:
		f.timer = time.AfterFunc(wait, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			f.flush(o.session, o.index)
		})
	default:
		f.timer.Reset(wait)
	}
}

// flush tells the broker. While it is away the failures are kept.
func (f *sendFailures) flush(s *session, index wire.OutputIndex) {
	if f.timer != nil {
		f.timer.Stop()
	}
	if s == nil || f.pending.Count == 0 {
		return
	}
	f.pending.Output = index
	if s.link.send(&f.pending) {
		f.pending = wire.SendFailed{}
		f.toldAt = time.Now()
	}
}
