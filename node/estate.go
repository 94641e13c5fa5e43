package node

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// Order of locks, outermost first: Node.mu; receiver.mu or Output.mu; memory.mu;
// estate.views, estate.bellsMu, link.mu. Nobody holds one of them while he calls the
// user's log handler, nor, but for Output.mu, while he rouses the sleeper or rings a
// bell of another process: that lock keeps the bells of its lanes mapped.

// estate is what this process holds of one broker's shared memory: regions to
// write to and to read from, lanes both ways, bells, and the lock on the broker's
// probe file that says so. It outlives connections: a broker that takes the place
// of a dead one may adopt it, and then the next session goes on with it. Else it
// ends when the user has released the last message and loan in it.
type estate struct {
	n      *Node
	memory *memory
	lanes  bool // the broker that granted it knows lanes

	// holders counts what keeps the mappings in use: the node itself, messages in
	// shared memory, loans. With the last of them the estate is buried: only then
	// may the broker's lock be given up, because a broker that sees it free reuses
	// the memory. This holds after a reconnect and after Close too, which is why
	// it is not done there.
	holders atomic.Int64

	views views

	bellsMu sync.Mutex
	bells   map[wire.RegionID]*peerBell

	// Owned by the goroutine that reads.
	instance string           // of the broker
	probes   []*shmpool.Probe // of this session, and until it has adopted the estate of the one before
	bell     *ownBell         // nil until the first lane
	spent    []*lane.Memory   // of bells before it
}

// views are the regions of senders that this process reads.
type views struct {
	sync.Mutex
	cache  *shmpool.Cache
	owners map[wire.RegionID]wire.RegionID // the bell of the node that leases a region
	// stale are regions that a broker of before had announced, and this one has not
	// yet, and since when.
	stale   map[wire.RegionID]time.Time
	version uint64 // changes with the set of regions, and with their mappings
	private uint64 // bytes of evacuated messages, as the node has counted them
	faults  sync.WaitGroup
}

// ownBell is what this node sleeps on when it has lanes.
type ownBell struct {
	region wire.RegionID
	name   string
	memory *lane.Memory
}

// peerBell is the bell of a node at the other end of a lane.
type peerBell struct {
	*lane.Bell
	estate *estate
	region wire.RegionID
	memory *lane.Memory
	refs   int // guarded by bellsMu
}

func newEstate(n *Node, instance string, lanes bool) *estate {
	e := &estate{n: n, lanes: lanes, instance: instance, bells: make(map[wire.RegionID]*peerBell)}
	e.memory = newMemory(e)
	e.views.cache = shmpool.NewCache()
	e.views.owners = make(map[wire.RegionID]wire.RegionID)
	e.views.stale = make(map[wire.RegionID]time.Time)
	e.holders.Store(1)
	return e
}

func (e *estate) hold() { e.holders.Add(1) }

func (e *estate) drop() {
	switch left := e.holders.Add(-1); {
	case left < 0:
		panic("node: shared memory given up more often than held")
	case left == 0:
		e.bury()
	}
}

// bury unmaps everything and gives up the lock, in this order.
func (e *estate) bury() {
	e.views.Lock()
	err := e.views.cache.CloseAll()
	e.countPrivate()
	e.views.Unlock()
	e.views.faults.Wait()
	err = errors.Join(err, e.memory.unmap())
	if e.bell != nil {
		err = errors.Join(err, e.bell.memory.Close())
	}
	for _, memory := range e.spent {
		err = errors.Join(err, memory.Close())
	}
	for _, probe := range e.probes {
		err = errors.Join(err, probe.Close())
	}
	if err != nil {
		e.n.log.Warn("memory of a connection cannot be given back", "error", err)
	}
}

// leave ends the use of the estate for anything new. dead says that the broker
// that granted it is gone: nobody else then tells the receivers of its lanes.
func (e *estate) leave(dead bool) {
	e.memory.close()
	for _, l := range e.memory.takeLanes() {
		l.abandon()
	}
	e.n.receiver.leaveLanes(e, dead)
	if e.bell != nil {
		e.n.sleeper.setBell(nil)
	}
	e.drop()
}

// carries reports whether there is anything that another broker could adopt.
func (e *estate) carries() bool {
	return e.lanes && (e.bell != nil || e.memory.regionCount() > 0)
}

// openView maps a region for reading. It is called by the goroutine that reads.
func (e *estate) openView(m *wire.RegionOpen) error {
	v := &e.views
	g := shmpool.Geometry{SlotBytes: m.SlotBytes, Slots: m.Slots}
	access := shmpool.ReadOnly
	if e.lanes {
		access = shmpool.ReadLedger
	}
	v.Lock()
	defer v.Unlock()
	known := v.cache.Mapping(m.Region)
	if known != nil && known.Access() < access {
		access = known.Access()
	}
	err := v.cache.Open(m.Region, m.Name, g, access)
	if err != nil && access == shmpool.ReadLedger && errors.Is(err, fs.ErrPermission) {
		// Another user's: it can be read, and the broker told when that is done.
		err = v.cache.Open(m.Region, m.Name, g, shmpool.ReadOnly)
	}
	if err != nil {
		return err
	}
	delete(v.stale, m.Region)
	v.version++
	if m.Owner != 0 {
		v.owners[m.Region] = m.Owner
	}
	if mapping := v.cache.Mapping(m.Region); known == nil && e.lanes {
		v.faults.Go(func() { _ = mapping.Prefault() }) // slower, not wrong
	}
	return nil
}

func (e *estate) closeView(id wire.RegionID) error {
	v := &e.views
	v.Lock()
	defer v.Unlock()
	v.version++
	delete(v.owners, id)
	delete(v.stale, id)
	defer e.countPrivate()
	return v.cache.Close(id)
}

// view returns bytes in shared memory that came through the broker.
func (e *estate) view(region wire.RegionID, offset, length uint64) ([]byte, shmpool.Ref, error) {
	e.views.Lock()
	b, ref, err := e.views.cache.View(region, offset, length)
	e.views.Unlock()
	return b, ref, err
}

func (e *estate) unview(ref shmpool.Ref) {
	e.views.Lock()
	err := e.views.cache.Release(ref)
	e.countPrivate()
	e.views.Unlock()
	if err != nil {
		e.n.log.Warn("shared memory region cannot be unmapped", "error", err)
	}
}

// useBell makes the memory that a grant names this node's bell.
func (e *estate) useBell(region wire.RegionID, name string) error {
	if e.bell != nil && e.bell.region == region {
		return nil
	}
	if region == 0 {
		return errors.New("the grant names no bell")
	}
	memory, err := lane.Map(name, region, lane.BellSlotBytes)
	if err != nil {
		return fmt.Errorf("bell: %w", err)
	}
	bell := lane.NewBell(memory.Words())
	e.n.sleeper.setBell(bell)
	e.memory.setBell(bell)
	if e.bell != nil {
		e.spent = append(e.spent, e.bell.memory) // somebody may still be about to wake up from it
	}
	e.bell = &ownBell{region: region, name: name, memory: memory}
	return nil
}

// peer returns the bell of another node, for one lane.
func (e *estate) peer(region wire.RegionID, name string) (*peerBell, error) {
	e.bellsMu.Lock()
	defer e.bellsMu.Unlock()
	b := e.bells[region]
	if b == nil {
		memory, err := lane.Map(name, region, lane.BellSlotBytes)
		if err != nil {
			return nil, fmt.Errorf("bell of the other end: %w", err)
		}
		b = &peerBell{Bell: lane.NewBell(memory.Words()), estate: e, region: region, memory: memory}
		e.bells[region] = b
	}
	b.refs++
	return b, nil
}

// release gives up one lane's use of the bell.
func (b *peerBell) release() {
	e := b.estate
	e.bellsMu.Lock()
	defer e.bellsMu.Unlock()
	b.refs--
	if b.refs > 0 {
		return
	}
	delete(e.bells, b.region)
	_ = b.memory.Close() // one page; nothing is left to be done about it
}

// staleViews marks what the broker that is gone had announced.
func (e *estate) staleViews() {
	e.views.Lock()
	defer e.views.Unlock()
	now := time.Now()
	for _, id := range e.views.cache.Regions() {
		if _, before := e.views.stale[id]; !before {
			e.views.stale[id] = now
		}
	}
}

// closeStale unmaps what no broker has announced again since limit. It returns how
// many are left that are younger, and since when the oldest of them is stale.
func (e *estate) closeStale(limit time.Time) (left int, oldest time.Time) {
	e.views.Lock()
	stale := maps.Clone(e.views.stale)
	e.views.Unlock()
	for id, since := range stale {
		if since.After(limit) {
			if left++; left == 1 || since.Before(oldest) {
				oldest = since
			}
			continue
		}
		if err := e.closeView(id); err != nil {
			e.n.log.Warn("shared memory region cannot be unmapped", "region", uint64(id), "error", err)
		}
	}
	return left, oldest
}
