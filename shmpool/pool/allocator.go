package pool

import (
	"io"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// OwnerID says whom a region is charged to: a node of a dataflow, over all its
// connections.
type OwnerID uint64

// Region is one shared memory object. ReadAt must be safe for use while other
// methods run; after Close it fails.
type Region interface {
	// Name is what nodes open it by.
	Name() string
	io.ReaderAt
	// Rest gives up what only ReadAt needs, until it is called again: the Pool
	// keeps the region for the next owner.
	Rest()
	// Unlink takes the name away: new mappings fail, old ones stay valid. Calling
	// it again does nothing.
	Unlink() error
	// Close unlinks, and gives up the broker's own hold. The Pool calls it exactly
	// once.
	Close() error
}

// Allocator makes regions. It is called outside of the actor that owns the Pool,
// by several goroutines at a time.
type Allocator interface {
	// Create makes a region that was not there.
	Create(id wire.RegionID, g shmpool.Geometry) (Region, error)
	// Adopt takes over a region that a broker which died has made. name, id and
	// geometry are what a node says of it, and are not to be trusted.
	Adopt(name string, id wire.RegionID, g shmpool.Geometry) (Region, error)
}
