package actors

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/shmpool/pool"
	"github.com/brokerd/brokerd/wire"
)

// poolJob is work for a worker, and its result.
type poolJob struct {
	request poolRequest
	lease   pool.Lease
	region  pool.Region // nil: to be made
	memory  slotMemory  // the region's slot, mapped here
	payload []byte
	err     error
}

// slotMemory is the broker's own mapping of a region of one slot.
type slotMemory interface {
	Words() []uint64
	Close() error
}

// mapSlot maps a lane or a bell.
func mapSlot(name string, id wire.RegionID, slotBytes uint64) (slotMemory, error) {
	memory, err := lane.Map(name, id, slotBytes)
	if err != nil {
		return nil, err // not a nil *lane.Memory in an interface
	}
	// Here, and not by the router when it writes to it first.
	if err := memory.Prefault(); err != nil {
		return nil, errors.Join(err, memory.Close())
	}
	return memory, nil
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
			p.provide(&j)
		}
		p.results <- j
	}
}

// provide makes the region of a lease, or takes it over, and maps it if the router
// is to have it, too.
func (p *PoolActor) provide(j *poolJob) {
	reused := j.region != nil
	switch {
	case reused:
	case j.request.kind == poolAdopt:
		j.region, j.err = p.allocator.Adopt(j.request.oldName, j.lease.ID, j.lease.Geometry)
	default:
		j.region, j.err = p.allocator.Create(j.lease.ID, j.lease.Geometry)
	}
	if j.err != nil || j.request.kind != poolLane && !j.request.mapped {
		return
	}
	j.memory, j.err = p.mapSlot(j.region.Name(), j.lease.ID, j.lease.Geometry.SlotBytes)
	if j.err != nil && !reused {
		j.err = errors.Join(j.err, j.region.Close())
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
	switch j.request.kind {
	case poolClose:
		p.closed(j)
	case poolRead:
		id := j.request.region
		if p.busy[id]--; p.busy[id] == 0 {
			delete(p.busy, id)
			if r, ok := p.ending[id]; ok {
				delete(p.ending, id)
				p.end(r)
			}
		}
		p.reply(poolReply{poolRequest: j.request, payload: j.payload, err: j.err})
	default:
		p.provided(j)
	}
}

// provided enters a region that is there now, or is not to be had.
func (p *PoolActor) provided(j poolJob) {
	reused := j.lease.Region != nil
	if j.err != nil {
		if reused {
			p.end(poolRequest{kind: poolDiscard, region: j.lease.ID})
		} else {
			p.pool.Abort(j.lease)
		}
		p.reply(poolReply{poolRequest: j.request, code: codeFor(j.request.kind), err: j.err})
		return
	}
	if !reused {
		if err := p.pool.Commit(j.lease, closer{j.region, j.lease.Geometry, p}); err != nil {
			p.release(j)
			p.reply(poolReply{poolRequest: j.request, code: wire.CodeShuttingDown, err: err})
			return
		}
	}
	if j.memory != nil {
		p.mapped[j.lease.ID] = j.memory
	}
	p.granted(j)
}

// codeFor is what a node is told about a region that is not to be had.
func codeFor(kind poolRequestKind) wire.Code {
	if kind == poolAdopt {
		return wire.CodeNotFound
	}
	return wire.CodeNoMemory
}

func (p *PoolActor) closed(j poolJob) {
	if j.err != nil {
		p.log.Warn("region could not be closed", zap.String("name", j.region.Name()), zap.Error(j.err))
	}
}

func (p *PoolActor) granted(j poolJob) {
	rep := poolReply{poolRequest: j.request, name: j.region.Name()}
	rep.region = j.lease.ID
	if j.memory != nil {
		rep.words = j.memory.Words()
	}
	p.reply(rep)
}

// release unmaps what nobody was told of.
func (p *PoolActor) release(j poolJob) {
	if j.memory != nil {
		p.mapped[j.lease.ID] = j.memory
		p.unmap(j.lease.ID)
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
	for id := range p.mapped {
		p.unmap(id)
	}
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
		case j.request.kind == poolRead:
		case j.lease.Region != nil: // closed with the pool
			p.release(j)
		case j.err != nil:
			p.pool.Abort(j.lease)
		default:
			p.release(j)
			_ = p.pool.Commit(j.lease, j.region) // closes it: the pool is closed
		}
	}
}
