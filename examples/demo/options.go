package demo

import (
	"context"
	_ "embed" // the dataflow file
	"errors"
	"io"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// Flow is the dataflow that the demo loads into the broker.
//
//go:embed flow.yml
var Flow string

// ErrFailed is what Run returns when something that was promised was not kept.
// The summary says what.
var ErrFailed = errors.New("demo: a check failed")

// ErrHurried is what Run returns when Options.Hurry ended. Everything is taken
// away, nothing is checked.
var ErrHurried = errors.New("demo: ended at once, nothing was checked")

// Options of Run. NodeCommand, Out and one of Addr and StartBroker are needed.
type Options struct {
	// Addr of a running broker, host:port. Empty: StartBroker is called.
	Addr string
	// AuthTokenFile holds the token that the broker at Addr asks for. Empty: none.
	AuthTokenFile string
	// StartBroker starts a broker for this run alone. Each record of its drop log
	// must be given to drops.
	StartBroker func(drops func(wire.DropRecord)) (Broker, error)

	// NodeCommand is the program and the arguments that run RunNode(name).
	NodeCommand func(name string) []string

	// For is how long the pipeline runs. 0: until the context ends.
	For time.Duration
	// Hurry ends when the user does not want to wait for an orderly end. nil:
	// never.
	Hurry context.Context

	// Out gets the lines, and the summary.
	Out io.Writer
	// Live shows a table on the terminal instead of lines. Out must be the
	// terminal then.
	Live bool
	// Interrupt is called for each Ctrl-C that the table reads as a key. It is
	// for the caller to end the context of Run then.
	Interrupt func()
}

// Broker is a broker of the demo's own.
type Broker interface {
	// Addr is where it listens, host:port.
	Addr() string
	// Done is closed when it has ended, asked or not.
	Done() <-chan struct{}
	// Stop ends it and waits, for a bounded time. It may be called twice.
	Stop() error
	// Trouble is what it logged as warnings and errors, the drops left out.
	Trouble() string
}
