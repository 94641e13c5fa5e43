package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// Env is how the children are started.
type Env struct {
	// Command makes the command line of a child of that role; peers are the
	// addresses that Serve wants.
	Command func(ctx context.Context, role string, peers ...string) *exec.Cmd
	// Environ is added to the children's environment: where the broker is.
	Environ []string
	// Stderr gets what the children say.
	Stderr io.Writer
	// Progress, if not nil, is called before each series.
	Progress func(done, all int, what string)
}

// child is one of the processes.
type child struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	orders  *json.Encoder
	answers *json.Decoder
}

func (e *Env) start(ctx context.Context, role string, peers ...string) (*child, answer, error) {
	c := &child{cmd: e.Command(ctx, role, peers...)}
	c.cmd.Env = append(os.Environ(), append(slices.Clone(e.Environ), "BROKERD_NODE="+role)...)
	c.cmd.Stderr = e.Stderr
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = 2 * time.Second
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, answer{}, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, answer{}, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, answer{}, fmt.Errorf("%s: %w", role, err)
	}
	c.orders, c.answers = json.NewEncoder(c.in), json.NewDecoder(out)
	a, err := c.answer()
	if err != nil {
		return nil, answer{}, errors.Join(fmt.Errorf("%s did not get ready: %w", role, err), c.stop())
	}
	return c, a, nil
}

func (c *child) answer() (answer, error) {
	var a answer
	if err := c.answers.Decode(&a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (c *child) ask(o order) (answer, error) {
	if err := c.orders.Encode(o); err != nil {
		return answer{}, err
	}
	return c.answer()
}

// stop ends the process: the end of its input is the end of its work.
func (c *child) stop() error {
	_ = c.in.Close()
	return c.cmd.Wait()
}

// runner is one run of the benchmark.
type runner struct {
	env                     *Env
	spec                    Spec
	sender, receiver, relay *child
	series                  uint64
	done, all               int
}

// Run measures what spec says. The broker must have loaded Flow.
func Run(ctx context.Context, spec Spec, env Env) (*Report, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	r := &runner{env: &env, spec: spec}
	err := r.start(ctx)
	var report *Report
	if err == nil {
		report, err = r.measure(ctx)
	}
	for _, c := range []*child{r.sender, r.relay, r.receiver} {
		if c != nil {
			err = errors.Join(err, c.stop())
		}
	}
	return report, err
}

func (r *runner) start(ctx context.Context) error {
	receiver, at, err := r.env.start(ctx, RoleReceiver)
	if err != nil {
		return err
	}
	r.receiver = receiver
	relay, between, err := r.env.start(ctx, RoleRelay, at.Addr)
	if err != nil {
		return err
	}
	r.relay = relay
	r.sender, _, err = r.env.start(ctx, RoleSender, at.Addr, between.Addr)
	return err
}

func (r *runner) measure(ctx context.Context) (*Report, error) {
	modes := 1
	if r.spec.Unpaced > 0 {
		modes = 2
	}
	for _, size := range r.spec.Sizes {
		r.all += r.spec.Rounds * len(r.spec.paths(size)) * modes
	}
	report := newReport(r.spec)
	for _, size := range r.spec.Sizes {
		row, err := r.size(ctx, size)
		if err != nil {
			return nil, err
		}
		report.Sizes = append(report.Sizes, *row)
	}
	return report, nil
}

// size measures all paths for one size, taking turns.
func (r *runner) size(ctx context.Context, size int) (*SizeResult, error) {
	result := &SizeResult{Bytes: size, Paths: map[string]*PathResult{}}
	copies, err := r.sender.ask(order{Memcpy: true, Size: size, Count: r.spec.count(size)})
	if err != nil {
		return nil, err
	}
	result.MemcpyP50NS = percentile(sorted(copies.TimesNS), 0.5)
	paths := r.spec.paths(size)
	for _, path := range paths {
		result.Paths[path] = &PathResult{}
		// The first messages pay for regions, mappings and buffers.
		if _, err := r.run(ctx, order{Path: path, Size: size, Count: max(5, r.spec.count(size)/10), Pace: r.spec.pace(size)}); err != nil {
			return nil, err
		}
	}
	for round := range r.spec.Rounds {
		for i := range paths {
			// Whoever is second meets the caches that the first has left: turn
			// the order round every time.
			path := paths[(i+round)%len(paths)]
			if err := r.turn(ctx, size, path, result.Paths[path]); err != nil {
				return nil, fmt.Errorf("%s, %d bytes: %w", path, size, err)
			}
		}
	}
	for _, p := range result.Paths {
		p.finish()
	}
	return result, nil
}

// turn is one path's part of a round.
func (r *runner) turn(ctx context.Context, size int, path string, into *PathResult) error {
	paced, err := r.run(ctx, order{Path: path, Size: size, Count: r.spec.count(size), Pace: r.spec.pace(size)})
	if err != nil {
		return err
	}
	into.times = append(into.times, paced.TimesNS...)
	into.RoundP50NS = append(into.RoundP50NS, percentile(sorted(paced.TimesNS), 0.5))
	if r.spec.Unpaced == 0 {
		return nil
	}
	unpaced, err := r.run(ctx, order{Path: path, Size: size, Unpaced: r.spec.Unpaced})
	if err != nil {
		return err
	}
	if unpaced.ElapsedNS > 0 {
		into.RoundPerSecond = append(into.RoundPerSecond, float64(unpaced.Messages-1)/float64(unpaced.ElapsedNS)*1e9)
	}
	return nil
}

// seriesTimeout is more than any series takes; a lost message would otherwise
// be waited for in vain.
const seriesTimeout = 2 * time.Minute

// run has one series sent and received.
func (r *runner) run(ctx context.Context, o order) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, err
	}
	r.series++
	o.Series = r.series
	if r.env.Progress != nil {
		r.env.Progress(r.done, r.all, fmt.Sprintf("%s %s", o.Path, FormatBytes(o.Size)))
	}
	watchdog := time.AfterFunc(seriesTimeout, func() {
		_ = r.sender.cmd.Process.Kill()
		_ = r.receiver.cmd.Process.Kill()
	})
	defer watchdog.Stop()
	if _, err := r.receiver.ask(o); err != nil { // Ready
		return answer{}, fmt.Errorf("receiver: %w", err)
	}
	if _, err := r.sender.ask(o); err != nil {
		return answer{}, fmt.Errorf("sender: %w", err)
	}
	a, err := r.receiver.answer()
	if err != nil {
		return answer{}, fmt.Errorf("receiver: %w", err)
	}
	if o.Count > 0 && a.Messages != o.Count {
		return answer{}, fmt.Errorf("%d of %d messages arrived", a.Messages, o.Count)
	}
	r.done = min(r.done+1, r.all)
	return a, nil
}
