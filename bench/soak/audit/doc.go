// Package audit compares what the nodes of a soak have sent and got with what the
// brokers have logged as dropped, message by message.
//
// # What must be
//
// Every message of an edge has been delivered once and in order (package books
// sees to that), or is one of these:
//
//   - logged: the drop log has a record of its sender's session whose range of
//     numbers it lies in. Records whose ranges overlap are taken together, and must
//     have exactly as many drops as messages are missing in them.
//   - excused: it falls into a gap that a kill has made, see below. Such messages may
//     be logged, and need not be.
//
// Anything else is a fault, and so are more drops in the log than messages missing,
// save for what is listed under Twice.
//
// # Gaps
//
// Messages are lost without a word only where somebody who knew of them was killed,
// and nobody else could know. Of one edge these are:
//
//   - receiver away: its process died, and the next one had not joined. A message
//     that is published meanwhile has no receiver, which is counted and is no drop.
//     From (death - lag) to (joined + lag) by the sender's clock, and only between
//     the last message that the old process got and the first of the new one.
//   - taken: one message, which the process had taken and not entered when it died.
//   - broker: the broker died with messages in its queues and sockets, or before it
//     had logged drops of the last moment. From the last message that was delivered
//     before (death - lag), to the first one through the next broker, or (joined +
//     lag). Messages on a lane know no such gap: what two nodes have taken over by
//     the next broker must be whole. (What is left on a lane that it has not taken
//     over, because a node came too late, comes in the midst of the gap.) But a message
//     that its sender got no memory for is told to the broker, and dies with it.
//   - sender: its process died with messages in its buffers, after (death - lag); on
//     a lane that is at most the one that it was about to publish.
//   - connection: a node that is not local lost its connection; as for a broker.
//
// Lag is how long a loaded machine may take to carry a message to the router, or a
// drop to the log.
//
// # Twice
//
// A drop may be logged although the message was delivered: if a receiver on the
// brokered path dies before it has told that it took it (at most its queue size and
// one). And it may be logged twice: if a broker dies between writing a record of a
// lane and telling that lane so.
package audit
