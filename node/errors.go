package node

import (
	"errors"

	"github.com/brokerd/brokerd/wire"
)

// Errors that callers handle. What the broker refuses (authentication, unknown
// or duplicate node, version...) is a *wire.Error: compare with errors.Is and
// wire.ErrAuth, wire.ErrUnknownNode, wire.ErrDuplicateNode and so on.
var (
	// ErrConfig is wrapped by what Config.Validate and ConfigFromEnv return.
	ErrConfig = errors.New("node: bad configuration")
	// ErrUnreachable means that no broker answered until the context ended.
	ErrUnreachable = errors.New("node: broker unreachable")
	// ErrClosed means that the node was closed, or that it gave up for the
	// reason which the error goes on to name.
	ErrClosed = errors.New("node: closed")
	// ErrUnknownOutput means that the dataflow gives this node no such output.
	ErrUnknownOutput = errors.New("node: unknown output")
	// ErrOutputClosed means that the output was closed, or removed from the
	// dataflow.
	ErrOutputClosed = errors.New("node: output closed")
	// ErrNoMemory means that the broker has no shared memory for the message.
	// The error's text names the limit and who holds the memory. The broker has
	// been told and logs the message as dropped.
	ErrNoMemory = errors.New("node: no shared memory")
	// ErrTooLarge means that a payload is over a limit, which the text names.
	ErrTooLarge = errors.New("node: message too large")
	// ErrMetadata means that the metadata break a rule, which the text names.
	ErrMetadata = wire.ErrMetadata
	// ErrSharedMemory is wrapped by the EventError that says that the broker's
	// shared memory cannot be mapped although the handshake found it reachable.
	ErrSharedMemory = errors.New("node: shared memory")
	// ErrNextBusy means that another goroutine is in Next.
	ErrNextBusy = errors.New("node: Next is already running in another goroutine")
	// ErrLoanSpent means that a loan was published or discarded before.
	ErrLoanSpent = errors.New("node: loan already published or discarded")
)
