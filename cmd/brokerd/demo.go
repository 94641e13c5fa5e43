package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/examples/demo"
	"github.com/brokerd/brokerd/wire"
)

const demoLong = `demo runs five processes on real photographs: a camera that pans and zooms, an
edge filter, an estimator of the camera's motion, a sink that compares every
result with what it must be, and a slow reader whose drops show.

It starts a broker of its own on a free port and takes everything away at its
end, also after Ctrl-C; a second Ctrl-C does not wait for an orderly end. With
--addr it uses a broker that runs already, and leaves it as it was.

At its end it checks what was promised: the sink found every result right, no
message was lost on an edge with policy block, and the drops in the broker's log
add up to the drops counted. Exit status 0 means that all of it holds.`

const demoExample = `  brokerd demo                                # until Ctrl-C, with a live table
  brokerd demo --for 10s                      # ends by itself, for scripts
  brokerd demo --for 10s --log-file drops.log # keep the broker's log lines
  brokerd demo --addr 127.0.0.1:7447          # through a running broker`

// newDemoCommand returns `brokerd demo`, and below it the hidden command that
// each of the demo's processes runs.
func newDemoCommand() *cobra.Command {
	var o demo.Options
	var logFile string
	command := &cobra.Command{
		Use:     "demo",
		Short:   "Show and check five processes on real photographs",
		Long:    demoLong,
		Example: demoExample,
		Args:    noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			if o.For < 0 {
				return cli.Usage(fmt.Errorf("--for %s: it must not be negative", o.For))
			}
			if o.Addr != "" && logFile != "" {
				return cli.Usage(errors.New("--log-file: the log of the broker at --addr is its own"))
			}
			return runDemo(command, o, logFile)
		},
	}
	flags := command.Flags()
	flags.DurationVar(&o.For, "for", 0, "end after this `time` (0: run until Ctrl-C)")
	flags.StringVar(&o.Addr, "addr", "", "use the broker at `host:port` instead of one of the demo's own")
	flags.StringVar(&o.AuthTokenFile, "auth-token-file", "", "`file` with the token that the broker at --addr asks for")
	flags.StringVar(&logFile, "log-file", "", "write the log lines of the demo's own broker to this `file`")
	command.AddCommand(newDemoNodeCommand())
	return command
}

func newDemoNodeCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "node NAME",
		Short:     "Run one node of the demo; broker and dataflow come from the environment",
		Example:   "  brokerd demo node " + strings.Join(demo.Nodes(), "|"),
		Hidden:    true,
		ValidArgs: demo.Nodes(),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Usage(fmt.Errorf("one node is needed: %s", strings.Join(demo.Nodes(), ", ")))
			}
			return nil
		},
		RunE: func(command *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return demo.RunNode(ctx, args[0])
		},
	}
}

func runDemo(command *cobra.Command, o demo.Options, logFile string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	var log io.Writer
	if logFile != "" {
		file, err := os.Create(logFile)
		if err != nil {
			return err
		}
		defer file.Close() // written line by line; a failed write is reported then
		log = file
	}
	ends := newInterrupts(command.Context())
	defer ends.close()
	o.Hurry = ends.hurry
	o.Interrupt = ends.interrupt
	o.Out = command.OutOrStdout()
	o.NodeCommand = func(name string) []string { return []string{program, "demo", "node", name} }
	o.StartBroker = func(drops func(wire.DropRecord)) (demo.Broker, error) {
		return startDemoBroker(drops, log)
	}
	if file, ok := o.Out.(*os.File); ok {
		o.Live = term.IsTerminal(int(file.Fd()))
	}
	return demo.Run(ends.end, o)
}

// interrupts turns the first SIGINT or SIGTERM into the end of one context, the
// second into the end of another.
type interrupts struct {
	end, hurry context.Context
	signals    chan os.Signal
	pressed    chan struct{}
	stop       context.CancelFunc
	done       sync.WaitGroup
}

func newInterrupts(parent context.Context) *interrupts {
	hurry, hurryUp := context.WithCancel(parent)
	end, finish := context.WithCancel(hurry)
	i := &interrupts{
		end: end, hurry: hurry, stop: hurryUp,
		signals: make(chan os.Signal, 2),
		pressed: make(chan struct{}, 2),
	}
	signal.Notify(i.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	i.done.Go(func() {
		defer hurryUp()
		defer finish()
		for range 2 {
			select {
			case <-i.signals:
			case <-i.pressed:
			case <-hurry.Done():
			}
			finish()
		}
	})
	return i
}

// interrupt counts as a signal. It never blocks.
func (i *interrupts) interrupt() {
	select {
	case i.pressed <- struct{}{}:
	default:
	}
}

func (i *interrupts) close() {
	signal.Stop(i.signals)
	i.stop()
	i.done.Wait()
}

// demoBrokerStop bounds the wait for the demo's broker. Its own steps are
// bounded too, more tightly.
const demoBrokerStop = 20 * time.Second
