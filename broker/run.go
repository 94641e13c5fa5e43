package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"

	"github.com/brokerd/brokerd/actors"
	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/wire"
)

// How long each step of the end may take, beside Config.DrainTimeout. A step
// that takes longer is reported, and the next one is done all the same.
const stepTimeout = 5 * time.Second

// parts is everything that runs while the broker does, in the order in which it
// was started.
type parts struct {
	leftovers *leftovers
	memory    memory
	journal   *actors.Journal
	pool      *actors.PoolActor
	router    *actors.Router
	reports   *reporter
	flusher   *flusher
	srv       *server
	engine    *gnet.Client
	acceptor  *acceptor
	minder    *minder
	web       *web

	counters counters
	fatal    chan error // the first reason to give up
}

// Run listens and serves until ctx ends, then drains: it stops accepting, tells
// nodes to stop, waits up to DrainTimeout for what is under way, and gives
// everything back. It returns nil after such an end, and an error if it could
// not start, could not go on, or left something behind.
func (b *Broker) Run(ctx context.Context) error {
	b.mu.Lock()
	started := b.started
	b.started = true
	b.mu.Unlock()
	if started {
		return ErrRunTwice
	}
	p := &parts{fatal: make(chan error, 1)}
	if err := b.start(p); err != nil {
		return errors.Join(err, b.stop(p, false))
	}
	b.announce(p)
	var failed error
	select {
	case <-ctx.Done():
		b.log.Info("draining", zap.Duration("drain_timeout_s", b.cfg.DrainTimeout))
	case failed = <-p.fatal:
		b.log.Error("the broker cannot go on", zap.Error(failed))
	}
	return errors.Join(failed, b.stop(p, failed == nil))
}

// start brings everything up. What it has started when it fails, stop takes
// down again.
func (b *Broker) start(p *parts) (err error) {
	limit, open := fileLimits()
	handshakes := 0
	if b.cfg.TLS != nil {
		handshakes = handshakeFiles(limit, open)
		open += handshakes
	}
	budget, err := shareFiles(limit, open, b.cfg.ConnectionsMax, b.cfg.RegionsMax, b.filesPerRegion(), b.filesPerConnection())
	if err != nil {
		return err
	}
	budget.handshakes = handshakes
	if budget.connections < b.cfg.ConnectionsMax || budget.regions < b.cfg.RegionsMax {
		b.log.Info("limits lowered to what the limit of open files allows",
			zap.Int("open_files_limit", limit), zap.Int("connections_max", budget.connections),
			zap.Int("regions_max", budget.regions))
	}
	// The address first: if another broker has it, nothing else is touched.
	listener, err := b.listen()
	if err != nil {
		return err
	}
	defer func() {
		if p.acceptor == nil {
			_ = listener.Close()
		}
	}()
	if err := b.startRouter(p, listener.Addr().String(), budget); err != nil {
		return err
	}
	if err := b.startSockets(p, listener, budget); err != nil {
		return err
	}
	if b.cfg.HTTP != "" {
		if p.web, err = startWeb(b.cfg.HTTP, b, b.log); err != nil {
			return err
		}
	}
	return nil
}

// gnetLogger lets gnet speak of trouble only. A logger that says less already
// stays as it is: zap refuses to lower a level.
func (b *Broker) gnetLogger() *zap.SugaredLogger {
	log := b.log.Named("gnet")
	if log.Core().Enabled(zap.InfoLevel) {
		log = log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))
	}
	return log.Sugar()
}

func (b *Broker) listen() (net.Listener, error) {
	if b.cfg.Listener != nil {
		return b.cfg.Listener, nil
	}
	listener, err := net.Listen("tcp", b.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", b.cfg.Listen, err)
	}
	return listener, nil
}

// startSockets starts everything between the listener and the router. Accepting
// begins last, when all else is there.
func (b *Broker) startSockets(p *parts, listener net.Listener, budget fileBudget) (err error) {
	if p.flusher, err = newFlusher(); err != nil {
		return err
	}
	p.reports = newReporter(b.log)
	p.srv = &server{
		cfg: &b.cfg, reports: p.reports, counters: &p.counters, guard: newGuard(),
		buffers: newBuffers(b.cfg.BuffersBytesMax),
		router:  p.router, flusher: p.flusher, connectionsMax: budget.connections,
		sessions: make(map[actors.ConnID]*session),
	}
	p.srv.auth.Store(newAuthenticator(b.cfg.AuthToken))
	p.srv.tls.Store(b.cfg.TLS)
	engine, err := gnet.NewClient(p.srv,
		gnet.WithNumEventLoop(b.cfg.EventLoops),
		gnet.WithReadBufferCap(b.cfg.ReadBytes),
		gnet.WithLogger(b.gnetLogger()),
	)
	if err != nil {
		return fmt.Errorf("event loops: %w", err)
	}
	if err := engine.Start(); err != nil {
		return fmt.Errorf("event loops: %w", err)
	}
	p.engine, p.srv.engine = engine, engine
	acceptor, err := newAcceptor(p.srv, listener)
	if err != nil {
		return err
	}
	acceptor.handshakes.max = budget.handshakes
	p.acceptor = acceptor
	p.minder = newMinder(p.srv, acceptor, p.giveUp)
	go p.minder.run()
	go acceptor.run()
	return nil
}

// giveUp ends Run with an error. Only the first reason counts.
func (p *parts) giveUp(err error) {
	select {
	case p.fatal <- err:
	default:
	}
}

// announce lets the outside see that the broker serves.
func (b *Broker) announce(p *parts) {
	addr := p.acceptor.addr
	b.mu.Lock()
	b.addr, b.parts, b.isServing = addr, p, true
	b.mu.Unlock()
	fields := []zap.Field{zap.String("addr", addr.String()), zap.String("version", b.cfg.Version),
		zap.String("instance", p.memory.Instance()), zap.Bool("shared_memory", p.memory.offered()),
		zap.Bool("tls", b.cfg.TLS != nil)}
	if p.web != nil {
		fields = append(fields, zap.String("http", p.web.listener.Addr().String()))
	}
	b.log.Info("listening", fields...)
	close(b.ready)
}

// stop takes down what start has brought up, in the order that loses nothing:
// no new connections, then the nodes' last messages, then the connections, then
// the memory. Each step is bounded in time.
func (b *Broker) stop(p *parts, drain bool) error {
	b.mu.Lock()
	b.isServing = false
	b.mu.Unlock()
	var problems []error
	if p.acceptor != nil {
		p.acceptor.stop()
	}
	if drain && p.router != nil {
		ctx, cancel := context.WithTimeout(context.Background(), b.cfg.DrainTimeout)
		if err := p.router.Drain(ctx); err != nil {
			b.log.Warn("drained in part: nodes were still busy", zap.Error(err))
		}
		cancel()
	}
	if p.srv != nil {
		p.srv.stopping.Store(true)
	}
	if p.router != nil {
		err := within("router", p.router.Stop)
		if err == nil {
			p.journal.Close(time.Second)
		}
		problems = append(problems, err)
	}
	problems = append(problems, b.stopSockets(p)...)
	if p.web != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		p.web.stop(ctx)
		cancel()
	}
	if p.pool != nil {
		problems = append(problems, within("pool", p.pool.Stop))
	}
	if p.leftovers != nil {
		problems = append(problems, within("sweep", p.leftovers.stop))
	}
	if p.memory != nil {
		problems = append(problems, p.memory.Close())
	}
	b.mu.Lock()
	b.parts = nil
	b.mu.Unlock()
	err := errors.Join(problems...)
	if err == nil {
		b.log.Info("all connections and regions are closed")
	}
	return err
}

// stopSockets closes all connections, the last words to their peers first.
func (b *Broker) stopSockets(p *parts) (problems []error) {
	if p.engine != nil {
		goodbye := wire.Errorf(wire.CodeShuttingDown, "the broker is stopping")
		frame := wire.NewEncoder().Append(nil, goodbye)
		for _, s := range p.srv.snapshot(nil) {
			s.finish(frame, goodbye)
		}
		ctx, cancel := context.WithTimeout(context.Background(), b.cfg.LingerTimeout)
		p.srv.empty(ctx)
		cancel()
	}
	if p.minder != nil {
		p.minder.stop()
	}
	if p.engine != nil {
		problems = append(problems, within("event loops", func() {
			if err := p.engine.Stop(); err != nil {
				b.log.Warn("event loops ended with an error", zap.Error(err))
			}
		}))
		if n := p.srv.count(); n > 0 {
			problems = append(problems, fmt.Errorf("%d connections are left open", n))
		}
	}
	if p.flusher != nil {
		p.flusher.stop()
	}
	if p.srv != nil {
		problems = append(problems, within("TLS connections", p.srv.tunnels.Wait))
	}
	if p.reports != nil {
		problems = append(problems, within("log", p.reports.stop))
	}
	return problems
}

// within runs one step of the end, and gives up waiting for it after
// stepTimeout.
func within(what string, step func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		step()
	}()
	timer := time.NewTimer(stepTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("%s did not end within %s", what, stepTimeout)
	}
}

// Reload replaces the dataflows of the configuration. Edges that are the same
// before and after are not disturbed. The difference is logged, and returned one
// line a change. More than Config.FlowsMax are refused with an error that wraps
// ErrBadConfig.
func (b *Broker) Reload(ctx context.Context, flows []*dataflow.Flow) ([]string, error) {
	p := b.running()
	if p == nil {
		return nil, ErrNotRunning
	}
	if len(flows) > b.cfg.FlowsMax {
		return nil, fmt.Errorf("%w: %d dataflows, dataflows_max is %d", ErrBadConfig, len(flows), b.cfg.FlowsMax)
	}
	b.reloading.Lock()
	defer b.reloading.Unlock()
	if err := p.router.Reload(ctx, flows); err != nil {
		return nil, err
	}
	changes := changesOf(b.flows, flows)
	b.flows = slices.Clone(flows)
	return changes, nil
}

// changesOf describes the difference between two sets of dataflows, one line a
// change, each with the name of its dataflow.
func changesOf(before, after []*dataflow.Flow) (changes []string) {
	old := make(map[string]*dataflow.Flow)
	for _, f := range before {
		old[f.Name] = f
	}
	for _, f := range after {
		if old[f.Name] == nil {
			changes = append(changes, f.Name+": loaded")
		} else {
			for _, change := range dataflow.Diff(old[f.Name], f).Strings() {
				changes = append(changes, f.Name+": "+change)
			}
		}
		delete(old, f.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		changes = append(changes, name+": removed")
	}
	return changes
}

// Status describes everything that the broker knows.
func (b *Broker) Status(ctx context.Context) (wire.Status, error) {
	p := b.running()
	if p == nil {
		return wire.Status{}, ErrNotRunning
	}
	return p.router.Status(ctx)
}

func (b *Broker) running() *parts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.parts
}

// serving reports whether nodes can connect.
func (b *Broker) serving() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isServing
}

func (b *Broker) connectionCounters() connectionCounters {
	p := b.running()
	if p == nil {
		return connectionCounters{}
	}
	n := &p.counters
	return connectionCounters{
		Accepted: n.accepted.Load(), Refused: n.refused.Load(), AuthFailures: n.auth.Load(),
		AuthUnseen: n.unseen.Load(), TLSFailures: n.tls.Load(), PushedOut: n.pushed.Load(), Greedy: n.greedy.Load(),
		HandshakeTimeouts: n.handshake.Load(),
		SlowCutOffs:       n.slow.Load(), Silent: n.silent.Load(),
	}
}
