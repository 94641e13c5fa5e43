package actors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/pool"
	"github.com/brokerd/brokerd/wire"
)

type poolRequestKind uint8

// What the router asks of the pool. Grant, lane, adopt, read and stats are
// answered.
const (
	poolGrant   poolRequestKind = iota + 1 // lease a region to a session
	poolReturn                             // a lease ends; the region may be used again
	poolDiscard                            // a lease ends; the region must not be used again
	poolRetire                             // unlink a leased region
	poolRead                               // copy a payload out of a region
	poolStats                              // the sums
	poolLane                               // lease a region of one slot, and map it here, too
	poolAdopt                              // lease a region that a broker which died has made
	poolClose                              // the pool's own: free a region's memory
)

type poolRequest struct {
	kind     poolRequestKind
	session  ConnID
	owner    pool.OwnerID     // grant, lane, adopt: whom to charge
	request  uint32           // grant: the node's number
	tag      uint64           // lane, adopt: the router's number, only carried
	geometry shmpool.Geometry // grant, lane, adopt
	region   wire.RegionID    // all but grant and lane
	oldName  string           // adopt: what the region is called so far
	mapped   bool             // adopt: map it here, too, as poolLane does
	offset   uint64           // read
	length   uint64           // read
	message  *message         // read: whose payload; only carried
	edge     *edge            // read: for whom; only carried
}

type poolReply struct {
	poolRequest
	name    string     // grant, lane, adopt
	words   []uint64   // lane, adopt with mapped: the slot, until the region's lease ends
	payload []byte     // read
	stats   pool.Stats // stats
	code    wire.Code  // grant, lane, adopt: what to tell the node about err
	at      time.Time  // when the router got it
	err     error
}

// PoolActor owns the books of all regions. What takes long, creating a region,
// mapping or freeing one, or reading a payload, is done by workers. Large regions have one of
// their own, so that they keep nobody waiting but each other.
type PoolActor struct {
	// immutable
	allocator pool.Allocator
	mapSlot   func(name string, id wire.RegionID, slotBytes uint64) (slotMemory, error)
	log       *zap.Logger
	// requests: capacity covers what the router has in hand after one batch;
	// full: the router keeps them and goes on.
	requests chan poolRequest
	// replies: the router always takes them; full: the pool waits.
	replies chan poolReply
	// jobs, large: full: the pool keeps further ones in order and goes on.
	jobs    chan poolJob
	large   chan poolJob // creating and closing what takes long
	results chan poolJob // full: the worker waits
	quit    chan struct{}
	stopped chan struct{}
	once    sync.Once

	// owned by run
	pool         *pool.Pool
	trimAt       time.Time             // what the trim timer is set to, but for its delay
	ended        bool                  // no worker takes jobs any more
	waiting      ring[poolJob]         // for jobs
	waitingLarge ring[poolJob]         // for large
	busy         map[wire.RegionID]int // reads under way
	ending       map[wire.RegionID]poolRequest
	mapped       map[wire.RegionID]slotMemory // of lanes and bells
}

const (
	// poolWorkers is how many small jobs run at a time. They are bound by the
	// memory bus; more would only fight for it.
	poolWorkers = 2
	// largeBytesMin is the size from which creating or freeing a region is left
	// to the one worker for such: about 10 ms of work.
	largeBytesMin = 16 << 20
)

// NewPoolActor makes a pool actor over an allocator. instance is the upper half of
// the ids of its regions.
func NewPoolActor(limits pool.Limits, instance uint32, allocator pool.Allocator, log *zap.Logger) (*PoolActor, error) {
	books, err := pool.New(limits, instance, func(id wire.RegionID, err error) {
		log.Warn("region could not be closed", zap.Uint64("region", uint64(id)), zap.Error(err))
	})
	if err != nil {
		return nil, err
	}
	return &PoolActor{
		allocator: allocator,
		mapSlot:   mapSlot,
		log:       log,
		requests:  make(chan poolRequest, 256),
		replies:   make(chan poolReply, 64),
		jobs:      make(chan poolJob),
		large:     make(chan poolJob),
		results:   make(chan poolJob, poolWorkers+1),
		quit:      make(chan struct{}),
		stopped:   make(chan struct{}),
		pool:      books,
		busy:      make(map[wire.RegionID]int),
		ending:    make(map[wire.RegionID]poolRequest),
		mapped:    make(map[wire.RegionID]slotMemory),
	}, nil
}

// Run is the actor. It returns after Stop, when every region is closed.
func (p *PoolActor) Run() {
	defer close(p.stopped)
	var workers sync.WaitGroup
	for range poolWorkers {
		workers.Go(func() { p.work(p.jobs) })
	}
	workers.Go(func() { p.work(p.large) })
	trim := time.NewTimer(time.Hour)
	defer trim.Stop()
	for {
		p.armTrim(trim)
		jobs, job := next(p.jobs, &p.waiting)
		large, largeJob := next(p.large, &p.waitingLarge)
		select {
		case r := <-p.requests:
			p.handle(r)
		case jobs <- job:
			p.waiting.pop()
		case large <- largeJob:
			p.waitingLarge.pop()
		case j := <-p.results:
			p.finish(j)
		case now := <-trim.C:
			p.pool.Trim(now)
		case <-p.quit:
			p.shutdown(&workers)
			return
		}
	}
}

// trimDelay is how late free regions are trimmed: those that came together go
// together.
const trimDelay = time.Second

// armTrim sets the timer to the next time at which there is something to trim: an
// idle broker does not wake up for nothing. If there is nothing, it may fire once
// more.
func (p *PoolActor) armTrim(t *time.Timer) {
	if next, ok := p.pool.NextTrim(); ok && !next.Equal(p.trimAt) {
		p.trimAt = next
		t.Reset(time.Until(next) + trimDelay)
	}
}

// next turns the case that feeds workers off while nothing waits for them.
func next(jobs chan<- poolJob, waiting *ring[poolJob]) (chan<- poolJob, poolJob) {
	if waiting.len() == 0 {
		return nil, poolJob{}
	}
	return jobs, waiting.peek()
}

// queue lets a worker have a job of that size.
func (p *PoolActor) queue(j poolJob, g shmpool.Geometry) {
	if j.request.kind != poolRead && g.Bytes() >= largeBytesMin {
		p.waitingLarge.push(j)
	} else {
		p.waiting.push(j)
	}
}

func (p *PoolActor) handle(r poolRequest) {
	switch r.kind {
	case poolGrant, poolLane:
		lease, err := p.pool.Reserve(r.owner, r.geometry)
		p.lease(r, lease, err)
	case poolAdopt:
		lease, err := p.pool.Adopt(r.owner, r.region, r.geometry)
		p.lease(r, lease, err)
	case poolRead:
		info, ok := p.pool.Lookup(r.region)
		if !ok {
			p.reply(poolReply{poolRequest: r, err: fmt.Errorf("region %d: %w", r.region, pool.ErrUnknownRegion)})
			return
		}
		p.busy[r.region]++
		p.queue(poolJob{request: r, region: info.Region}, info.Geometry)
	case poolReturn, poolDiscard:
		if p.busy[r.region] > 0 {
			p.ending[r.region] = r
			return
		}
		p.end(r)
	case poolStats:
		p.reply(poolReply{poolRequest: r, stats: p.pool.Stats()})
	case poolRetire:
		if err := p.pool.Retire(r.region); err != nil {
			p.log.Warn("region could not be retired", zap.Uint64("region", uint64(r.region)), zap.Error(err))
		}
	}
}

// lease goes on with what the books say of a request for a region.
func (p *PoolActor) lease(r poolRequest, lease pool.Lease, err error) {
	switch {
	case errors.Is(err, pool.ErrRegionExists):
		p.reply(poolReply{poolRequest: r, code: wire.CodeNotYours, err: err})
	case err != nil:
		p.reply(poolReply{poolRequest: r, code: wire.CodeQuota, err: err})
	case lease.Region != nil && r.kind == poolGrant:
		p.granted(poolJob{request: r, lease: lease, region: lease.Region})
	default:
		p.queue(poolJob{request: r, lease: lease, region: lease.Region}, r.geometry)
	}
}

// end takes a region back.
func (p *PoolActor) end(r poolRequest) {
	p.unmap(r.region)
	err := error(nil)
	if r.kind == poolReturn && p.reusable(r.region) {
		err = p.pool.Return(r.region, time.Now())
	} else {
		err = p.pool.Discard(r.region)
	}
	if err != nil {
		p.log.Error("region could not be taken back", zap.Uint64("region", uint64(r.region)), zap.Error(err))
	}
}

// unmap gives up the broker's own mapping of a region, if it has one. The router
// touches it no more.
func (p *PoolActor) unmap(id wire.RegionID) {
	memory := p.mapped[id]
	if memory == nil {
		return
	}
	delete(p.mapped, id)
	if err := memory.Close(); err != nil {
		p.log.Warn("region could not be unmapped", zap.Uint64("region", uint64(id)), zap.Error(err))
	}
}

// reusable looks at the header of a region that is given back: a receiver whose
// bit is still in the ledger may go on reading, and would read what the next
// owner writes. It reads one page, and no worker does it, because the requests
// behind this one may need the room.
func (p *PoolActor) reusable(id wire.RegionID) bool {
	info, ok := p.pool.Lookup(id)
	if !ok {
		return true // Return says what is wrong
	}
	held, err := heldSlots(info)
	if held > 0 || err != nil {
		p.log.Debug("region is not used again", zap.Uint64("region", uint64(id)), zap.Int("held_slots", held), zap.Error(err))
	}
	return held == 0 && err == nil
}

// ledgerOffset is where the ledger begins: one word a slot, to the header's end.
const ledgerOffset = shmpool.HeaderBytes - 8*shmpool.SlotsMax

// heldSlots counts the slots that somebody holds by the region's ledger.
func heldSlots(info pool.Info) (int, error) {
	header := make([]byte, shmpool.HeaderBytes)
	if n, err := info.Region.ReadAt(header, 0); n < len(header) {
		return 0, fmt.Errorf("read the header of %s: %w", info.Region.Name(), err)
	}
	if err := shmpool.CheckHeader(header, info.ID, info.Geometry); err != nil {
		return 0, err
	}
	held := 0
	for k := range info.Geometry.Slots {
		if binary.LittleEndian.Uint64(header[ledgerOffset+8*k:]) != 0 {
			held++
		}
	}
	return held, nil
}

func (p *PoolActor) reply(rep poolReply) {
	select {
	case p.replies <- rep:
	case <-p.quit:
	}
}

// Stop ends Run and waits for it. It may be called more than once.
func (p *PoolActor) Stop() {
	p.once.Do(func() { close(p.quit) })
	<-p.stopped
}
