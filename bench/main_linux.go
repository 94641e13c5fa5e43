// Command bench measures brokerd beside what its users would pick instead, in one
// run: all take turns in each round with the same work, so that what the machine
// does meanwhile hits all of them alike. It prints medians, ratios to the limit of
// the machine and to shmipc-go, and whether lanes reach their goals.
//
//	cd bench && go run .            a few minutes
//	cd bench && go run . --quick    about one
//
// It has a module of its own, so that no user of brokerd downloads its peers.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/node/control"
)

// childCommand is the first argument of a process that this program has started.
const childCommand = "child"

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
	exitMissed = 3
)

const examples = `  go -C bench run . --quick
  go -C bench run . --strict --json > report.json
  go -C bench run . --paths lane,limit,shmipc --sizes 64,4K,40M --fanout "" --plot /tmp/latency.png
`

var statuses = fmt.Sprintf(`Exit status: 0 measured; %d not measured, interrupted, or not done within --timeout;
%d wrong usage; %d a goal is missed, with --strict.
`, exitFailed, exitUsage, exitMissed)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// paths are all that can be measured.
func paths() []*bench.Path {
	own := slices.DeleteFunc(bench.Own(), func(p *bench.Path) bool { return p.Name == bench.PathRelay })
	return append(own, limitPath(), shmipcPath(), natsPath())
}

func run(args []string, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if len(args) > 0 && args[0] == childCommand {
		if err := bench.Serve(ctx, paths(), args[1:], os.Stdin, out); err != nil {
			fmt.Fprintln(errOut, "bench:", err)
			return exitFailed
		}
		return 0
	}
	o, err := parse(args, errOut)
	if errors.Is(err, pflag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(errOut, "bench:", err)
		return exitUsage
	}
	report, err := o.measure(ctx, errOut)
	if err == nil && o.plot != "" {
		err = plotLatency(o.plot, report)
	}
	switch {
	case ctx.Err() != nil:
		err = errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("not done within --timeout %v: %w", o.timeout, err)
	case err == nil && o.json:
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	case err == nil:
		err = report.Write(out)
	}
	if err != nil {
		fmt.Fprintln(errOut, "bench:", err)
		return exitFailed
	}
	missed := slices.ContainsFunc(report.Goals, func(g bench.Goal) bool { return !g.Reached })
	if o.strict && missed {
		return exitMissed
	}
	return 0
}

// options are what the command line says.
type options struct {
	spec    bench.Spec
	environ []string
	json    bool
	strict  bool
	plot    string
	brokerd string
	timeout time.Duration
}

func parse(args []string, errOut io.Writer) (*options, error) {
	o := &options{}
	flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.SortFlags = false
	measure := bench.NewOptions(flags, paths(), []string{bench.PathLimit, bench.PathShmipc})
	quick := flags.Bool("quick", false, "the same as --preset quick: about a minute")
	flags.BoolVar(&o.json, "json", false, "print the report as JSON")
	flags.BoolVar(&o.strict, "strict", false, fmt.Sprintf("exit with %d if a goal is missed", exitMissed))
	flags.StringVar(&o.plot, "plot", "", "draw the one-way times to this file as well (.png, .svg, .pdf)")
	flags.StringVar(&o.brokerd, "brokerd", "", "the brokerd to measure (default: built from the source beside this one)")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Minute, "end a run that takes longer")
	flags.Usage = func() {
		fmt.Fprintf(errOut, "Usage: bench [flags]\n\nMeasures brokerd beside its peers, on Linux. Nothing else should run on the machine.\n\nMeasures:\n")
		for _, p := range paths() {
			fmt.Fprintf(errOut, "  %-14s %s\n", p.Name, p.What)
		}
		fmt.Fprintf(errOut, "\nPresets; the other flags change what is in them:\n%s\nExamples:\n%s\nFlags:\n%s\n%s",
			bench.PresetUsage(), examples, flags.FlagUsages(), statuses)
	}
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("%q is one argument too many", flags.Arg(0))
	}
	if *quick {
		if err := flags.Set("preset", bench.PresetQuick); err != nil {
			return nil, err
		}
	}
	var err error
	o.environ = measure.Environ()
	o.spec, err = measure.Spec()
	return o, err
}

// measure starts a broker and runs the benchmark.
func (o *options) measure(ctx context.Context, errOut io.Writer) (report *bench.Report, err error) {
	// The kernel takes the end of the thread that starts the children for ours.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	broker, err := startBroker(ctx, o.brokerd, errOut)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, broker.stop()) }()
	client, err := control.Dial(ctx, control.Config{Addr: broker.addr, Client: "bench"})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	env := bench.Env{
		Command: func(ctx context.Context, args ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, self, append([]string{childCommand}, args...)...)
			prepare(cmd)
			return cmd
		},
		Environ: append(o.environ, node.EnvAddr+"="+broker.addr),
		Call:    client.Call,
		Stderr:  errOut,
	}
	if file, ok := errOut.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		env.Progress = bench.ShowProgress(errOut)
	}
	return bench.Run(ctx, o.spec, paths(), env)
}

// prepare puts a process in a group of its own, so that Ctrl-C reaches only us
// and the end comes in order; should we be killed, the kernel ends it.
func prepare(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
