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
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/internal/cli"
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
	return cli.Status(command, err, stderr)
}

// noArguments refuses arguments, and takes the first one for a mistyped
// subcommand where there are any.
func noArguments(command *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !command.HasSubCommands() {
		return cli.Usage(fmt.Errorf("%s takes no arguments, got %q", command.CommandPath(), args[0]))
	}
	return cli.UnknownCommand(command, args[0])
}
