package actors

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/wire"
)

// ErrStopped is what questions to a router that has ended return.
var ErrStopped = errors.New("router has stopped")

// RouterConfig is fixed for the life of a router.
type RouterConfig struct {
	Version  string // of the program, for status
	Instance string // id of this run of the broker
	Addr     string // that the broker listens on, for status

	FrameBytesMax     uint64        // of a frame body after the handshake
	InlineBytesMax    uint32        // announced to nodes: larger payloads go to shared memory
	HeartbeatInterval time.Duration // announced to nodes; 0: no heartbeats
	QueueBytesMax     uint64        // inline bytes that may wait for one input
	QueueTotalMax     uint64        // inline bytes that may wait for all inputs together
	HeldMessagesMax   int           // messages that one node may hold at a time
	OutstandingMax    int           // messages of one sender, in its regions, that are not done
	FlowsMax          int           // loaded dataflows
	Lanes             bool          // whether local nodes may have direct paths
	InlineFallback    bool          // whether messages that get no shared memory may come inline
	HeldBytesMax      uint64        // that one node may evacuate to memory of its own; 0: none does
	AdoptGrace        time.Duration // how long nodes of a broker that died may bring what they use

	// SessionCounters, if set, adds what only the connections know.
	SessionCounters func(*wire.Counters)
}

// Defaults fills what is zero.
func (cfg RouterConfig) Defaults() RouterConfig {
	if cfg.FrameBytesMax == 0 {
		cfg.FrameBytesMax = 64<<20 + 64<<10
	}
	if cfg.InlineBytesMax == 0 {
		cfg.InlineBytesMax = 4096
	}
	if cfg.QueueBytesMax == 0 {
		cfg.QueueBytesMax = 256 << 20
	}
	if cfg.QueueTotalMax == 0 {
		cfg.QueueTotalMax = 4 << 30
	}
	if cfg.HeldMessagesMax == 0 {
		cfg.HeldMessagesMax = 65536
	}
	if cfg.OutstandingMax == 0 {
		cfg.OutstandingMax = 1 << 18
	}
	if cfg.FlowsMax == 0 {
		cfg.FlowsMax = 256
	}
	return cfg
}

// RouterDeps are what the router talks to.
type RouterDeps struct {
	Journal  *Journal
	Pool     *PoolActor
	Probe    Probe
	Liveness Liveness
	Watchdog func() // called about once a second by the router itself; may be nil
	// Dead are the brokers that had died when this one started, and whose nodes may
	// bring what they use. Gone is closed when every process that had memory of them
	// has ended, or has brought it to this broker.
	Dead []string
	Gone <-chan struct{}
}

// Router is the actor that owns all routes, queues, tokens and leases.
type Router struct {
	// immutable
	pool     *PoolActor
	watchdog func()

	// conns: all events of all connections, in order. Capacity: enough that the
	// loops can work ahead a little. Full: Post waits, which the peers feel as
	// TCP back-pressure.
	conns chan ConnEvent
	// asks: questions of this process. Full: the caller waits, with its context.
	asks chan ask
	// parses and parsed: dataflows to and from the parser goroutine. Full: the
	// router keeps further ones and goes on.
	parses chan parseRequest
	parsed chan parseReply
	quit   chan struct{}
	done   chan struct{}
	once   sync.Once
	gone   <-chan struct{} // see RouterDeps; nil once it was closed. Owned by Run.

	// owned by Run
	core     *core
	armed    time.Time       // what the precise timer is set to
	watched  time.Time       // when the watchdog was last called
	slow     bool            // ticks come every idleInterval
	restful  int             // ticks in a row without anything to look at
	draining chan<- struct{} // closed when nothing is left to drain; nil: not draining
}

// ask is a question or an order of this process. Exactly one field is set.
type ask struct {
	status chan<- wire.Status
	reload *reloadAsk
	drain  chan<- struct{}
}

type reloadAsk struct {
	flows []*dataflow.Flow
	err   chan<- error
}

// connsCapacity is in events, not messages: each is one read of a socket.
const connsCapacity = 256

// NewRouter makes a router. Call Run, then Reload with the first flows.
func NewRouter(cfg RouterConfig, deps RouterDeps) *Router {
	r := &Router{
		pool:     deps.Pool,
		watchdog: deps.Watchdog,
		gone:     deps.Gone,
		conns:    make(chan ConnEvent, connsCapacity),
		asks:     make(chan ask),
		parses:   make(chan parseRequest),
		parsed:   make(chan parseReply),
		quit:     make(chan struct{}),
		done:     make(chan struct{}),
		core:     newCore(cfg.Defaults(), deps.Probe, deps.Liveness, deps.Journal),
	}
	r.core.dead = deps.Dead
	return r
}

// Run is the actor. It returns after Stop.
func (r *Router) Run() {
	defer close(r.done)
	go r.parse()
	defer close(r.parses)
	r.core.started = time.Now()
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	precise := time.NewTimer(time.Hour)
	defer precise.Stop()
	for {
		r.arm(precise)
		requests, request := r.nextPoolRequest()
		parses, parse := r.nextParse()
		if r.slow && (r.core.busy() || r.draining != nil) {
			r.pace(tick, false)
		}
		select {
		case ev := <-r.conns:
			r.onConns(ev)
		case rep := <-r.pool.replies:
			r.onPool(&rep)
		case requests <- request:
			r.core.poolOut = r.core.poolOut[1:]
		case now := <-tick.C:
			r.onTick(now, tick)
		case now := <-precise.C:
			r.core.tickTimers(now)
			r.core.checkOrphans(now)
			r.core.flush(now)
		case a := <-r.asks:
			r.onAsk(a)
		case parses <- parse:
			r.core.parseOut = r.core.parseOut[1:]
		case rep := <-r.parsed:
			now := time.Now()
			r.core.parsed(now, &rep)
			r.core.flush(now)
		case <-r.gone:
			r.gone = nil
			r.core.processesGone()
			r.core.flush(time.Now())
		case <-r.quit:
			r.core.stop(time.Now())
			return
		}
	}
}

// eventsPerFlush bounds how long what one event has produced waits for the
// events behind it.
const eventsPerFlush = 64

// onConns applies an event and those that are there already, then sends what
// came of them.
func (r *Router) onConns(ev ConnEvent) {
	now := time.Now()
	r.core.connEvent(now, &ev)
	for range eventsPerFlush {
		select {
		case ev = <-r.conns:
			r.core.connEvent(now, &ev)
			continue
		default:
		}
		break
	}
	r.core.flush(time.Now()) // the batch may have taken a while; latencies end here
}

func (r *Router) onPool(rep *poolReply) {
	now := time.Now()
	rep.at = now
	switch rep.kind {
	case poolGrant:
		r.core.regionGranted(rep)
	case poolLane:
		r.core.memoryGranted(now, rep)
	case poolAdopt:
		r.core.takenOver(now, rep)
	case poolRead:
		r.core.payloadRead(now, rep)
	case poolStats:
		r.core.statusReady(now, rep.stats)
	}
	r.core.flush(now)
}

func (r *Router) onTick(now time.Time, tick *time.Ticker) {
	r.core.tick(now)
	r.core.flush(now)
	// A margin, or a tick that comes a little early would make it two seconds.
	if r.watchdog != nil && now.Sub(r.watched) >= watchdogInterval-tickInterval/2 {
		r.watched = now
		r.watchdog()
	}
	if r.restful++; r.core.busy() || r.draining != nil {
		r.restful = 0
	}
	if !r.slow && r.restful == restfulTicks {
		r.pace(tick, true)
	}
	if r.draining != nil && r.core.drained() {
		close(r.draining)
		r.draining = nil
	}
}

const (
	// idleInterval is the time between ticks while there is nothing to look at:
	// a broker that waits should cost nothing.
	idleInterval     = time.Second
	restfulTicks     = 20 // of tickInterval, before they come every idleInterval
	watchdogInterval = time.Second
)

// pace sets how often ticks come.
func (r *Router) pace(tick *time.Ticker, slow bool) {
	r.slow, r.restful = slow, 0
	if slow {
		tick.Reset(idleInterval)
	} else {
		tick.Reset(tickInterval)
	}
}

func (r *Router) onAsk(a ask) {
	now := time.Now()
	switch {
	case a.status != nil:
		r.core.statusFor = append(r.core.statusFor, statusRequest{reply: a.status})
		r.core.poolOut = append(r.core.poolOut, poolRequest{kind: poolStats})
	case a.reload != nil:
		a.reload.err <- r.core.reload(now, a.reload.flows)
	case a.drain != nil:
		r.core.drain()
		r.draining = a.drain
	}
	r.core.flush(now)
}

// nextPoolRequest turns the case that feeds the pool off while there is nothing
// to ask.
func (r *Router) nextPoolRequest() (chan<- poolRequest, poolRequest) {
	if len(r.core.poolOut) == 0 {
		r.core.poolOut = nil
		return nil, poolRequest{}
	}
	return r.pool.requests, r.core.poolOut[0]
}

func (r *Router) nextParse() (chan<- parseRequest, parseRequest) {
	if len(r.core.parseOut) == 0 {
		r.core.parseOut = nil
		return nil, parseRequest{}
	}
	return r.parses, r.core.parseOut[0]
}

// arm sets the precise timer to the next timer input or look at an orphan.
func (r *Router) arm(t *time.Timer) {
	next, ok := r.core.orphanAt, !r.core.orphanAt.IsZero()
	if len(r.core.timers) > 0 && (!ok || r.core.timers[0].next.Before(next)) {
		next, ok = r.core.timers[0].next, true
	}
	if !ok {
		next = r.core.started.Add(1 << 62)
	}
	if !next.Equal(r.armed) {
		r.armed = next
		t.Reset(time.Until(next))
	}
}

// parse reads dataflows for control connections.
func (r *Router) parse() {
	for req := range r.parses {
		rep := parseReply{session: req.session, id: req.id}
		rep.flow, rep.owner, rep.err = parseLoad(req.body)
		select {
		case r.parsed <- rep:
		case <-r.done:
		}
	}
}

// parseLoad reads the dataflow of a load request, whose name goes before that in
// the file.
func parseLoad(body []byte) (flow *dataflow.Flow, owner bool, err error) {
	var load wire.LoadRequest
	if err := json.Unmarshal(body, &load); err != nil {
		return nil, false, fmt.Errorf("body of load: %w", err)
	}
	flow, _, err = dataflow.Parse(cmp.Or(load.Name, "dataflow"), []byte(load.YAML), dataflow.Options{})
	if err != nil {
		return nil, false, err
	}
	if load.Name != "" {
		if err := wire.CheckID(load.Name); err != nil {
			return nil, false, fmt.Errorf("name of the dataflow: %w", err)
		}
		flow.Name = load.Name
	}
	return flow, load.Owner, nil
}

// Post hands the router one event of a connection. It waits while the mailbox is
// full, and returns false once the router has stopped.
func (r *Router) Post(ev ConnEvent) bool {
	select {
	case <-r.done: // also if there is room
		return false
	default:
	}
	select {
	case r.conns <- ev:
		return true
	case <-r.done:
		return false
	}
}

// Status describes everything that the router knows.
func (r *Router) Status(ctx context.Context) (wire.Status, error) {
	reply := make(chan wire.Status, 1)
	if err := r.ask(ctx, ask{status: reply}); err != nil {
		return wire.Status{}, err
	}
	select {
	case s := <-reply:
		return s, nil
	case <-ctx.Done():
		return wire.Status{}, ctx.Err()
	case <-r.done:
		return wire.Status{}, ErrStopped
	}
}

// Reload makes the configuration's dataflows those of flows. Edges that are the
// same before and after are not touched. What changes is logged.
func (r *Router) Reload(ctx context.Context, flows []*dataflow.Flow) error {
	reply := make(chan error, 1)
	if err := r.ask(ctx, ask{reload: &reloadAsk{flows, reply}}); err != nil {
		return err
	}
	select {
	case err := <-reply:
		return err
	case <-r.done:
		return ErrStopped
	}
}

// Drain asks every node to stop, lets nobody in any more, and waits until no
// node is left or ctx ends.
func (r *Router) Drain(ctx context.Context) error {
	drained := make(chan struct{})
	if err := r.ask(ctx, ask{drain: drained}); err != nil {
		return err
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.done:
		return ErrStopped
	}
}

func (r *Router) ask(ctx context.Context, a ask) error {
	select {
	case r.asks <- a:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.done:
		return ErrStopped
	}
}

// Stop ends Run: what still waits is dropped and logged, every connection is
// closed. It returns when Run has. It may be called more than once.
func (r *Router) Stop() {
	r.once.Do(func() { close(r.quit) })
	<-r.done
}
