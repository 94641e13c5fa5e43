//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// progressInterval is the time between two lines about how it goes.
const progressInterval = 10 * time.Second

// soak runs it all. It reports whether nothing was found.
func (o *options) soak(ctx context.Context, out, errOut io.Writer) (passed bool, err error) {
	dir, err := o.directory()
	if err != nil {
		return false, err
	}
	program := o.brokerd
	if program == "" {
		if program, err = o.build(ctx, dir); err != nil {
			return false, err
		}
	}
	w, err := newWorld(dir, program, o.seed)
	if err != nil {
		return false, err
	}
	fmt.Fprintf(errOut, "soak: %v, seed %d (--seed %d makes the same draws), books and logs in %s\n", o.length, o.seed, o.seed, dir)
	r, err := o.load(ctx, w, errOut)
	w.destroy()
	if err != nil {
		return false, err
	}
	if err := o.tell(r, w, out); err != nil {
		return false, err
	}
	if r.Passed && o.keep == "" {
		return true, os.RemoveAll(dir)
	}
	return r.Passed, nil
}

// load is the time under load, and the accounts.
func (o *options) load(ctx context.Context, w *world, errOut io.Writer) (*report, error) {
	stopBurning, err := o.burn()
	if err != nil {
		return nil, err
	}
	defer stopBurning()
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watch := newWatcher(w)
	watched := make(chan struct{})
	start := time.Now()
	end := start.Add(o.length)
	go func() {
		defer close(watched)
		watch.run(watching, o.progress(w, start, errOut))
	}()
	c := &chaos{
		w: w, random: rand.New(rand.NewPCG(o.seed, 7)),
		quiet: [2]time.Time{start.Add(o.length * 35 / 100), start.Add(o.length * 80 / 100)},
	}
	c.run(ctx, end)
	stopWatching()
	<-watched
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	fmt.Fprintln(errOut, "soak: bringing everything to rest, and counting")
	r := &report{
		Seed: o.seed, Seconds: o.length.Seconds(), Stress: o.stress, Lives: len(w.past), Brokers: len(w.brokers),
		start: start, warm: start.Add(o.warmUp), quiet: c.quiet, samples: watch.samples,
	}
	if err := w.finish(ctx, 20*o.lag); err != nil {
		r.Faults = append(r.Faults, err.Error())
		w.destroy() // the books can be read all the same, but say less
	}
	if r.Edges, err = w.audit(o.lag); err != nil {
		return nil, err
	}
	r.Growth = judgeAll(watch.samples, r.warm, c.quiet)
	r.sum(w)
	return r, nil
}

// directory is where books and logs go.
func (o *options) directory() (string, error) {
	if o.keep != "" {
		return o.keep, os.MkdirAll(o.keep, 0o755)
	}
	return os.MkdirTemp("", "brokerd-soak-")
}

// build builds brokerd into dir.
func (o *options) build(ctx context.Context, dir string) (string, error) {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/brokerd/brokerd")
	list.Stderr = os.Stderr
	source, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("where is brokerd's source? Start this in its directory, or name a program with --brokerd: %w", err)
	}
	path := filepath.Join(dir, "brokerd")
	args := []string{"build", "-o", path}
	if o.race {
		args = append(args, "-race")
	}
	compile := exec.CommandContext(ctx, "go", append(args, "./cmd/brokerd")...)
	compile.Dir = strings.TrimSpace(string(source))
	if text, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building brokerd: %w\n%s", err, text)
	}
	return filepath.Abs(path)
}

// burn starts the processes that never rest.
func (o *options) burn() (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var all []*exec.Cmd
	stop = func() {
		for _, cmd := range all {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	for range o.stress {
		cmd := exec.Command(self, burnCommand)
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
		if err := starts.start(cmd); err != nil {
			stop()
			return nil, err
		}
		all = append(all, cmd)
	}
	return stop, nil
}

// progress tells how it goes, now and then.
func (o *options) progress(w *world, start time.Time, errOut io.Writer) func(sample) {
	var last sample
	next := start.Add(progressInterval)
	return func(s sample) {
		if last.Time.IsZero() {
			last = s
		}
		if s.Time.Before(next) {
			return
		}
		next = next.Add(progressInterval)
		w.mu.Lock()
		counts := fmt.Sprintf("%d brokers, %d lives of nodes, %d stops", len(w.brokers), len(w.past), w.counts["stop"])
		w.mu.Unlock()
		rate := float64(s.Sent-min(s.Sent, last.Sent)) / max(0.001, s.Time.Sub(last.Time).Seconds())
		broker := "brokerd is dead"
		if b := s.Broker; b != nil {
			broker = fmt.Sprintf("brokerd %d MiB %d fds %d goroutines", b.Own/mib, b.Files, s.Goroutines)
		}
		fmt.Fprintf(errOut, "%7s of %v: %9d sent (%4.0f/s), %s; %s; shm %d MiB in %d; %d faults\n",
			s.Time.Sub(start).Round(time.Second), o.length, s.Sent, rate, counts, broker, s.ShmBytes/mib, s.ShmObjects, w.faultCount())
		last = s
	}
}

// stressText names the load beside the soak.
func (o *options) stressText() string {
	if o.stress == 0 {
		return ""
	}
	return fmt.Sprintf(", %d busy processes beside it on %d processors", o.stress, runtime.NumCPU())
}

// commit is the revision that was tested, if git knows.
func commit() string {
	text, err := exec.Command("git", "describe", "--always", "--dirty", "--tags").Output()
	if err != nil {
		return ""
	}
	return cmp.Or(strings.TrimSpace(string(text)), "")
}
