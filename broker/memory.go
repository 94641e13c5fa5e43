package broker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/actors"
	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/alloc"
	"github.com/brokerd/brokerd/shmpool/pool"
	"github.com/brokerd/brokerd/wire"
)

// memory is the shared memory of this machine as the broker's parts see it:
// *alloc.Allocator, or noMemory where there is none.
type memory interface {
	pool.Allocator
	actors.Probe
	actors.Liveness
	Instance() string
	Close() error
	offered() bool
}

// sharedMemory makes an allocator what the pool wants.
type sharedMemory struct{ *alloc.Allocator }

func (m sharedMemory) Create(id wire.RegionID, g shmpool.Geometry) (pool.Region, error) {
	region, err := m.Allocator.Create(id, g)
	if err != nil {
		return nil, err // not a nil *alloc.Region in an interface
	}
	return region, nil
}

func (m sharedMemory) Adopt(name string, id wire.RegionID, g shmpool.Geometry) (pool.Region, error) {
	region, err := m.Allocator.Adopt(name, id, g)
	if err != nil {
		return nil, err
	}
	return region, nil
}

func (m sharedMemory) offered() bool { return true }

// noMemory is a broker without shared memory: every node is remote to it, and
// every payload travels inline.
type noMemory struct{ instance string }

func (m noMemory) Create(wire.RegionID, shmpool.Geometry) (pool.Region, error) {
	return nil, fmt.Errorf("%w: this broker offers none", wire.ErrNoMemory)
}
func (m noMemory) Adopt(string, wire.RegionID, shmpool.Geometry) (pool.Region, error) {
	return nil, fmt.Errorf("%w: this broker offers none", wire.ErrNoMemory)
}
func (m noMemory) Probe() (string, uint64, uint32)           { return "", 0, 0 }
func (m noMemory) CheckNonce([]byte) bool                    { return false }
func (m noMemory) SessionAlive(wire.SessionID) (bool, error) { return false, nil }
func (m noMemory) Instance() string                          { return m.instance }
func (m noMemory) Close() error                              { return nil }
func (m noMemory) offered() bool                             { return false }

// newInstance returns a random id for a broker that has none from its shared
// memory, in the same form.
func newInstance() string {
	id := make([]byte, 4)
	rand.Read(id) // never fails: the runtime ends the process instead
	return hex.EncodeToString(id)
}

// instanceNumber is an instance id as the upper half of region ids.
func instanceNumber(instance string) uint32 {
	n, err := strconv.ParseUint(instance, 16, 32)
	if err != nil {
		panic("broker: instance id " + instance) // 8 hex digits, made here or by alloc
	}
	return uint32(n)
}

func (b *Broker) filesPerConnection() int {
	if b.cfg.TLS != nil {
		return tunnelFiles
	}
	return 1
}

func (b *Broker) filesPerRegion() int {
	if !b.cfg.SharedMemory {
		return 0
	}
	return alloc.RegionFDs
}

// openMemory starts an instance of shared memory. Where it cannot be used, that is
// a warning.
func (b *Broker) openMemory() memory {
	if !b.cfg.SharedMemory {
		return noMemory{instance: newInstance()}
	}
	a, err := alloc.Open(alloc.Config{Prefix: b.cfg.ShmPrefix, Mode: b.cfg.ShmMode, GID: b.cfg.ShmGID})
	if err != nil {
		b.log.Warn("no shared memory: all payloads travel through the sockets", zap.Error(err))
		return noMemory{instance: newInstance()}
	}
	b.checkSpace()
	return sharedMemory{a}
}

// smallShmBytes is what containers have of shared memory unless told otherwise:
// ten frames of a camera.
const smallShmBytes = 64 << 20

// checkSpace warns of what would else be noticed by the first large message.
func (b *Broker) checkSpace() {
	size, free, err := alloc.Space()
	if err != nil || size > smallShmBytes && free >= b.cfg.TotalBytes {
		return
	}
	b.log.Warn("little shared memory: large messages may get none", zap.String("directory", shmpool.Dir),
		zap.Uint64("size_bytes", size), zap.Uint64("free_bytes", free), zap.Uint64("shm_limit_bytes", b.cfg.TotalBytes),
		zap.Uint64("shm_node_limit_bytes", b.cfg.NodeBytes))
}

// startRouter starts the actors. addr is where nodes reach the broker.
func (b *Broker) startRouter(p *parts, addr string, budget fileBudget) (err error) {
	p.leftovers = b.clearUp()
	p.memory = b.openMemory()
	p.pool, err = actors.NewPoolActor(pool.Limits{
		TotalBytes: max(1, b.cfg.TotalBytes), NodeBytes: max(1, b.cfg.NodeBytes), Regions: max(1, budget.regions),
		CacheBytes: b.cfg.CacheBytes, CacheAge: b.cfg.CacheAge,
	}, instanceNumber(p.memory.Instance()), p.memory, b.log.Named("pool"))
	if err != nil {
		return err
	}
	go p.pool.Run()
	cfg := actors.RouterConfig{
		Version: b.cfg.Version, Instance: p.memory.Instance(), Addr: addr,
		FrameBytesMax: b.cfg.FrameBytesMax, InlineBytesMax: uint32(b.cfg.InlineBytesMax),
		HeartbeatInterval: b.cfg.HeartbeatInterval,
		Lanes:             b.cfg.Lanes && p.memory.offered(), AdoptGrace: b.cfg.AdoptGrace,
		QueueBytesMax: b.cfg.QueueBytesMax, QueueTotalMax: b.cfg.QueueTotalMax, OutstandingMax: b.cfg.OutstandingMax, HeldMessagesMax: b.cfg.HeldMessagesMax, HeldBytesMax: b.cfg.HeldBytesMax, InlineFallback: b.cfg.InlineFallback, FlowsMax: b.cfg.FlowsMax,
		SessionCounters: p.counters.addTo,
	}
	p.journal = actors.NewJournal(b.log)
	p.router = actors.NewRouter(cfg, actors.RouterDeps{
		Journal: p.journal, Pool: p.pool, Probe: p.memory, Liveness: p.memory, Watchdog: b.cfg.Watchdog,
		Dead: p.leftovers.dead, Gone: p.leftovers.gone,
	})
	go p.router.Run()
	return b.loadFlows(p)
}

// loadFlows hands the router the first dataflows.
func (b *Broker) loadFlows(p *parts) error {
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	if err := p.router.Reload(ctx, b.cfg.Flows); err != nil {
		return fmt.Errorf("loading the dataflows: %w", err)
	}
	return nil
}
