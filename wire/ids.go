package wire

import (
	"errors"
	"fmt"
	"strconv"
)

// The identifiers of the protocol. Each has a type of its own, so that a token
// cannot be passed where a region is wanted.
type (
	// Token is a drop token: it names one published message until its last
	// receiver is done with it. Zero means that nothing is held.
	Token uint64
	// RegionID names one shared memory region in the life of a broker. Zero
	// means that the payload is not in shared memory.
	RegionID uint64
	// Seq numbers the messages of one output. It starts at 1 and goes on over
	// reconnects for the life of the node's process.
	Seq uint64
	// OutputIndex is the position of an output in Ports.Outputs.
	OutputIndex uint32
	// InputIndex is the position of an input in Ports.Inputs.
	InputIndex uint32
	// SessionID names one connection in the life of a broker.
	SessionID uint64
)

// Role says what a connection is for.
type Role uint8

// The roles of Hello.
const (
	RoleNode    Role = 0 // publishes and receives as one node of a dataflow
	RoleControl Role = 1 // asks questions: Request and Reply only
)

// String returns the role's name.
func (r Role) String() string {
	switch r {
	case RoleNode:
		return "node"
	case RoleControl:
		return "control"
	}
	return "role(" + strconv.Itoa(int(r)) + ")"
}

// HelloFlags are the bits of Hello.Flags. Bits that the broker does not know are
// ignored.
type HelloFlags uint32

// FlagTakeover asks that an older connection of the same node id is closed,
// instead of this one being refused.
const FlagTakeover HelloFlags = 1 << 0

// Features are capability bits. A side announces what it can do in Hello; the
// broker answers in Welcome with those that both can.
type Features uint64

// Policy says what happens when a message meets a full queue.
type Policy uint8

// The queue policies.
const (
	PolicyDropOldest Policy = 0 // the new message is kept, the oldest is dropped
	PolicyDropNewest Policy = 1 // the new message is dropped
	PolicyBlock      Policy = 2 // the sender waits; nothing is dropped
)

// String returns the policy's name as dataflow files and logs spell it.
func (p Policy) String() string {
	switch p {
	case PolicyDropOldest:
		return "drop-oldest"
	case PolicyDropNewest:
		return "drop-newest"
	case PolicyBlock:
		return "block"
	}
	return "policy(" + strconv.Itoa(int(p)) + ")"
}

// Valid reports whether p is one of the policies above.
func (p Policy) Valid() bool { return p <= PolicyBlock }

// DropReason says why a receiver will never get a message. The set is closed.
type DropReason uint8

// The reasons of a drop.
const (
	DropQueueFull      DropReason = 1  // the input's queue had no room
	DropNoMemory       DropReason = 2  // the sender got no shared memory for it
	DropHoldTimeout    DropReason = 3  // waited behind a receiver that held too long
	DropReceiverGone   DropReason = 4  // the receiver disconnected before it was done
	DropSenderGone     DropReason = 5  // the sender's memory went with it
	DropTooLarge       DropReason = 6  // over the payload or frame limit
	DropClosed         DropReason = 7  // the input or output was closed
	DropBadDescriptor  DropReason = 8  // region, offset or length do not name a slot
	DropSlowConnection DropReason = 9  // the receiver's connection was cut off
	DropShutdown       DropReason = 10 // the broker was told to stop
)

var dropReasonNames = [...]string{
	DropQueueFull: "queue_full", DropNoMemory: "no_memory", DropHoldTimeout: "hold_timeout",
	DropReceiverGone: "receiver_gone", DropSenderGone: "sender_gone", DropTooLarge: "too_large",
	DropClosed: "closed", DropBadDescriptor: "bad_descriptor",
	DropSlowConnection: "slow_connection", DropShutdown: "shutdown",
}

// DropReasons are all reasons, in numerical order.
func DropReasons() []DropReason {
	all := make([]DropReason, 0, len(dropReasonNames)-1)
	for r := DropQueueFull; r.Valid(); r++ {
		all = append(all, r)
	}
	return all
}

// String returns the reason's name as logs and metrics spell it.
func (r DropReason) String() string {
	if r.Valid() {
		return dropReasonNames[r]
	}
	return "reason(" + strconv.Itoa(int(r)) + ")"
}

// Valid reports whether r is one of the reasons above.
func (r DropReason) Valid() bool { return r >= 1 && int(r) < len(dropReasonNames) }

// ErrBadID is wrapped by what CheckID returns.
var ErrBadID = errors.New("bad id")

// CheckID checks the id of a node, an output or an input: 1 to IDBytesMax
// characters out of A-Z a-z 0-9 _ . - of which the first is no dot and no dash.
func CheckID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: it is empty", ErrBadID)
	case len(id) > IDBytesMax:
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrBadID, len(id), IDBytesMax)
	case id[0] == '.' || id[0] == '-':
		return fmt.Errorf("%w: %q starts with a dot or a dash", ErrBadID, id)
	}
	for i := range len(id) {
		c := id[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			c == '_' || c == '.' || c == '-'
		if !ok {
			return fmt.Errorf("%w: %q has %q at byte %d; letters, digits, _ . - are allowed", ErrBadID, id, c, i)
		}
	}
	return nil
}
