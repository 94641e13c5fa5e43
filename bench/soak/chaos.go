//go:build linux

package main

import (
	"context"
	"math/rand/v2"
	"syscall"
	"time"
)

// chaos does to a world what may happen to it.
type chaos struct {
	w      *world
	random *rand.Rand
	later  []deferred
	// Between quiet[0] and quiet[1] nobody touches the broker: what leaks in it has
	// time to show.
	quiet [2]time.Time
}

// deferred is something to be done later.
type deferred struct {
	at time.Time
	do func()
}

// The time between two things that are done.
const (
	pauseMin  = 200 * time.Millisecond
	pauseMean = 2 * time.Second
	pauseMax  = 6 * time.Second
)

// between draws a time.
func (c *chaos) between(low, high time.Duration) time.Duration {
	return low + time.Duration(c.random.Int64N(int64(high-low)))
}

func (c *chaos) defers(after time.Duration, do func()) {
	c.later = append(c.later, deferred{time.Now().Add(after), do})
}

// run goes on until the time is over, and leaves a world in which everybody runs.
func (c *chaos) run(ctx context.Context, end time.Time) {
	next := time.Now().Add(c.pause())
	for time.Now().Before(end) && ctx.Err() == nil {
		due := next
		for _, d := range c.later {
			if d.at.Before(due) {
				due = d.at
			}
		}
		if due.After(end) {
			due = end
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(due)):
		}
		c.w.lookForDead()
		c.catchUp(time.Now())
		if !time.Now().Before(next) && time.Now().Before(end) {
			c.act(ctx)
			next = time.Now().Add(c.pause())
		}
	}
	c.catchUp(time.Now().Add(time.Hour))
}

// pause draws the time until the next act.
func (c *chaos) pause() time.Duration {
	return min(pauseMax, pauseMin+time.Duration(c.random.ExpFloat64()*float64(pauseMean-pauseMin)))
}

// catchUp does what is due.
func (c *chaos) catchUp(now time.Time) {
	later := c.later
	c.later = nil
	for _, d := range later {
		if d.at.After(now) {
			c.later = append(c.later, d)
		} else {
			d.do()
		}
	}
}

// act does one thing.
func (c *chaos) act(ctx context.Context) {
	now := time.Now()
	quiet := now.After(c.quiet[0]) && now.Before(c.quiet[1])
	switch n := c.random.IntN(100); {
	case n < 45:
		c.endNode(true)
	case n < 55:
		c.endNode(false)
	case n < 67:
		c.stopNode()
	case n < 77:
		c.freeze()
	case n < 84:
		c.stopBroker(quiet)
	default:
		c.killBroker(ctx, quiet)
	}
}

// pick draws a living node that may be harmed.
func (c *chaos) pick() *process {
	for range 100 {
		spec := &nodes[c.random.IntN(len(nodes))]
		if p := c.w.live[spec.id]; p != nil && spec.role != roleVeteran && p.alive() {
			return p
		}
	}
	return nil
}

// endNode kills a node, or has it leave, and starts it again a moment later.
func (c *chaos) endNode(kill bool) {
	p := c.pick()
	if p == nil || !kill && (p.stopped || !c.w.brokerUp() || c.brokerStopped()) {
		return
	}
	what := "restart"
	if kill {
		what = "kill"
	}
	c.w.event(what, p.spec.id)
	c.w.endNode(p.spec.id, kill)
	c.defers(c.between(50*time.Millisecond, 2500*time.Millisecond), func() {
		if err := c.w.startNode(p.spec); err != nil {
			c.w.fault(err.Error())
		}
	})
}

func (c *chaos) stopNode() {
	if p := c.pick(); p != nil {
		c.stop(p, c.between(50*time.Millisecond, 2*time.Second))
	}
}

// freeze stops one node for long: beyond all time-outs.
func (c *chaos) freeze() {
	for _, p := range c.w.live {
		if p.spec.role == roleFrozen && p.alive() {
			c.stop(p, c.between(5*time.Second, 30*time.Second))
		}
	}
}

func (c *chaos) stop(p *process, length time.Duration) {
	if p.stopped {
		return
	}
	c.w.event("stop", p.spec.id)
	p.stop(true)
	c.defers(length, func() { p.stop(false) })
}

func (c *chaos) brokerStopped() bool { return c.w.broker().stopped }

// stopBroker stops the broker for a while.
func (c *chaos) stopBroker(quiet bool) {
	b := c.w.broker()
	if quiet || b.stopped || !c.w.brokerUp() {
		return
	}
	c.w.event("stop", "brokerd")
	b.stopped = true
	_ = b.cmd.Process.Signal(syscall.SIGSTOP)
	c.defers(c.between(50*time.Millisecond, 1500*time.Millisecond), func() {
		b.stopped = false
		_ = b.cmd.Process.Signal(syscall.SIGCONT)
	})
}

// killBroker kills the broker and starts another a moment later.
func (c *chaos) killBroker(ctx context.Context, quiet bool) {
	if quiet || !c.w.brokerUp() {
		return
	}
	c.w.event("kill", "brokerd")
	c.w.broker().kill()
	c.defers(c.between(0, 2*time.Second), func() {
		if err := c.w.restartBroker(ctx); err != nil {
			c.w.fault(err.Error())
		}
	})
}
