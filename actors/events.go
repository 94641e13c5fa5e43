package actors

import (
	"github.com/brokerd/brokerd/wire"
)

// ConnID names one accepted connection. Ids are given in order of acceptance,
// start at 1 and are never used twice in the life of a broker. The ConnID is
// also the node's session id on the wire.
type ConnID uint64

// Conn is what the router can do to a connection. The broker package implements
// it over a socket. No method ever blocks, so that a slow peer cannot hold up
// the router.
type Conn interface {
	// Send queues whole frames. b belongs to the caller again when Send returns.
	// A peer that does not read is cut off by the implementation, which then
	// reports ConnClosed with ErrSlowConnection.
	Send(b []byte)
	// Established tells the connection that its handshake is over: the longer
	// frame limit applies, the handshake timer ends, and a local peer is not cut
	// off for being silent (a debugger may have stopped it).
	Established(local bool)
	// Close sends what is queued, closes, and leads to one ConnClosed event.
	Close()
	// RemoteAddr is the peer's address, for logs.
	RemoteAddr() string
}

// ConnEventType tells what happened to a connection.
type ConnEventType uint8

// Every connection yields ConnOpened first, then any number of ConnMessages,
// then exactly one ConnClosed.
const (
	ConnOpened ConnEventType = iota + 1
	ConnMessages
	ConnClosed
)

// ConnEvent is one happening on one connection. All of them travel through one
// channel, because their order per connection carries meaning.
type ConnEvent struct {
	Type  ConnEventType
	ID    ConnID
	Conn  Conn   // ConnOpened
	Batch *Batch // ConnMessages; the router gives it back with Batch.Free
	Err   error  // ConnClosed: why; nil when the peer closed in good order
}

// NodeMessage is one decoded message of a peer. The three frequent kinds are
// held by value, so that a batch of them needs no allocation each.
type NodeMessage struct {
	Kind    wire.Kind
	Owned   bool         // the memory behind Publish may be kept by the router
	Publish wire.Publish // KindPublish
	Next    wire.Next    // KindNext
	Done    wire.Done    // KindDone
	Other   wire.Message // any other kind
}
