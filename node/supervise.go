package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/brokerd/brokerd/wire"
)

const (
	// graceAfterLoss: a refusal that a restart or a lost connection explains is
	// not final for so long. The broker may not have noticed yet that the old
	// connection is dead, or its dataflows are still being loaded.
	graceAfterLoss = 30 * time.Second
	// steadyAfter: pauses start small again after a connection that lasted so long.
	// One that is ended again and again for a reason is not tried hundreds of
	// times a second.
	steadyAfter = 2 * time.Second

	// silenceMax is how many heartbeats a remote broker may miss.
	silenceMax = 3
	trimPeriod = 10 * time.Second
)

var errSilent = errors.New("node: broker is silent")

// supervise is the goroutine that reads, and that connects again.
func (n *Node) supervise(s *session) {
	defer close(n.done)
	defer n.sleeper.close()
	defer n.leaveEstate()
	defer n.die()
	pause := n.newBackOff()
	for {
		err := s.run()
		n.detach(s)
		s.end(err)
		if n.life.Err() != nil || n.isClosing() {
			return
		}
		n.log.Warn("connection to the broker lost", "error", err)
		if isFinal(err) {
			n.giveUp(err)
			return
		}
		if isRefusal(err) && !errors.Is(err, wire.ErrShuttingDown) { // that is no fault, and it comes back
			n.receiver.post(Event{Kind: EventError, Err: err})
		}
		if time.Since(s.begun) >= steadyAfter {
			pause.Reset()
		}
		s, err = n.dialAgain(n.life, pause, true)
		if err != nil {
			if n.life.Err() == nil && !n.isClosing() {
				n.giveUp(err)
			}
			return
		}
		n.stats.reconnects.Add(1)
		n.attach(s, true)
	}
}

func (n *Node) isClosing() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closing
}

func (n *Node) newBackOff() *backoff.ExponentialBackOff {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = min(backoffInitial, n.cfg.BackoffMax)
	pause.MaxInterval = n.cfg.BackoffMax
	pause.Multiplier = 2
	pause.Reset()
	return pause
}

// redial connects for the first time.
func (n *Node) redial(ctx context.Context, again bool) (*session, error) {
	return n.dialAgain(ctx, n.newBackOff(), again)
}

// dialAgain tries until a broker accepts the node, refuses it, or ctx ends.
func (n *Node) dialAgain(ctx context.Context, pause *backoff.ExponentialBackOff, again bool) (*session, error) {
	begun := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, n.unreachable(ctx, last)
		}
		s, err := n.dial(ctx)
		if err == nil {
			return s, nil
		}
		if !worthRetrying(err, again && time.Since(begun) < graceAfterLoss) {
			return nil, err
		}
		if last == nil {
			n.log.Info("broker does not answer, trying again", "addr", n.cfg.Addr, "error", err)
		}
		last = err
		timer.Reset(pause.NextBackOff())
	}
}

func (n *Node) unreachable(ctx context.Context, last error) error {
	if last == nil {
		return fmt.Errorf("%w at %s: %w", ErrUnreachable, n.cfg.Addr, ctx.Err())
	}
	return fmt.Errorf("%w at %s: %w: %w (is brokerd running there? set %s or Config.Addr for another place)",
		ErrUnreachable, n.cfg.Addr, ctx.Err(), last, EnvAddr)
}

// worthRetrying reports whether a try to connect that ended in err may be
// repeated.
func worthRetrying(err error, grace bool) bool {
	if isDistrust(err) {
		return grace
	}
	if !isRefusal(err) {
		return !errors.Is(err, wire.ErrProtocol) // something else listens there
	}
	switch wire.CodeOf(err) {
	case wire.CodeShuttingDown, wire.CodeTooManyConnections, wire.CodeHandshakeTimeout,
		wire.CodeSlowConnection, wire.CodeTimeout, wire.CodeInternal:
		return true
	case wire.CodeDuplicateNode, wire.CodeUnknownDataflow:
		return grace
	}
	return false
}

// isFinal reports whether the end of an established connection is the end of the
// node.
func isFinal(err error) bool {
	switch {
	case !isRefusal(err):
		return false
	case errors.Is(err, wire.ErrTakenOver), errors.Is(err, wire.ErrAuth), errors.Is(err, wire.ErrVersion),
		errors.Is(err, wire.ErrUnknownNode), errors.Is(err, wire.ErrUnknownDataflow):
		return true
	}
	return false
}

// tend does what is due from time to time on one connection: it watches a remote
// broker, and gives back memory that is not used. A local broker is not watched:
// its death closes the socket, and one that is stopped comes back.
func (s *session) tend() {
	beat := time.Duration(s.welcome.HeartbeatMS) * time.Millisecond
	var beats <-chan time.Time // of a remote broker
	if !s.local && beat > 0 {
		ticker := time.NewTicker(beat)
		defer ticker.Stop()
		beats = ticker.C
	}
	s.estate.memory.setTender(s.soon)
	// One timer for all else, so that a node that waits wakes up once for it.
	timer := time.NewTimer(trimPeriod)
	defer timer.Stop()
	trimmed := time.Now()
	look := func(now time.Time) {
		if now.Sub(trimmed) >= trimPeriod {
			trimmed = now
			s.estate.memory.trim(now)
		}
		timer.Reset(s.tendLanes(now))
	}
	for nonce := uint64(1); ; {
		select {
		case <-s.link.down:
			return
		case <-s.soon:
			look(time.Now())
		case now := <-timer.C:
			look(now)
		case <-beats:
			silent := s.frames.silence()
			if silent > silenceMax*beat {
				s.link.fail(fmt.Errorf("%w for %v", errSilent, silent.Round(time.Millisecond)))
				return
			}
			if silent > beat {
				s.link.send(&wire.Ping{Nonce: nonce})
				nonce++
			}
		}
	}
}

// tendSoon has the lanes tended now, and then as often as they need it.
func (s *session) tendSoon() {
	select {
	case s.soon <- struct{}{}:
	default:
	}
}
