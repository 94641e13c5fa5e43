package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Exit statuses. 78 is EX_CONFIG of sysexits.h, which systemd and others know.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
	ExitConfig = 78
)

// Exit carries the exit status that an error leads to. A nil Err means that
// everything has been said already.
type Exit struct {
	Code int
	Err  error
}

func (e *Exit) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap makes what led to the exit visible to package errors.
func (e *Exit) Unwrap() error { return e.Err }

// Usage makes err one of a command that was called the wrong way.
func Usage(err error) error { return &Exit{Code: ExitUsage, Err: err} }

// Config makes err one of a configuration or a dataflow file.
func Config(err error) error { return &Exit{Code: ExitConfig, Err: err} }

// Status says on stderr why command, of the program that root is, has failed, and
// returns its exit status. err may be nil.
func Status(command *cobra.Command, err error, stderr io.Writer) int {
	if err == nil {
		return ExitOK
	}
	var exit *Exit
	if !errors.As(err, &exit) {
		exit = &Exit{Code: ExitFailed, Err: err}
	}
	if exit.Err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", command.Root().Name(), exit.Err)
	}
	if exit.Code == ExitUsage {
		fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", command.CommandPath())
	}
	return exit.Code
}

// UnknownCommand is the usage error of an argument that should have been a
// subcommand of command. It names one that is near.
func UnknownCommand(command *cobra.Command, argument string) error {
	text := fmt.Sprintf("unknown command %q", argument)
	if near := command.SuggestionsFor(argument); len(near) > 0 {
		text += fmt.Sprintf(", did you mean %q?", near[0])
	}
	return Usage(errors.New(text))
}
