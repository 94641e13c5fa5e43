package pool

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

type state uint8

const (
	stateReserved state = iota + 1
	stateLeased
	stateRetired
	stateCached
)

func (s state) String() string {
	return [...]string{"unknown", "reserved", "leased", "retired", "cached"}[s]
}

// Lease is the answer to a request for a region.
type Lease struct {
	ID       wire.RegionID
	Owner    OwnerID
	Geometry shmpool.Geometry
	// Region is the region if a free one could be reused: the lease holds already.
	// If it is nil, the caller creates one and calls Commit, or Abort.
	Region Region
}

// Pool is the books of all regions. It is not safe for concurrent use.
type Pool struct {
	limits       Limits
	instance     uint32
	onCloseError func(wire.RegionID, error)

	closed   bool
	lastID   uint32 // lower half of the id given last
	regions  map[wire.RegionID]*entry
	owners   map[OwnerID]*OwnerStats
	cache    []*entry // oldest first
	tallies  [stateCached + 1]tally
	created  uint64
	reused   uint64
	unlinked uint64
}

// tally counts the regions of one state.
type tally struct {
	regions int
	bytes   uint64
}

type entry struct {
	id       wire.RegionID
	geometry shmpool.Geometry
	state    state
	owner    OwnerID   // of the last lease, if cached
	region   Region    // nil while reserved
	since    time.Time // cached: when it was returned
	adopted  bool      // made by another broker
}

// New returns an empty Pool, or the error of Limits.Validate. instance is the upper
// half of the ids that it gives, so that regions of a broker that died can keep
// theirs in the books of the next one. Regions are closed
// in the course of several methods; onCloseError, unless it is nil, gets the
// errors of that. There is nothing else to do about one: the region is gone from
// the books, and its name, if it is still there, is swept when the broker starts
// again.
func New(limits Limits, instance uint32, onCloseError func(wire.RegionID, error)) (*Pool, error) {
	if err := limits.Validate(); err != nil {
		return nil, err
	}
	if onCloseError == nil {
		onCloseError = func(wire.RegionID, error) {}
	}
	return &Pool{
		limits:       limits,
		instance:     instance,
		onCloseError: onCloseError,
		regions:      make(map[wire.RegionID]*entry),
		owners:       make(map[OwnerID]*OwnerStats),
	}, nil
}

// Reserve books a region of geometry g for an owner. It reuses the free one of
// that geometry that was returned last, if there is one; else it closes the
// oldest free ones if that makes enough room. A request past a limit changes
// nothing and returns a *LimitError. Other errors wrap shmpool.ErrGeometry or
// ErrClosed.
func (p *Pool) Reserve(owner OwnerID, g shmpool.Geometry) (Lease, error) {
	if err := p.mayHave(owner, g); err != nil {
		return Lease{}, err
	}
	// From the end: the region returned last is the likeliest to be warm.
	for i := len(p.cache) - 1; i >= 0; i-- {
		if e := p.cache[i]; e.geometry == g {
			p.cache = slices.Delete(p.cache, i, i+1)
			p.enter(e, stateLeased, owner)
			p.reused++
			return e.lease(), nil
		}
	}
	return p.book(owner, &entry{id: p.nextID(), geometry: g})
}

// Adopt books a region that another broker has made, under the id that it has.
// It counts against all limits, as one of Reserve does, and like it is committed
// or aborted. It is never reused: only the broker that made it knew who may still
// have it mapped. The error wraps ErrRegionExists if the books have that id, or is
// one of those of Reserve.
func (p *Pool) Adopt(owner OwnerID, id wire.RegionID, g shmpool.Geometry) (Lease, error) {
	if err := p.mayHave(owner, g); err != nil {
		return Lease{}, err
	}
	if id == 0 || uint32(id>>32) == p.instance || p.regions[id] != nil {
		return Lease{}, fmt.Errorf("pool: adopt region %d: %w", uint64(id), ErrRegionExists)
	}
	return p.book(owner, &entry{id: id, geometry: g, adopted: true})
}

// mayHave checks what does not depend on other owners.
func (p *Pool) mayHave(owner OwnerID, g shmpool.Geometry) error {
	if p.closed {
		return ErrClosed
	}
	if err := g.Validate(); err != nil {
		return err
	}
	if held := p.Owner(owner).Bytes; held+g.Bytes() > p.limits.NodeBytes {
		return p.limitError(ErrNodeQuota, owner, g)
	}
	return nil
}

// book enters a region that is still to come.
func (p *Pool) book(owner OwnerID, e *entry) (Lease, error) {
	if err := p.makeRoom(owner, e.geometry); err != nil {
		return Lease{}, err
	}
	p.regions[e.id] = e
	p.enter(e, stateReserved, owner)
	return e.lease(), nil
}

// nextID returns an id that no region of the books has. Numbers start over when
// there are no more: whoever knew the first ones is long gone.
func (p *Pool) nextID() wire.RegionID {
	for {
		p.lastID++
		id := wire.RegionID(p.instance)<<32 | wire.RegionID(p.lastID)
		if p.lastID != 0 && p.regions[id] == nil {
			return id
		}
	}
}

func (e *entry) lease() Lease {
	return Lease{ID: e.id, Owner: e.owner, Geometry: e.geometry, Region: e.region}
}

// makeRoom evicts free regions, oldest first, until one more of geometry g is
// within the limits. If no eviction can help it evicts none.
func (p *Pool) makeRoom(owner OwnerID, g shmpool.Geometry) error {
	cached := p.tallies[stateCached]
	if p.usedBytes()-cached.bytes+g.Bytes() > p.limits.TotalBytes {
		return p.limitError(ErrGlobalLimit, owner, g)
	}
	if len(p.regions)-cached.regions+1 > p.limits.Regions {
		return p.limitError(ErrRegionLimit, owner, g)
	}
	for p.usedBytes()+g.Bytes() > p.limits.TotalBytes || len(p.regions)+1 > p.limits.Regions {
		p.evict()
	}
	return nil
}

// Commit enters the region that was created for a lease. If the pool was closed
// meanwhile, it closes the region and returns ErrClosed. A lease that is not
// waiting for its region is a broken invariant, and panics.
func (p *Pool) Commit(lease Lease, region Region) error {
	p.created++
	if p.closed {
		p.finish(lease.ID, region)
		p.unlinked++
		return ErrClosed
	}
	e := p.reserved(lease, "commit")
	e.region = region
	p.enter(e, stateLeased, e.owner)
	return nil
}

// Abort gives up a lease whose region could not be created. Like Commit it panics
// for any other lease.
func (p *Pool) Abort(lease Lease) {
	if p.closed {
		return
	}
	p.drop(p.reserved(lease, "abort"))
}

func (p *Pool) reserved(lease Lease, verb string) *entry {
	e := p.regions[lease.ID]
	if e == nil || e.state != stateReserved {
		panic(fmt.Sprintf("pool: %s of region %d, which is not reserved", verb, uint64(lease.ID)))
	}
	return e
}

// Return takes a leased region back: nobody has it mapped for writing any more,
// and no message lies in it. It is kept for the next owner if the cache has
// room for it, and closed otherwise. A retired or adopted region is discarded.
// Errors wrap
// ErrUnknownRegion or ErrWrongState.
func (p *Pool) Return(id wire.RegionID, now time.Time) error {
	e, err := p.held(id, "return")
	if err != nil {
		return err
	}
	if e.state == stateRetired || e.adopted || e.geometry.Bytes() > p.limits.CacheBytes {
		p.close(e)
		return nil
	}
	for p.tallies[stateCached].bytes+e.geometry.Bytes() > p.limits.CacheBytes {
		p.evict()
	}
	p.enter(e, stateCached, e.owner)
	e.since = now
	e.region.Rest()
	p.cache = append(p.cache, e)
	return nil
}

// Retire unlinks a leased region that has a slot which may never come back. It
// stays charged to its owner until Discard, or else an owner could pin any
// amount of memory piece by piece. Retiring again does nothing. Errors wrap
// ErrUnknownRegion or ErrWrongState, or are that of unlinking, after which the
// region is retired all the same.
func (p *Pool) Retire(id wire.RegionID) error {
	e, err := p.held(id, "retire")
	if err != nil || e.state == stateRetired {
		return err
	}
	p.enter(e, stateRetired, e.owner)
	p.unlinked++
	if err := e.region.Unlink(); err != nil {
		return fmt.Errorf("pool: retire region %d: %w", uint64(id), err)
	}
	return nil
}

// Discard closes a leased or retired region. Errors wrap ErrUnknownRegion or
// ErrWrongState.
func (p *Pool) Discard(id wire.RegionID) error {
	e, err := p.held(id, "discard")
	if err != nil {
		return err
	}
	p.close(e)
	return nil
}

// held returns a region that is leased or retired.
func (p *Pool) held(id wire.RegionID, verb string) (*entry, error) {
	e := p.regions[id]
	if e == nil {
		return nil, fmt.Errorf("pool: %s region %d: %w", verb, uint64(id), ErrUnknownRegion)
	}
	if e.state != stateLeased && e.state != stateRetired {
		return nil, fmt.Errorf("pool: %s region %d: %w: %v", verb, uint64(id), ErrWrongState, e.state)
	}
	return e, nil
}

// Trim closes the free regions that were returned CacheAge ago or earlier, and
// returns how many.
func (p *Pool) Trim(now time.Time) int {
	if p.limits.CacheAge == 0 {
		return 0
	}
	n := 0
	for len(p.cache) > 0 && now.Sub(p.cache[0].since) >= p.limits.CacheAge {
		p.evict()
		n++
	}
	return n
}

// NextTrim returns when Trim will have something to do, and false if it will not
// as things are. An idle broker need not wake up for it.
func (p *Pool) NextTrim() (time.Time, bool) {
	if p.limits.CacheAge == 0 || len(p.cache) == 0 {
		return time.Time{}, false
	}
	return p.cache[0].since.Add(p.limits.CacheAge), true
}

// Close closes every region, whoever holds it: mappings that nodes have stay
// valid. Leases that wait for their region are to be committed or aborted still,
// so that it is closed. Closing again does nothing.
func (p *Pool) Close() {
	p.closed = true
	p.cache = nil
	for _, e := range p.regions {
		if e.state == stateReserved {
			p.drop(e)
		} else {
			p.close(e)
		}
	}
}

// evict closes the oldest free region.
func (p *Pool) evict() {
	e := p.cache[0]
	p.cache = slices.Delete(p.cache, 0, 1)
	p.close(e)
}

// close takes a region off the books and closes it.
func (p *Pool) close(e *entry) {
	if e.state != stateRetired {
		p.unlinked++
	}
	p.drop(e)
	p.finish(e.id, e.region)
}

func (p *Pool) finish(id wire.RegionID, region Region) {
	if err := region.Close(); err != nil {
		p.onCloseError(id, err)
	}
}

// enter moves a region into a state, in all sums.
func (p *Pool) enter(e *entry, to state, owner OwnerID) {
	p.count(e, -1)
	e.state, e.owner = to, owner
	p.count(e, 1)
}

// drop takes a region out of all sums and off the books.
func (p *Pool) drop(e *entry) {
	p.count(e, -1)
	delete(p.regions, e.id)
}

// count adds a region to the sums of its state and its owner, or takes it out of
// them. It does nothing for a new entry, which has no state.
func (p *Pool) count(e *entry, sign int) {
	if e.state == 0 {
		return
	}
	bytes := e.geometry.Bytes()
	p.tallies[e.state].add(bytes, sign)
	if e.state == stateCached {
		return
	}
	o := p.owners[e.owner]
	if o == nil {
		o = &OwnerStats{}
		p.owners[e.owner] = o
	}
	held := tally{o.Regions, o.Bytes}
	held.add(bytes, sign)
	o.Regions, o.Bytes = held.regions, held.bytes
	if e.state == stateRetired {
		retired := tally{o.RetiredRegions, o.RetiredBytes}
		retired.add(bytes, sign)
		o.RetiredRegions, o.RetiredBytes = retired.regions, retired.bytes
	}
	if o.Regions == 0 {
		delete(p.owners, e.owner)
	}
}

func (t *tally) add(bytes uint64, sign int) {
	t.regions += sign
	if sign < 0 {
		t.bytes -= bytes
	} else {
		t.bytes += bytes
	}
}

func (p *Pool) usedBytes() uint64 {
	var n uint64
	for _, t := range p.tallies {
		n += t.bytes
	}
	return n
}

// limitError collects the numbers of a refusal.
func (p *Pool) limitError(sentinel error, owner OwnerID, g shmpool.Geometry) error {
	e := &LimitError{
		Err: sentinel, Owner: owner, AskedBytes: g.Bytes(), Held: p.Owner(owner),
		LimitRegions: p.limits.Regions, Regions: len(p.regions) - p.tallies[stateCached].regions,
	}
	if errors.Is(sentinel, ErrNodeQuota) {
		e.LimitBytes, e.UsedBytes = p.limits.NodeBytes, e.Held.Bytes
	} else {
		e.LimitBytes, e.UsedBytes = p.limits.TotalBytes, p.usedBytes()-p.tallies[stateCached].bytes
	}
	for id, o := range p.owners {
		if o.Bytes > e.LargestStats.Bytes || o.Bytes == e.LargestStats.Bytes && id < e.Largest {
			e.Largest, e.LargestStats = id, *o
		}
	}
	return e
}
