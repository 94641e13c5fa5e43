package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/wire"
)

const benchLong = `bench measures the one-way time from a sending process through the broker to a
receiving process, and beside it, in the same run and taking turns with it, the
same over one direct TCP connection and through a relay that does nothing but pass
bytes on: what a hop costs at least. Time runs from before the payload is copied
in until the receiver has touched every page.

Without --addr it starts a broker of its own, beside brokerctl or in $PATH.
Nothing else should run on the machine; compare ratios, not numbers of two runs.`

const benchExample = `  brokerctl bench
  brokerctl bench --sizes 64,4K,40M --rounds 9
  brokerctl bench --paths brokered,tcp --unpaced 0 -o json > bench.json`

// benchFlowName is what the benchmark's dataflow is called in the broker.
const benchFlowName = "brokerctl-bench"

func newBenchCommand(t *tool) *cobra.Command {
	spec := bench.Defaults()
	sizes := ""
	command := &cobra.Command{
		Use:     "bench",
		Short:   "Measure latency and throughput",
		Long:    benchLong,
		Example: benchExample,
		Args:    arguments(0, 0, ""),
		RunE: func(command *cobra.Command, _ []string) error {
			var err error
			if sizes != "" {
				if spec.Sizes, err = parseSizes(sizes); err != nil {
					return cli.Usage(err)
				}
			}
			if err := spec.Validate(); err != nil {
				return cli.Usage(err)
			}
			return runBench(t, spec)
		},
	}
	flags := command.Flags()
	flags.StringSliceVar(&spec.Paths, "paths", spec.Paths, "what to measure: "+strings.Join(bench.Paths(), ", "))
	flags.StringVar(&sizes, "sizes", "", "payload sizes in bytes, with K or M for KiB or MiB (default 64 to 40M)")
	flags.IntVar(&spec.Count, "count", spec.Count, "paced messages a size, path and round")
	flags.DurationVar(&spec.Interval, "interval", spec.Interval, "between paced messages; large ones get more")
	flags.DurationVar(&spec.Unpaced, "unpaced", spec.Unpaced, "how long to send back to back; 0: not at all")
	flags.IntVar(&spec.Rounds, "rounds", spec.Rounds, "how often the paths take turns")
	return command
}

func parseSizes(text string) ([]int, error) {
	var sizes []int
	for word := range strings.SplitSeq(text, ",") {
		digits, shift := strings.TrimSpace(word), 0
		switch {
		case strings.HasSuffix(digits, "K"):
			digits, shift = digits[:len(digits)-1], 10
		case strings.HasSuffix(digits, "M"):
			digits, shift = digits[:len(digits)-1], 20
		}
		n, err := strconv.ParseUint(digits, 10, 31-shift)
		if err != nil {
			return nil, fmt.Errorf("--sizes: %q is no size; examples: 64, 4K, 40M", word)
		}
		sizes = append(sizes, int(n)<<shift)
	}
	return sizes, nil
}

func runBench(t *tool, spec bench.Spec) (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-t.signals:
			cancel()
		case <-ctx.Done():
		}
	}()
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
	load := wire.LoadRequest{Name: benchFlowName, YAML: bench.Flow, Owner: true}
	if err := client.Call(ctx, wire.VerbLoad, load, nil); err != nil {
		return t.explain(err)
	}
	env, err := t.benchEnv()
	if err != nil {
		return err
	}
	report, err := bench.Run(ctx, spec, env)
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	if err != nil {
		return err
	}
	if t.output == outputJSON {
		return writeJSON(t.out, report)
	}
	return report.Write(t.out)
}

// benchEnv says how the two processes are started: as this program again.
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
		Command: func(ctx context.Context, role string, peers ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, self, append([]string{"bench-process", role}, peers...)...)
			prepare(cmd)
			return cmd
		},
		Environ: []string{node.EnvAddr + "=" + t.address(), node.EnvDataflow + "=" + benchFlowName},
		Stderr:  t.err,
	}
	if token != "" {
		env.Environ = append(env.Environ, node.EnvAuthTokenFile+"="+token)
	}
	if f, ok := t.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		env.Progress = func(done, all int, what string) {
			fmt.Fprintf(f, "\r\x1b[K%3d %%  %s", 100*done/max(1, all), what)
			if done+1 >= all {
				fmt.Fprint(f, "\r\x1b[K")
			}
		}
	}
	return env, nil
}

// newBenchProcessCommand is one process of the benchmark.
func newBenchProcessCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:    "bench-process ROLE PEER...",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return bench.Serve(ctx, args[0], args[1:], os.Stdin, t.out)
		},
	}
}
