package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/node/control"
	"github.com/brokerd/brokerd/wire"
)

const (
	// termInterval is the head start of a source over the nodes behind it when
	// SIGTERM goes round: time to finish what is under way.
	termInterval = 300 * time.Millisecond
	// killAfter is the time between the last SIGTERM and SIGKILL.
	killAfter = 3 * time.Second
	// reapTimeout is how long a killed process may take to be gone.
	reapTimeout = 3 * time.Second
	// stopInterval is the time until Stop is sent again: a node that was not
	// connected when it went out (just started, just reconnecting) missed it.
	stopInterval = time.Second
	// sameOrder is how far apart two signals are at least that mean two orders.
	// timeout(1), for one, sends its signal to the process and to its group, so
	// that one order comes twice.
	sameOrder = 250 * time.Millisecond
	// redialInterval is the pause between two tries to find a lost broker.
	redialInterval = 250 * time.Millisecond
)

// stage is how far the end of a run has come.
type stage int

const (
	running     stage = iota
	stopSent          // the broker told the nodes to stop
	terminating       // SIGTERM goes round
	terminated        // everybody has got it
	killing           // SIGKILL went to all that are left
)

// ending is a run on its way from its start to its end.
type ending struct {
	*runner
	stage   stage
	alarm   *time.Timer     // the next stage
	queue   []*child        // who still has to get SIGTERM, sources first
	asked   time.Time       // when the first signal came
	failure error           // the first thing that went wrong
	lost    <-chan struct{} // the control connection is gone
	found   chan found      // what came of looking for a lost broker
}

type found struct {
	client *control.Client
	err    error
}

// untilOver looks after the children until the last one has ended. failure, if
// any, is a start that did not come off.
func (r *runner) untilOver(ctx context.Context, failure error) error {
	e := &ending{runner: r, failure: failure, alarm: time.NewTimer(time.Hour), lost: r.client.Done(), found: make(chan found, 1)}
	e.alarm.Stop()
	defer e.alarm.Stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alive := len(r.children)
	if failure != nil {
		e.stop(ctx, "")
	} else if alive == 0 {
		r.printer.event(eventInfo, "", 0, "nothing to start: the dataflow stays with the broker until Ctrl-C")
	}
	idle := alive == 0 && failure == nil
	for alive > 0 || idle {
		select {
		case c := <-r.exits:
			alive--
			e.ended(ctx, c, alive)
		case <-r.signals:
			if idle {
				return nil
			}
			e.signalled(ctx)
		case <-e.alarm.C:
			if e.next() {
				return e.abandon()
			}
		case <-e.lost:
			e.lost = nil
			if e.stage == running {
				r.printer.event(eventFailed, "", 0, "the broker is gone; looking for it for "+r.options.brokerTimeout.String())
				go r.search(ctx, e.found)
			}
		case f := <-e.found:
			switch {
			case f.err != nil && idle:
				return f.err
			case f.err != nil:
				e.fail(ctx, f.err)
				continue
			}
			r.client = f.client
			e.lost = f.client.Done()
			r.printer.event(eventInfo, "", 0, "the broker is back")
		}
	}
	return e.failure
}

// ended takes note of one child's end.
func (e *ending) ended(ctx context.Context, c *child, alive int) {
	words, ok := c.result()
	if ok {
		e.printer.event(eventEnded, c.name, 0, words)
	} else {
		e.printer.event(eventFailed, c.name, 0, words)
		if e.failure == nil {
			e.failure = &cli.Exit{Code: cli.ExitFailed, Err: fmt.Errorf("node %s %s", c.name, words)}
		}
		if e.stage == running && alive > 0 {
			e.stop(ctx, "stopping the other nodes")
		}
	}
	if e.stage == terminating && len(e.queue) > 0 {
		e.alarm.Reset(0) // whose turn is next need not wait
	}
}

// fail ends the run because of something else than a node. It does not matter
// any more to one that is ending anyway.
func (e *ending) fail(ctx context.Context, err error) {
	if e.stage != running {
		return
	}
	if e.failure == nil {
		e.failure = err
	}
	e.stop(ctx, "stopping the nodes")
}

func (e *ending) signalled(ctx context.Context) {
	switch {
	case time.Since(e.asked) < sameOrder:
	case e.stage == running:
		e.asked = time.Now()
		e.stop(ctx, "stopping; once more kills at once")
	default:
		e.kill()
	}
}

// stop opens the end: the broker tells every node.
func (e *ending) stop(ctx context.Context, why string) {
	if why != "" {
		e.printer.event(eventInfo, "", 0, why)
	}
	e.stage = stopSent
	e.alarm.Reset(e.options.grace)
	// On the side: an answer that is late must not delay what comes next.
	go e.sendStop(ctx, e.client)
}

// sendStop has the broker tell every node to stop, until the run is over.
func (r *runner) sendStop(ctx context.Context, client *control.Client) {
	ticker := time.NewTicker(stopInterval)
	defer ticker.Stop()
	for {
		err := client.Call(ctx, wire.VerbStop, wire.StopRequest{Dataflow: r.flow.Name}, nil)
		if ctx.Err() != nil || errors.Is(err, control.ErrClosed) {
			return
		}
		if err != nil {
			r.printer.event(eventInfo, "", 0, fmt.Sprintf("the broker did not pass Stop on: %v", err))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// next goes on with the end: it is called when a stage's time is up. True:
// nothing is left to be tried.
func (e *ending) next() bool {
	switch e.stage {
	case stopSent:
		e.stage = terminating
		byName := map[string]*child{}
		for _, c := range e.children {
			byName[c.name] = c
		}
		for _, id := range sourcesFirst(e.flow) {
			if c := byName[id]; c != nil {
				e.queue = append(e.queue, c)
			}
		}
		return e.next()
	case terminating:
		for len(e.queue) > 0 {
			c := e.queue[0]
			e.queue = e.queue[1:]
			if !c.alive() {
				continue
			}
			e.printer.event(eventInfo, c.name, 0, "did not stop by itself: SIGTERM")
			c.signal(syscall.SIGTERM)
			e.alarm.Reset(termInterval)
			return false
		}
		e.stage = terminated
		e.alarm.Reset(killAfter)
	case terminated:
		e.kill()
	case killing:
		return true
	}
	return false
}

// kill ends all that are left, at once.
func (e *ending) kill() {
	e.stage = killing
	for _, c := range e.children {
		if c.alive() {
			e.printer.event(eventInfo, c.name, 0, "SIGKILL")
			c.signal(syscall.SIGKILL)
		}
	}
	e.alarm.Reset(reapTimeout)
}

// abandon gives up on processes that the kernel does not let go of.
func (e *ending) abandon() error {
	for _, c := range e.children {
		if c.alive() {
			e.printer.event(eventFailed, c.name, c.cmd.Process.Pid, fmt.Sprintf("is still there (pid %d), although it was killed", c.cmd.Process.Pid))
		}
	}
	return &cli.Exit{Code: cli.ExitFailed, Err: errors.New("not every process could be ended")}
}

// search looks for a broker that was lost, and brings it the flow again.
func (r *runner) search(ctx context.Context, into chan<- found) {
	ctx, cancel := context.WithTimeout(ctx, r.options.brokerTimeout)
	defer cancel()
	ticker := time.NewTicker(redialInterval)
	defer ticker.Stop()
	var last error
	for {
		client, err := r.bring(ctx)
		if err == nil {
			into <- found{client: client}
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			into <- found{err: &cli.Exit{Code: exitUnreachable, Err: fmt.Errorf("the broker did not come back within %s: %w", r.options.brokerTimeout, last)}}
			return
		case <-ticker.C:
		}
	}
}
