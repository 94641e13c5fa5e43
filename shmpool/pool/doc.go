// Package pool keeps the broker's books of shared memory regions: who holds which
// region, how much that is, what is free for reuse, and which limit a request
// would break.
//
// It is plain state, without goroutines, locks or a clock, and belongs to the
// pool actor. The slow part of a new region, creating and prefaulting it, happens
// outside, between Reserve and Commit:
//
//	lease, err := p.Reserve(owner, geometry) // checks the limits, books the bytes
//	if lease.Region == nil {                 // nothing of that geometry was free
//		// on a worker:
//		region, err := allocator.Create(lease.ID, lease.Geometry)
//		// back on the actor: p.Commit(lease, region), or p.Abort(lease) on error
//	}
//
// A region is in one of four states, and its bytes count against the total limit
// in all of them:
//
//	reserved   booked, being created           charged to its owner
//	leased     in use                          charged to its owner
//	retired    unlinked, still mapped by some  charged to its owner
//	cached     free for the next owner         charged to nobody
//
// Contents are not erased between owners. All nodes of one broker are of one
// trust domain: whoever may open one of its regions may open them all.
package pool
