// Package node connects a process to a brokerd dataflow: it publishes on the
// node's outputs and receives what arrives at its inputs.
//
// # Usage
//
// A node is one plain loop over events:
//
//	n, err := node.Connect(ctx, node.Config{Dataflow: "demo", Node: "edges"})
//	if err != nil {
//		return err
//	}
//	defer n.Close()
//	out, err := n.Output("edges")
//	if err != nil {
//		return err
//	}
//	for ev := range n.Events(ctx) {
//		switch ev.Kind {
//		case node.EventInput:
//			loan, err := out.Loan(ctx, len(ev.Message.Payload()))
//			if err != nil {
//				return err
//			}
//			sobel(loan.Bytes(), ev.Message.Payload())
//			ev.Message.Release()
//			if err := loan.Publish(ctx); err != nil {
//				return err
//			}
//		case node.EventStop:
//			return nil
//		}
//	}
//
// Processes that brokerd's tools start find address, dataflow and node id in the
// environment: [ConfigFromEnv].
//
// # Ownership
//
// A [Message] belongs to the caller from [Node.Next] until [Message.Release]. Its
// payload is a read-only view: of shared memory for a local node, of a receive
// buffer otherwise. Writing to it is a fault. After Release neither the payload
// nor the metadata may be used; whoever needs them longer copies them first.
// Release early: until then the sender cannot reuse the memory. Release may be called
// more than once and on the zero Message, every other use after it panics.
// A message that is garbage collected without Release is given back with a
// warning in the log. That is a safety net for mistakes, not a way to work: it
// happens late, and the garbage collector does not see who still reads a payload
// slice whose Message is gone.
//
// A message in shared memory that is held for longer than its input's hold timeout
// is evacuated: the library copies it to memory of this process, under the same
// addresses, and gives the sender its slot back. Whoever holds or reads the payload
// notices nothing; the process gets larger, by whole pages, until Release. The broker
// says how much of that a node may have (held_max); past it messages stay where they
// are, and the broker takes their regions out of use. [Stats] counts all this. To
// hold on to messages is legitimate, but for many small ones a copy is cheaper.
// The one reader that does not follow is a device or the kernel which has pinned the
// pages for longer than a system call (io_uring buffers, vmsplice, MSG_ZEROCOPY): a
// payload that is given to one of those must be copied, or released within the hold
// timeout after they are done.
//
// A held message keeps more than its own bytes. One that arrived inline, or with
// metadata, keeps the whole receive buffer it lies in (64 KiB, more for a longer
// frame), which it shares with its neighbours: whoever holds one message of ten
// bytes out of each buffer keeps 64 KiB for each. One in shared memory keeps its
// sender's slot, which is larger than the payload by a quarter or one page at the
// most, and the mapping of the region; once it is evacuated, the pages it lay on. To keep many small messages for long, copy
// them and release them.
//
// A [Loan] is memory to write one message into. It belongs to the caller until
// Publish succeeds or Discard is called. When Publish fails the loan is still the
// caller's: try again or Discard. `defer loan.Discard()` is always right. The
// memory holds whatever was there before; write all of it.
//
// [Output.Send] copies the payload once and returns; the slice is the caller's
// again. Loans of more than the broker's inline limit (4 KiB by default) are not
// copied at all, and none is on an output with lanes. Smaller payloads of other
// outputs travel inside the frame, which is faster for them than shared memory
// that goes through the broker; a node that is not local sends all payloads so.
//
// # Finding mistakes
//
// With BROKERD_DEBUG=protect in its environment (or [Config].Protect) a program ends
// at the spot where it uses a payload or metadata after Release, writes to a payload,
// or writes to a loan after Publish or Discard, and in whatever goroutine. The last
// thing it says is which message of which input or output that was, where it was used,
// and where it was given up. Every payload is copied for that, so it is slow; run
// tests with it. Linux only. A system call that is given such bytes does not end the
// program: it fails with EFAULT ("bad address"). The mode has a process that watches
// for the end of this one, started from the program's own file, and takes
// [runtime/debug.SetCrashOutput] for itself. How it works: docs/adr/0014-protect.md.
//
// # Lanes
//
// Between two nodes of one machine and user the broker grants a lane: messages go
// straight from sender to receiver through shared memory, which takes a fraction
// of the time and no broker. Nothing else changes: queue size, policy, order,
// [Message.Dropped], logs of drops and all rules on this page are the same, and an
// edge that moves from one path to the other neither loses nor repeats a message.
// [Output.Lanes] tells how many receivers have one, `brokerctl status` why others
// do not. The first messages need memory from the broker like any others;
// [Output.Reserve] gets it ahead of time. Config.NoLanes does without.
//
// A receiver that is done with a message says so in shared memory, and the sender
// sees it with one of its next messages. So the slots that [Stats] counts as used
// are an upper bound.
//
// # Concurrency
//
// All methods may be called from any goroutine, except that [Node.Next] and
// [Node.Events] serve one goroutine at a time, and that one Loan or Message must
// not be used by two goroutines at once without the caller's own order.
// A node runs four goroutines at the most, but for short ones that map memory or
// evacuate messages; none
// of them ever calls user code. While it has lanes, one of the goroutines that wait
// in its methods blocks a thread.
//
// # Waiting
//
// Every method that may wait takes a context. Send, Loan and Publish wait while
// the broker is away, while an input with policy block has no room, and while
// the connection's send buffer is full. With lanes they do not need the broker,
// unless there is no free memory, or a receiver without a lane has policy block. Messages that could not be published are
// reported to the broker, which logs them as drops.
//
// # Want of memory
//
// A message that gets no shared memory is an error (ErrNoMemory), or its sender waits
// if a receiver has policy block. If the broker is set up with shm_fallback: inline,
// it goes inside a frame instead, and so do all messages of that output for a while:
// slower, and in order. [Stats] counts them, the broker logs them.
//
// # Reconnecting
//
// When the broker goes away the node dials again, with growing pauses, until it
// is back or the node is closed; [EventReconnected] tells. Sequence numbers go
// on. Messages that had arrived but were not returned by Next are dropped, as the
// broker logs them; so it logs the message that was returned last, because it
// hears of that with the next call only. Lanes flow on while the broker is away,
// and a new one, if the old one was killed, takes them over as they are; then
// nothing is lost on them. Messages and loans in the user's hands
// stay valid: the library keeps their memory mapped, and holds its lock on the broker's probe file so that a broker which
// lost the connection knows that the memory is still in use.
//
// # Testing
//
// The tests of this package run against a scripted broker over real sockets and
// real shared memory (brokerpeer_test.go). Tests of a dataflow are better run
// against brokerd itself on port 0.
package node
