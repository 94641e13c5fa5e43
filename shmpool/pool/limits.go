package pool

import (
	"errors"
	"fmt"
	"time"

	"github.com/brokerd/brokerd/shmpool"
)

var (
	// ErrGlobalLimit reports that all regions together would exceed TotalBytes.
	ErrGlobalLimit = errors.New("shared memory limit reached")
	// ErrNodeQuota reports that one owner's regions would exceed NodeBytes.
	ErrNodeQuota = errors.New("shared memory quota of this node reached")
	// ErrRegionLimit reports that there would be more regions than allowed.
	ErrRegionLimit = errors.New("limit of shared memory regions reached")
	// ErrUnknownRegion reports a region that the pool does not have.
	ErrUnknownRegion = errors.New("unknown region")
	// ErrWrongState reports an operation that the region's state does not allow.
	ErrWrongState = errors.New("region is in the wrong state")
	// ErrRegionExists reports a region to adopt whose id is not free.
	ErrRegionExists = errors.New("region exists")
	// ErrClosed reports that the pool is closed.
	ErrClosed = errors.New("pool is closed")
)

// Limits bounds a Pool. They are fixed for its life.
type Limits struct {
	TotalBytes uint64        // all regions, whatever their state
	NodeBytes  uint64        // regions of one owner, retired ones included
	Regions    int           // number of regions, each of which costs the broker descriptors
	CacheBytes uint64        // free regions kept for reuse; 0 keeps none
	CacheAge   time.Duration // how long a free region is kept; 0 is no limit
}

// Validate returns an error that says which limit makes no sense.
func (l Limits) Validate() error {
	switch {
	case l.TotalBytes == 0:
		return errors.New("pool: total limit is 0 bytes")
	case l.NodeBytes == 0:
		return errors.New("pool: node quota is 0 bytes")
	case l.NodeBytes > l.TotalBytes:
		return fmt.Errorf("pool: node quota of %s is more than the total limit of %s",
			shmpool.FormatBytes(l.NodeBytes), shmpool.FormatBytes(l.TotalBytes))
	case l.Regions <= 0:
		return fmt.Errorf("pool: limit of %d regions", l.Regions)
	case l.CacheAge < 0:
		return fmt.Errorf("pool: cache age %v", l.CacheAge)
	}
	return nil
}

// LimitError says which limit a request hit, with the numbers of that moment. It
// unwraps to ErrGlobalLimit, ErrNodeQuota or ErrRegionLimit.
type LimitError struct {
	Err        error // one of the three
	Owner      OwnerID
	AskedBytes uint64
	Held       OwnerStats // of the owner that asks

	LimitBytes, UsedBytes uint64 // ErrGlobalLimit: the total; ErrNodeQuota: the owner's
	LimitRegions, Regions int    // ErrRegionLimit

	// Largest is the owner with the most bytes, for a text that says who to look
	// at. It is zero, with no bytes, when nobody holds anything.
	Largest      OwnerID
	LargestStats OwnerStats
}

// Unwrap returns the sentinel.
func (e *LimitError) Unwrap() error { return e.Err }

// Error names the limit, what is used of it and by whom.
func (e *LimitError) Error() string {
	asked := shmpool.FormatBytes(e.AskedBytes)
	switch e.Err {
	case ErrNodeQuota:
		text := fmt.Sprintf("pool: %v: it holds %s in %d regions, asks for %s more, and may have %s",
			e.Err, shmpool.FormatBytes(e.Held.Bytes), e.Held.Regions, asked, shmpool.FormatBytes(e.LimitBytes))
		if e.Held.RetiredRegions > 0 {
			text += fmt.Sprintf("; %s of it in %d regions wait for receivers that hold messages for too long",
				shmpool.FormatBytes(e.Held.RetiredBytes), e.Held.RetiredRegions)
		}
		return text
	case ErrRegionLimit:
		return fmt.Sprintf("pool: %v: %d of %d in use, the node asks for one of %s%s",
			e.Err, e.Regions, e.LimitRegions, asked, e.largest())
	default:
		return fmt.Sprintf("pool: %v: %s of %s in use, the node asks for %s more%s",
			e.Err, shmpool.FormatBytes(e.UsedBytes), shmpool.FormatBytes(e.LimitBytes), asked, e.largest())
	}
}

func (e *LimitError) largest() string {
	if e.LargestStats.Bytes == 0 {
		return ""
	}
	if e.Largest == e.Owner {
		return fmt.Sprintf("; it holds most itself, %s in %d regions",
			shmpool.FormatBytes(e.LargestStats.Bytes), e.LargestStats.Regions)
	}
	return fmt.Sprintf("; the node that holds most has %s in %d regions",
		shmpool.FormatBytes(e.LargestStats.Bytes), e.LargestStats.Regions)
}
