// Command brokerctl looks into a running broker and runs dataflows: it starts
// their processes, shows what goes on, and ends them in order.
//
// Exit status: 0 all is well, 1 something failed (of run: a node), 2 called the
// wrong way, 3 no broker answers, 78 a dataflow file or another file is wrong.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/internal/cli"
)

// exitUnreachable is the exit status of a command whose broker does not answer.
// The others are in package cli.
const exitUnreachable = 3

func main() {
	// Every command ends by the first signal; run has an order to keep, and hurries
	// at the second.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	os.Exit(run(context.Background(), os.Args[1:], streams{os.Stdout, os.Stderr}, signals))
}

// streams is where a command writes.
type streams struct {
	out, err io.Writer
}

// run is main without the process around it.
func run(ctx context.Context, args []string, io streams, signals <-chan os.Signal) int {
	root := newRootCommand(io, signals)
	root.SetArgs(args)
	root.SetOut(io.out)
	root.SetErr(io.err)
	command, err := root.ExecuteContextC(ctx)
	return cli.Status(command, err, io.err)
}

// arguments checks how many there are, as a usage error. what names them.
func arguments(lowest, highest int, what string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		switch {
		case len(args) < lowest:
			return cli.Usage(fmt.Errorf("%s needs %s", command.CommandPath(), what))
		case len(args) > highest && highest == 0 && command.HasSubCommands():
			return cli.UnknownCommand(command, args[0])
		case len(args) > highest:
			return cli.Usage(fmt.Errorf("%s: %q is one argument too many", command.CommandPath(), args[highest]))
		}
		return nil
	}
}

// untilSignal returns a context that ends with the first signal.
func untilSignal(ctx context.Context, signals <-chan os.Signal) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
