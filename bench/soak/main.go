//go:build linux

// Command soak runs twelve nodes and a broker under load for a while, kills, stops
// and starts them all the time, and then accounts for every message: delivered once,
// in order and with the right bytes, or in the log of drops, or in a gap that a kill
// has made (package audit says which those are). It samples what the processes use
// each second, judges whether that grows, and draws it.
//
//	go -C bench run ./soak                   thirty minutes
//	go -C bench run ./soak --for 2m          as CI does
//	go -C bench run ./soak --for 2m --stress 8   with eight processes that never rest
//
// Exit status 0: nothing is wrong; 1: something is, or it could not run; 2: usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
)

// burnCommand is the first argument of a process that never rests.
const burnCommand = "burn"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, in io.Reader, out, errOut io.Writer) int {
	if len(args) > 0 && args[0] == burnCommand {
		burn()
	}
	if len(args) == 2 && args[0] == nodeCommand {
		if err := serveNode(args[1], in, out, errOut); err != nil {
			fmt.Fprintln(errOut, "soak: node:", err)
			return exitFailed
		}
		return 0
	}
	o, err := parse(args, errOut)
	if errors.Is(err, pflag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(errOut, "soak:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	passed, err := o.soak(ctx, out, errOut)
	if err != nil {
		fmt.Fprintln(errOut, "soak:", err)
	}
	if err != nil || !passed {
		return exitFailed
	}
	return 0
}

// burn never rests.
func burn() {
	for x := uint64(1); ; x = x*6364136223846793005 + 1442695040888963407 {
		if x == 0 { // it never is: so that the loop is not nothing
			fmt.Fprintln(os.Stderr, x)
		}
	}
}
