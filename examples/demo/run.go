package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/node/control"
	"github.com/brokerd/brokerd/wire"
)

const (
	refreshInterval = 200 * time.Millisecond
	controlTimeout  = 3 * time.Second
	// The drop log may be a second behind the counters.
	settleTimeout  = 4 * time.Second
	settleInterval = 50 * time.Millisecond
)

// Run runs the demo until the context ends or Options.For is over, ends
// everything it started, and prints a summary. It returns ErrFailed if a check
// of the summary failed, and other errors if it could not get that far. After
// it returns no process of it is left, whatever it returns.
func Run(ctx context.Context, o Options) error {
	// The children die with the thread that starts them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if o.Hurry == nil {
		o.Hurry = context.Background()
	}
	r := &runner{options: o, watch: newWatch(), name: "demo"}
	defer r.detach()
	if err := r.attach(ctx); err != nil {
		return r.explain(err)
	}
	failure := r.startAll()
	if failure == nil {
		failure = r.show(ctx)
	}
	asked, err := r.endAll()
	failure = errors.Join(failure, err)
	if o.Hurry.Err() != nil {
		return errors.Join(failure, ErrHurried) // what was not waited for cannot be judged
	}
	checks := r.watch.verdict()
	r.detach()
	if r.broker != nil { // what another one holds and copies is not ours alone
		checks = append(checks, r.watch.checkCopies(), r.checkMemory())
	}
	summary := r.watch.snapshot(r.elapsed, "", true)
	if failure != nil && summary.Frames == 0 {
		return r.explain(failure) // nothing ran that could be summed up
	}
	failed := writeSummary(o.Out, summary, checks)
	if len(asked) > 0 {
		failure = errors.Join(failure, fmt.Errorf("did not end on the broker's Stop: %s", strings.Join(asked, ", ")))
	}
	if failed && failure == nil {
		failure = ErrFailed
	}
	return r.explain(failure)
}

// runner is one run.
type runner struct {
	options Options
	watch   *watch
	name    string // of the dataflow in the broker

	broker   Broker // nil if another one is used
	client   *control.Client
	drops    *control.Client // follows the drop log of a broker that is not ours
	follower sync.WaitGroup
	children []*child
	exits    chan *child
	instance string // of the broker
	started  time.Time
	elapsed  time.Duration // how long the pipeline ran
}

// attach connects to the broker and gives it the dataflow.
func (r *runner) attach(ctx context.Context) error {
	cfg := control.Config{Addr: r.options.Addr, Client: "brokerd demo"}
	if r.options.AuthTokenFile != "" {
		token, err := os.ReadFile(r.options.AuthTokenFile)
		if err != nil {
			return err
		}
		cfg.AuthToken = bytes.TrimSpace(token)
	}
	if cfg.Addr != "" {
		var err error
		if cfg.TLS, err = node.TLSFromEnv(); err != nil {
			return err
		}
	}
	if cfg.Addr == "" {
		broker, err := r.options.StartBroker(r.watch.dropped)
		if err != nil {
			return err
		}
		r.broker = broker
		cfg.Addr = broker.Addr()
	} else {
		// Two demos may use one broker.
		r.name = fmt.Sprintf("demo-%d", os.Getpid())
		if err := r.follow(ctx, cfg); err != nil {
			return err
		}
	}
	client, err := control.Dial(ctx, cfg)
	if err != nil {
		return err
	}
	r.client = client
	r.instance = client.Welcome().Instance
	request := wire.LoadRequest{Name: r.name, YAML: flowNamed(r.name), Owner: true}
	return client.Call(ctx, wire.VerbLoad, request, nil)
}

// flowNamed returns the dataflow under another name than the file's.
func flowNamed(name string) string {
	return strings.Replace(Flow, "\nname: demo\n", "\nname: "+name+"\n", 1)
}

// follow listens to the drop log of a broker that runs already.
func (r *runner) follow(ctx context.Context, cfg control.Config) error {
	client, err := control.Dial(ctx, cfg)
	if err != nil {
		return err
	}
	r.drops = client
	listening := make(chan struct{})
	r.follower.Go(func() {
		first := true
		// It ends with the client. Records that are missing show in the verdict.
		_ = client.Stream(context.WithoutCancel(ctx), wire.VerbDrops, wire.DropsRequest{Follow: true}, func(raw json.RawMessage) error {
			if first { // the totals of others, from before
				first = false
				close(listening)
				return nil
			}
			var record wire.DropRecord
			if err := json.Unmarshal(raw, &record); err != nil {
				return err
			}
			if record.Dataflow == r.name {
				r.watch.dropped(record)
			}
			return nil
		})
	})
	select {
	case <-listening:
		return nil
	case <-client.Done():
		return client.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// startAll starts the children.
func (r *runner) startAll() error {
	addr := r.options.Addr
	if r.broker != nil {
		addr = r.broker.Addr()
	}
	r.started = time.Now()
	r.exits = make(chan *child, len(programs))
	for _, p := range programs {
		env := []string{
			node.EnvAddr + "=" + addr,
			node.EnvDataflow + "=" + r.name,
			node.EnvNode + "=" + p.name,
			node.EnvAuthTokenFile + "=" + r.options.AuthTokenFile,
		}
		c, err := startChild(p.name, r.options.NodeCommand(p.name), env, r.watch.report)
		if err != nil {
			return err
		}
		r.children = append(r.children, c)
		go func() {
			<-c.done
			r.exits <- c
		}()
	}
	return nil
}

// show keeps the picture up to date until the run is over. The error says why
// it is over before its time.
func (r *runner) show(ctx context.Context) error {
	display := r.newDisplay()
	defer display.close()
	ticker := time.NewTicker(refreshInterval)
	defer ticker.Stop()
	defer func() { r.elapsed = time.Since(r.started) }()
	var over <-chan time.Time
	if r.options.For > 0 {
		timer := time.NewTimer(r.options.For)
		defer timer.Stop()
		over = timer.C
	}
	var brokerDone <-chan struct{}
	if r.broker != nil {
		brokerDone = r.broker.Done()
	}
	for {
		if err := r.refresh(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		snapshot := r.watch.snapshot(time.Since(r.started), "running", false)
		if snapshot.Sink.EdgesVerified == 0 {
			snapshot.Phase = "starting"
		}
		display.update(snapshot)
		select {
		case <-ticker.C:
		case <-over:
			return nil
		case <-ctx.Done():
			return nil
		case c := <-r.exits:
			return fmt.Errorf("node %s ended: %s", c.name, exitText(c.err))
		case <-brokerDone:
			return errors.New("the broker ended")
		case <-r.client.Done():
			return r.client.Err()
		}
	}
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func (r *runner) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	var status wire.Status
	if err := r.client.Call(ctx, wire.VerbStatus, nil, &status); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	r.watch.update(r.name, status)
	return nil
}

// endAll ends the children: first the camera, by the broker's word, then those
// behind it when they have seen its last picture. Then it waits for the drop log.
func (r *runner) endAll() (asked []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), controlTimeout)
	defer cancel()
	err = r.client.Call(ctx, wire.VerbStop, wire.StopRequest{Dataflow: r.name}, nil)
	// Without the camera, those behind it would wait for its end for ever.
	told := err == nil && len(r.children) == len(programs)
	asked = endChildren(r.options.Hurry, told, r.children)
	if err != nil {
		return asked, fmt.Errorf("stop: %w", err)
	}
	deadline := time.Now().Add(settleTimeout)
	for {
		if err := r.refresh(context.Background()); err != nil {
			return asked, err
		}
		if r.watch.settled() || time.Now().After(deadline) || r.options.Hurry.Err() != nil {
			return asked, nil // what did not settle fails its check
		}
		time.Sleep(settleInterval)
	}
}

// detach gives everything back. It may be called twice.
func (r *runner) detach() {
	for _, client := range []*control.Client{r.client, r.drops} {
		if client != nil {
			client.Close() // a closed connection is what is wanted
		}
	}
	r.follower.Wait()
	if r.broker != nil {
		// Its end is judged by what it leaves, see checkMemory.
		_ = r.broker.Stop()
	}
}

// checkMemory looks for shared memory of our broker, which has ended.
func (r *runner) checkMemory() Check {
	c := Check{Name: "shared memory given back", OK: true}
	left, err := filepath.Glob("/dev/shm/*-" + r.instance + "-*")
	if err != nil || len(left) > 0 {
		c.OK = false
		c.Detail = fmt.Sprintf("%d objects are left: %s", len(left), strings.Join(left, " "))
		return c
	}
	c.Detail = "nothing of this broker is left in /dev/shm"
	return c
}

// explain adds to a failure what the processes said.
func (r *runner) explain(failure error) error {
	if failure == nil {
		return nil
	}
	for i := len(r.children) - 1; i >= 0; i-- {
		fmt.Fprint(r.options.Out, r.children[i].output.prefixed(r.children[i].name))
	}
	if r.broker != nil {
		for line := range strings.Lines(r.broker.Trouble()) {
			fmt.Fprintf(r.options.Out, "broker | %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	return failure
}
