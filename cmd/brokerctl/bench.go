package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/node"
)

const benchLong = `bench measures the one-way time from a sending process to receiving processes on
all of brokerd's ways, and beside them, in the same run and taking turns with them,
on plain sockets: what a user would write by hand. Time runs from before the
payload is copied in until the receiver has touched every page.

%s
It measures too what further receivers cost the sender, what the first large
message costs, and how many objects each message allocates.

Presets; the other flags change what is in them:
%s
Without --addr it starts a broker of its own, beside brokerctl or in $PATH.
Nothing else should run on the machine; compare ratios, not numbers of two runs.`

const benchExample = `  brokerctl bench
  brokerctl bench --preset quick
  brokerctl bench --preset dora -o json > bench.json
  brokerctl bench --paths lane,tcp --sizes 64,4K,40M --rounds 9 --fanout ""`

// benchReferences are what brokerd's paths are compared with.
var benchReferences = []string{bench.PathTCP, bench.PathRelay}

func newBenchCommand(t *tool) *cobra.Command {
	paths := ""
	for _, p := range bench.Own() {
		paths += fmt.Sprintf("  %-14s %s\n", p.Name, p.What)
	}
	var options *bench.Options
	command := &cobra.Command{
		Use:     "bench",
		Short:   "Measure latency and throughput",
		Long:    fmt.Sprintf(benchLong, paths, bench.PresetUsage()),
		Example: benchExample,
		Args:    arguments(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			spec, err := options.Spec()
			if err != nil {
				return cli.Usage(err)
			}
			return runBench(t, spec, options.Environ())
		},
	}
	options = bench.NewOptions(command.Flags(), bench.Own(), benchReferences)
	return command
}

func runBench(t *tool, spec bench.Spec, environ []string) (err error) {
	// The kernel takes the end of the thread that starts the children for ours.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := untilSignal(context.Background(), t.signals)
	defer cancel()
	if t.addr == "" && os.Getenv(node.EnvAddr) == "" {
		r := &runner{tool: t, printer: newPrinter(&tool{streams: streams{out: io.Discard, err: t.err}}, []string{brokerName})}
		own, err := r.startBroker(ctx)
		if err != nil {
			return err
		}
		defer own.stop(r.printer)
	}
	client, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	env, err := t.benchEnv()
	if err != nil {
		return err
	}
	env.Call, env.Environ = client.Call, append(env.Environ, environ...)
	report, err := bench.Run(ctx, spec, bench.Own(), env)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		return t.explain(err)
	}
	if t.output == outputJSON {
		return writeJSON(t.out, report)
	}
	return report.Write(t.out)
}

// benchEnv says how the processes are started: as this program again.
func (t *tool) benchEnv() (bench.Env, error) {
	self, err := os.Executable()
	if err != nil {
		return bench.Env{}, err
	}
	token, err := t.tokenPath()
	if err != nil {
		return bench.Env{}, err
	}
	env := bench.Env{
		Command: func(ctx context.Context, args ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, self, append([]string{"bench-process"}, args...)...)
			prepare(cmd)
			return cmd
		},
		Environ: []string{node.EnvAddr + "=" + t.address()},
		Stderr:  t.err,
	}
	if token != "" {
		env.Environ = append(env.Environ, node.EnvAuthTokenFile+"="+token)
	}
	if isTerminal(t.err) {
		env.Progress = bench.ShowProgress(t.err)
	}
	return env, nil
}

// newBenchProcessCommand is one process of the benchmark.
func newBenchProcessCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:    "bench-process PATH ROLE",
		Hidden: true,
		Args:   arguments(2, 2, "a path and a role"),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return bench.Serve(ctx, bench.Own(), args, os.Stdin, t.out)
		},
	}
}
