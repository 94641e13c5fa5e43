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
	// Unlink takes the name away: new mappings fail, old ones stay valid. Calling
	// it again does nothing.
	Unlink() error
	// Close unlinks, and gives up the broker's own hold. The Pool calls it exactly
	// once.
	Close() error
}

// Allocator creates regions. It is called outside of the actor that owns the
// Pool, by several goroutines at a time.
type Allocator interface {
	Create(id wire.RegionID, g shmpool.Geometry) (Region, error)
}

// AllocatorFunc is a function as an Allocator. It joins this package to one whose
// Create returns a type of its own:
//
//	pool.AllocatorFunc(func(id wire.RegionID, g shmpool.Geometry) (pool.Region, error) {
//		region, err := allocator.Create(id, g)
//		if err != nil {
//			return nil, err
//		}
//		return region, nil
//	})
type AllocatorFunc func(id wire.RegionID, g shmpool.Geometry) (Region, error)

// Create calls f.
func (f AllocatorFunc) Create(id wire.RegionID, g shmpool.Geometry) (Region, error) {
	return f(id, g)
}
