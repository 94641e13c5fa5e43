package node

import "sync/atomic"

// Stats counts what a node has done since Connect.
type Stats struct {
	Published, PublishedBytes uint64 // messages given to the broker, and their payload
	Received, ReceivedBytes   uint64 // messages returned by Next

	LaneSent, LaneReceived uint64 // of those, messages that at least one lane took, and that came on a lane

	// PayloadCopies counts how often this library copied a payload it sent: once
	// for each Send and each small or remote Loan, never for a Loan in shared
	// memory (unless the connection was lost before its Publish).
	PayloadCopies, PayloadCopyBytes uint64

	SendFailures uint64 // messages that got ErrNoMemory or ErrTooLarge
	// InlineFallbacks counts messages that went through the connection because there was
	// no shared memory for them, and the broker allows that.
	InlineFallbacks uint64
	Rejected        uint64 // messages that arrived but could not be read
	Forgotten       uint64 // messages and loans that the garbage collector gave back
	Reconnects      uint64
	SocketWrites    uint64 // system calls; much fewer than messages when these come fast

	Held      int    // messages that the user holds now
	HeldBytes uint64 // their payload

	// Messages that were held for longer than their input's hold timeout and so moved
	// out of shared memory, since Connect; and of these what is held now, in memory
	// of KeptBytes. Stuck ones could not be moved.
	Evacuated, EvacuatedBytes uint64
	Kept                      int
	KeptBytes                 uint64
	Stuck                     int

	Regions, Slots, SlotsUsed int    // shared memory leased to this node for sending
	RegionBytes               uint64 // of all these regions
}

// counters of a node. What is counted with each message is with the output or the
// receiver, under the lock that is held anyway.
type counters struct {
	copies, copyBytes         atomic.Uint64
	sendFailures, rejected    atomic.Uint64
	forgotten, reconnects     atomic.Uint64
	socketWrites              atomic.Uint64
	evacuated, evacuatedBytes atomic.Uint64
	inlineFallbacks           atomic.Uint64
}

// traffic counts messages one way.
type traffic struct {
	messages, bytes uint64
	lanes           uint64 // messages that went that way
}

func (c *counters) copied(bytes int) {
	c.copies.Add(1)
	c.copyBytes.Add(uint64(bytes))
}

// Stats returns the node's counters. They are read one after the other, so they
// may differ by what happens meanwhile.
func (n *Node) Stats() Stats {
	c := &n.stats
	st := Stats{
		PayloadCopies: c.copies.Load(), PayloadCopyBytes: c.copyBytes.Load(),
		SendFailures: c.sendFailures.Load(), Rejected: c.rejected.Load(),
		Forgotten: c.forgotten.Load(), Reconnects: c.reconnects.Load(),
		SocketWrites: c.socketWrites.Load(), InlineFallbacks: c.inlineFallbacks.Load(),
		Evacuated: c.evacuated.Load(), EvacuatedBytes: c.evacuatedBytes.Load(),
	}
	n.mu.Lock()
	for _, o := range n.outputs {
		o.mu.Lock()
		st.Published += o.traffic.messages
		st.PublishedBytes += o.traffic.bytes
		st.LaneSent += o.traffic.lanes
		o.mu.Unlock()
	}
	n.mu.Unlock()
	n.receiver.mu.Lock()
	in := &n.receiver.traffic
	st.Received, st.ReceivedBytes, st.LaneReceived = in.messages, in.bytes, in.lanes
	st.Held, st.HeldBytes = n.receiver.held.count, uint64(n.receiver.held.bytes)
	v := &n.receiver.evac
	st.Kept, st.KeptBytes, st.Stuck = int(v.moved), n.privateBytes.Load()+v.heap, int(v.stuck)
	n.receiver.mu.Unlock()
	if e := n.currentEstate(); e != nil {
		slots := e.memory.stats()
		st.Regions, st.Slots, st.SlotsUsed, st.RegionBytes = slots.Regions, slots.Slots, slots.UsedSlots, slots.Bytes
	}
	return st
}
