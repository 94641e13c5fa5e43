package pool

import (
	"slices"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// OwnerStats is what is charged to one owner: regions reserved for it, leased to
// it, and retired.
type OwnerStats struct {
	Regions, RetiredRegions int
	Bytes, RetiredBytes     uint64
}

// Stats is the books in sums. Used is all four states together; the rest of Used
// beside Cached, Retired and Reserved is leased.
type Stats struct {
	LimitBytes, UsedBytes                                   uint64
	CachedBytes, RetiredBytes, ReservedBytes                uint64
	Regions, CachedRegions, RetiredRegions, ReservedRegions int
	CreatedTotal, ReusedTotal, UnlinkedTotal                uint64 // since the start
}

// Info describes one region.
type Info struct {
	ID       wire.RegionID
	Owner    OwnerID
	Geometry shmpool.Geometry
	Retired  bool
	Region   Region
}

// Stats returns the sums.
func (p *Pool) Stats() Stats {
	cached, retired, reserved := p.tallies[stateCached], p.tallies[stateRetired], p.tallies[stateReserved]
	return Stats{
		LimitBytes: p.limits.TotalBytes, UsedBytes: p.usedBytes(),
		CachedBytes: cached.bytes, RetiredBytes: retired.bytes, ReservedBytes: reserved.bytes,
		Regions: len(p.regions), CachedRegions: cached.regions,
		RetiredRegions: retired.regions, ReservedRegions: reserved.regions,
		CreatedTotal: p.created, ReusedTotal: p.reused, UnlinkedTotal: p.unlinked,
	}
}

// Owner returns what is charged to an owner.
func (p *Pool) Owner(owner OwnerID) OwnerStats {
	if o := p.owners[owner]; o != nil {
		return *o
	}
	return OwnerStats{}
}

// Owned returns the regions that are leased to an owner or retired, in order of
// their ids. Reserved ones are not among them: they have nothing to give back
// before Commit.
func (p *Pool) Owned(owner OwnerID) []wire.RegionID {
	var ids []wire.RegionID
	for id, e := range p.regions {
		if e.owner == owner && (e.state == stateLeased || e.state == stateRetired) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Lookup returns a leased or retired region.
func (p *Pool) Lookup(id wire.RegionID) (Info, bool) {
	e := p.regions[id]
	if e == nil || e.state != stateLeased && e.state != stateRetired {
		return Info{}, false
	}
	return Info{ID: id, Owner: e.owner, Geometry: e.geometry, Retired: e.state == stateRetired, Region: e.region}, true
}
