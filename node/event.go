package node

import (
	"strconv"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// EventKind says what happened.
type EventKind uint8

// The kinds of events. Their order for one input is the order of what happened:
// EventInputClosed comes after the input's last message.
const (
	// EventInput: Input and Message are set. The caller must release the message.
	EventInput EventKind = iota + 1
	// EventInputClosed: nothing more will come on Input; Reason says why.
	EventInputClosed
	// EventStop: the broker asks the node to end; Reason says why. The node goes
	// on to work until it is closed.
	EventStop
	// EventReconnected: the connection was lost and is back. Messages sent to
	// this node in between are lost, and those that Next had not yet returned, but
	// for those on lanes that a new broker has taken over.
	EventReconnected
	// EventError: something is wrong that no call returns; Err says what.
	EventError
)

// String returns the kind's name.
func (k EventKind) String() string {
	switch k {
	case EventInput:
		return "input"
	case EventInputClosed:
		return "input closed"
	case EventStop:
		return "stop"
	case EventReconnected:
		return "reconnected"
	case EventError:
		return "error"
	}
	return "event(" + strconv.Itoa(int(k)) + ")"
}

// Event is one thing that happened to a node. It is a small value.
type Event struct {
	Kind    EventKind
	Input   string  // EventInput, EventInputClosed: id of the input
	Message Message // EventInput
	Reason  string  // EventInputClosed, EventStop, EventReconnected
	Err     error   // EventError
}

// InputInfo describes one input as the dataflow declares it.
type InputInfo struct {
	ID          string
	Source      string        // "camera/image" or "timer/..."
	QueueSize   int           // messages
	Policy      wire.Policy   // what happens when the queue is full
	HoldTimeout time.Duration // how long a message may be held; 0: for ever
	Open        bool          // false: no more messages will come
}

// Attr is one entry of a message's metadata.
type Attr = wire.Attr

// Constructors of metadata entries.

// Int makes an integer entry.
func Int(key string, value int64) Attr { return wire.Int(key, value) }

// Float makes a floating-point entry.
func Float(key string, value float64) Attr { return wire.Float(key, value) }

// Bool makes a boolean entry.
func Bool(key string, value bool) Attr { return wire.Bool(key, value) }

// String makes a text entry; value must be valid UTF-8.
func String(key, value string) Attr { return wire.String(key, value) }

// Bytes makes a binary entry. value must not change until the message is sent.
func Bytes(key string, value []byte) Attr { return wire.Bytes(key, value) }
