//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// finish brings the world to rest, and looks at what is left of it: first while all
// nodes are there, then when they have gone, then when the broker has.
func (w *world) finish(ctx context.Context, patience time.Duration) error {
	w.lookForDead()
	if err := w.settle(ctx, "nodes connect", patience, func() error { return w.connected(ctx) }); err != nil {
		return err
	}
	for _, do := range []string{"halt", "release"} {
		for id := range w.live {
			if _, err := w.live[id].ask(do, patience); err != nil {
				return err
			}
		}
	}
	var status wire.Status
	err := w.settle(ctx, "at rest", patience, func() (err error) {
		if status, err = w.broker().status(ctx); err != nil {
			return err
		}
		return errors.Join(settled(status), w.slotsFree())
	})
	if err != nil {
		return err
	}
	for id := range w.live {
		w.endNode(id, false)
	}
	err = w.settle(ctx, "after the last node", patience, func() (err error) {
		if status, err = w.broker().status(ctx); err != nil {
			return err
		}
		return left(status)
	})
	if err != nil {
		return err
	}
	if err := w.broker().end(); err != nil {
		return err
	}
	if names := shmNames(w.prefix); len(names) > 0 {
		return fmt.Errorf("left in %s: %v", shmDir, names)
	}
	return w.checkLog(status)
}

func (w *world) connected(ctx context.Context) error {
	s, err := w.broker().status(ctx)
	if err != nil {
		return err
	}
	for _, n := range s.Nodes {
		if !n.Connected {
			return fmt.Errorf("%s is not connected", n.Node)
		}
	}
	return nil
}

// settled complains about a broker that still has something under way.
func settled(s wire.Status) error {
	if s.Counters.Tokens != 0 {
		return fmt.Errorf("%d tokens", s.Counters.Tokens)
	}
	for _, e := range s.Edges {
		if e.Held != 0 || e.Queued != 0 || e.InFlight != 0 {
			return fmt.Errorf("%s→%s: %d queued, %d in flight, %d held", e.From, e.To, e.Queued, e.InFlight, e.Held)
		}
		if e.Published != e.Delivered+e.Dropped+e.NoReceiver {
			return fmt.Errorf("%s→%s: %d published, %d delivered + %d dropped + %d without receiver", e.From, e.To, e.Published, e.Delivered, e.Dropped, e.NoReceiver)
		}
	}
	return nil
}

// slotsFree complains about senders that do not have all of their slots back.
func (w *world) slotsFree() error {
	for id, p := range w.live {
		a, err := p.ask("report", brokerPatience)
		if err != nil {
			return err
		}
		if a.Stats.SlotsUsed > 0 || a.Stats.Held > 0 {
			return fmt.Errorf("%s: %d slots used, %d messages held", id, a.Stats.SlotsUsed, a.Stats.Held)
		}
		if a.Stats.Forgotten > 0 {
			return fmt.Errorf("%s: %d messages or loans were forgotten", id, a.Stats.Forgotten)
		}
	}
	return nil
}

// left complains about nodes that are still there, and about memory that they have
// not given back.
func left(s wire.Status) error {
	if s.Connections != 1 { // ours
		return fmt.Errorf("%d connections", s.Connections)
	}
	if m := s.Memory; m.Regions != m.CachedRegions || m.RetiredRegions != 0 || m.RetiredBytes != 0 || m.UsedBytes != m.CachedBytes {
		return fmt.Errorf("memory %+v", m)
	}
	return settled(s)
}

// checkLog compares the last broker's log with its last status, and looks for lines
// that no broker in order writes.
func (w *world) checkLog(s wire.Status) error {
	var errs []error
	type series struct{ from, to, reason string }
	for i, b := range w.brokers {
		sums := map[series]uint64{}
		for _, r := range b.drops {
			key := series{r.From, r.To, r.Reason}
			if sums[key] += r.Count; sums[key] != r.Total {
				errs = append(errs, fmt.Errorf("log of broker %d: %s→%s %s: %d dropped in all, the lines so far say %d", i+1, r.From, r.To, r.Reason, r.Total, sums[key]))
			}
		}
		for _, f := range b.faults {
			errs = append(errs, fmt.Errorf("log of broker %d: %s", i+1, f))
		}
		if i < len(w.brokers)-1 {
			continue
		}
		for _, e := range s.Edges {
			for reason, n := range e.Drops {
				if got := sums[series{e.From, e.To, reason}]; got != n {
					errs = append(errs, fmt.Errorf("%s→%s: %d dropped for %s, the log says %d", e.From, e.To, n, reason, got))
				}
			}
		}
	}
	return errors.Join(errs...)
}
