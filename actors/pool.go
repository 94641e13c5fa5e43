package actors

import (
	"fmt"
	"io"
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
// freeing one or reading a payload, is done by workers. Large regions have one of
// their own, so that they keep nobody waiting but each other.
type PoolActor struct {
	// immutable
	allocator pool.Allocator
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
	ended        bool                  // no worker takes jobs any more
	waiting      ring[poolJob]         // for jobs
	waitingLarge ring[poolJob]         // for large
	busy         map[wire.RegionID]int // reads under way
	ending       map[wire.RegionID]poolRequest
}

// poolJob is work for a worker, and its result.
type poolJob struct {
	request poolRequest
	lease   pool.Lease
	region  pool.Region
	payload []byte
	err     error
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
	trim := time.NewTicker(time.Second)
	defer trim.Stop()
	for {
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
	case poolGrant:
		lease, err := p.pool.Reserve(r.owner, r.geometry)
		switch {
		case err != nil:
			p.reply(poolReply{poolRequest: r, code: wire.CodeQuota, err: err})
		case lease.Region != nil:
			p.granted(r, lease, lease.Region)
		default:
			p.queue(poolJob{request: r, lease: lease}, r.geometry)
		}
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

// end takes a region back.
func (p *PoolActor) end(r poolRequest) {
	err := error(nil)
	if r.kind == poolReturn {
		err = p.pool.Return(r.region, time.Now())
	} else {
		err = p.pool.Discard(r.region)
	}
	if err != nil {
		p.log.Error("region could not be taken back", zap.Uint64("region", uint64(r.region)), zap.Error(err))
	}
}

// work runs jobs until there are no more.
func (p *PoolActor) work(jobs <-chan poolJob) {
	for j := range jobs {
		switch j.request.kind {
		case poolRead:
			j.payload, j.err = readPayload(j.region, j.request.offset, j.request.length)
		case poolClose:
			j.err = j.region.Close()
		default:
			j.region, j.err = p.allocator.Create(j.lease.ID, j.lease.Geometry)
		}
		p.results <- j
	}
}

// readPayload copies with pread: a region that its owner has cut short is a
// short read, where a mapping would be a SIGBUS.
func readPayload(region pool.Region, offset, length uint64) ([]byte, error) {
	payload := make([]byte, length)
	n, err := region.ReadAt(payload, int64(offset))
	if err == io.EOF && n == len(payload) {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %d bytes at %d of %s: %w", length, offset, region.Name(), err)
	}
	return payload, nil
}

// closer is a region as the books know it: closing it, which takes as long as
// freeing its pages does, is left to a worker.
type closer struct {
	pool.Region
	geometry shmpool.Geometry
	actor    *PoolActor
}

func (c closer) Close() error {
	if c.actor.ended {
		return c.Region.Close()
	}
	c.actor.queue(poolJob{request: poolRequest{kind: poolClose}, region: c.Region}, c.geometry)
	return nil
}

// finish enters what a worker has done.
func (p *PoolActor) finish(j poolJob) {
	if j.request.kind == poolClose {
		p.closed(j)
		return
	}
	if j.request.kind == poolRead {
		id := j.request.region
		if p.busy[id]--; p.busy[id] == 0 {
			delete(p.busy, id)
			if r, ok := p.ending[id]; ok {
				delete(p.ending, id)
				p.end(r)
			}
		}
		p.reply(poolReply{poolRequest: j.request, payload: j.payload, err: j.err})
		return
	}
	if j.err != nil {
		p.pool.Abort(j.lease)
		p.reply(poolReply{poolRequest: j.request, code: wire.CodeNoMemory, err: j.err})
		return
	}
	if err := p.pool.Commit(j.lease, closer{j.region, j.lease.Geometry, p}); err != nil {
		p.reply(poolReply{poolRequest: j.request, code: wire.CodeShuttingDown, err: err})
		return
	}
	p.granted(j.request, j.lease, j.region)
}

func (p *PoolActor) closed(j poolJob) {
	if j.err != nil {
		p.log.Warn("region could not be closed", zap.String("name", j.region.Name()), zap.Error(j.err))
	}
}

func (p *PoolActor) granted(r poolRequest, lease pool.Lease, region pool.Region) {
	r.region = lease.ID
	p.reply(poolReply{poolRequest: r, name: region.Name()})
}

func (p *PoolActor) reply(rep poolReply) {
	select {
	case p.replies <- rep:
	case <-p.quit:
	}
}

// shutdown waits for the workers and closes every region.
func (p *PoolActor) shutdown(workers *sync.WaitGroup) {
	close(p.jobs)
	close(p.large)
	go func() {
		workers.Wait()
		close(p.results)
	}()
	p.ended = true
	p.pool.Close()
	for _, waiting := range []*ring[poolJob]{&p.waiting, &p.waitingLarge} {
		for waiting.len() > 0 {
			if j := waiting.pop(); j.request.kind == poolClose {
				j.err = j.region.Close()
				p.closed(j)
			}
		}
	}
	for j := range p.results {
		switch {
		case j.request.kind == poolClose:
			p.closed(j)
		case j.request.kind != poolGrant:
		case j.err != nil:
			p.pool.Abort(j.lease)
		default:
			_ = p.pool.Commit(j.lease, j.region) // closes it: the pool is closed
		}
	}
}

// Stop ends Run and waits for it. It may be called more than once.
func (p *PoolActor) Stop() {
	p.once.Do(func() { close(p.quit) })
	<-p.stopped
}
