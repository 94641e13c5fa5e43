// Package actors is the broker without its sockets and without its operating
// system: the router, which owns all routes and drop tokens, and the pool, which
// owns the books of shared memory.
//
// # Actors
//
// Each is one goroutine with a select loop, in a file of its own.
//
//	actor      owns                        receives                        may block on
//	Router     routes, queues, tokens,     events of connections, answers  nothing but its own
//	           leases, lanes, timers,      of the pool, ticks, questions   select
//	           counts
//	PoolActor  the books of all regions,   requests of the router, results the router's mailbox, which
//	           the workers' jobs           of its workers                  the router always empties
//	Journal    the log                     lines and drop records          the log's writer
//
// When a mailbox is full:
//
//	Router.conns      Post waits: the loop stops reading, TCP slows the senders
//	Router.asks       the caller waits, with its context
//	PoolActor.requests the router keeps the request and goes on
//	PoolActor.replies  the pool waits for the router
//	Journal.lines     drop records stay in the router's counts and are written
//	                  later; other lines are lost, and how many is logged
//
// No actor ever waits for a peer. A Conn takes what it is given and cuts off
// whoever does not read.
//
// # Shape
//
// The router's state is type core: plain data, changed by one event at a time,
// without goroutine, lock, channel or clock. Type Router is the shell around it
// that turns channels into calls. Tests play scripts (testdata/*.txt) against
// the core; each script explains one part of it:
//
//	basic      a small message from socket to receiver, credits, drops
//	tokens     payloads in shared memory, and when their slots are free again
//	block      windows: how a sender is held back
//	hold       a message that is held for too long
//	orphan     a process that outlives its connection
//	timers     inputs that the router feeds itself
//	reload     a dataflow that changes under living nodes
//	handshake  who is let in, and what breaks the rules
//	log        drops in the log: at once, then once a second, never lost
//	lane       a direct path between two local nodes, from grant to flow
//	lane-close all ways in which it ends
//	lane-fault lanes that are damaged; lane-long: positions beyond 32 bits
//	shortage   messages that travel inline because there is no shared memory
//	late       messages that were sent before a window was told
//	adopt      lanes that outlive the broker
//
// # Files
//
//	events.go   what connections tell the router, and what it may do to them
//	batch.go    the messages of one socket read, on their way from session to router
//	router.go   the actor: mailboxes, select loop, questions
//	core.go     the state, and which message goes to which method
//	join.go     handshake, joining, leaving
//	publish.go  a message in: checks, routes, queues, policies, windows
//	deliver.go  a message out: credits, turns, frames, tokens
//	regions.go  leases of shared memory, held too long, orphans
//	lanes.go    direct paths: who may have one, and how it comes about
//	lanememory.go memory for them and for bells
//	laneclose.go how it ends, and who has to let go of it
//	lanefault.go messages lost or held on a lane, and lanes that are damaged
//	lanebooks.go what of its counters is in the edge's counts and in the log
//	adopt.go    regions and lanes of a broker that died
//	reload.go   from one set of dataflows to the next
//	control.go  questions of control connections; status.go: the answer to most
//	token.go, ring.go, drops.go, latency.go, timers.go, message.go, edge.go,
//	session.go  the data structures
//	pool.go     the pool actor
//	journal.go  the log's goroutine
package actors
