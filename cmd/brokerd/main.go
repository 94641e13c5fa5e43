// Command brokerd is the broker: it listens for nodes, routes their messages
// and hands out the shared memory that carries the payloads.
//
// Without a subcommand it serves. Its exit status tells a supervisor what to do:
// 0 ended in good order, 1 failed while running (start it again), 2 called the
// wrong way, 78 its configuration or a dataflow file is wrong (starting it again
// will not help).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Exit statuses. 78 is EX_CONFIG of sysexits.h, which systemd and others know.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var status *exitError
	if !errors.As(err, &status) {
		status = &exitError{code: exitFailed, err: err}
	}
	if status.err != nil {
		fmt.Fprintf(stderr, "brokerd: %v\n", status.err)
	}
	if status.code == exitUsage {
		fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", command.CommandPath())
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

// noArguments refuses arguments, and takes the first one for a mistyped
// subcommand where there are any.
func noArguments(command *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !command.HasSubCommands() {
		return usageError(fmt.Errorf("%s takes no arguments, got %q", command.CommandPath(), args[0]))
	}
	text := fmt.Sprintf("unknown command %q", args[0])
	if near := command.SuggestionsFor(args[0]); len(near) > 0 {
		text += fmt.Sprintf(", did you mean %q?", near[0])
	}
	return usageError(errors.New(text))
}
