// Package bench measures how long messages take from one process to another, on
// several ways that alternate within one run, so that what the machine does
// meanwhile hits all of them alike.
//
// One-way time is taken from before the sender copies its payload in until the
// receiver has touched every page of it. Messages are paced (one at a time, with
// a pause) for latency, and unpaced (back to back) for throughput. Sender and
// receiver are processes of their own; the parent tells them over pipes what to
// do next.
//
// The ways, called paths:
//
//	brokered  Output.Send, through the broker; small payloads in the frame,
//	          large ones through shared memory
//	loan      Output.Loan, written in place, Publish; the same without the copy
//	tcp       one TCP connection from sender to receiver, nothing between: what
//	          a user would write by hand
//	relay     the same with a process between that reads and writes on, and does
//	          nothing else: what a hop through any broker costs a small message
//	          at least
//
// Beside them stands memcpy: the time of one warm copy of the payload, which is
// the least that any path with a copy can take.
package bench
