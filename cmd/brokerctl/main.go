// Command brokerctl looks into a running broker and runs dataflows: it starts
// their processes, shows what goes on, and ends them in order.
//
// Exit status: 0 all is well, 1 something failed (of run: a node), 2 called the
// wrong way, 3 no broker answers, 78 a dataflow file or another file is wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses. 78 is EX_CONFIG of sysexits.h.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitConfig      = 78
)

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
	if err == nil {
		return exitOK
	}
	var status *exitError
	if !errors.As(err, &status) {
		status = &exitError{code: exitFailed, err: err}
	}
	if status.err != nil {
		fmt.Fprintf(io.err, "brokerctl: %v\n", status.err)
	}
	if status.code == exitUsage {
		fmt.Fprintf(io.err, "Run '%s --help' for usage.\n", command.CommandPath())
	}
	return status.code
}

// exitError carries the exit status that an error leads to. A nil err means that
// everything has been said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usageError(err error) error  { return &exitError{code: exitUsage, err: err} }
func configError(err error) error { return &exitError{code: exitConfig, err: err} }

// arguments checks how many there are, as a usage error. what names them.
func arguments(lowest, highest int, what string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		switch {
		case len(args) < lowest:
			return usageError(fmt.Errorf("%s needs %s", command.CommandPath(), what))
		case len(args) > highest && highest == 0 && command.HasSubCommands():
			text := fmt.Sprintf("unknown command %q", args[0])
			if near := command.SuggestionsFor(args[0]); len(near) > 0 {
				text += fmt.Sprintf(", did you mean %q?", near[0])
			}
			return usageError(errors.New(text))
		case len(args) > highest:
			return usageError(fmt.Errorf("%s: %q is one argument too many", command.CommandPath(), args[highest]))
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
