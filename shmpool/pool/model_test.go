package pool

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// poolModel keeps one list of all regions and computes everything from it.
type poolModel struct {
	pool    *Pool
	limits  Limits
	now     time.Time
	regions []*modelRegion // all there ever were
	order   int            // of returns
}

type modelRegion struct {
	lease   Lease
	state   state // 0: gone
	owner   OwnerID
	fake    *fakeRegion // nil if it was never committed
	since   time.Time
	order   int
	adopted bool
}

func (m *poolModel) in(states ...state) []*modelRegion {
	var rs []*modelRegion
	for _, r := range m.regions {
		if slices.Contains(states, r.state) {
			rs = append(rs, r)
		}
	}
	return rs
}

func sum(rs []*modelRegion) uint64 {
	var n uint64
	for _, r := range rs {
		n += r.lease.Geometry.Bytes()
	}
	return n
}

func (m *poolModel) cache() []*modelRegion {
	rs := m.in(stateCached)
	slices.SortFunc(rs, func(a, b *modelRegion) int { return a.order - b.order })
	return rs
}

func (m *poolModel) ofOwner(owner OwnerID) []*modelRegion {
	return slices.DeleteFunc(m.in(stateReserved, stateLeased, stateRetired), func(r *modelRegion) bool { return r.owner != owner })
}

func (m *poolModel) evict() { m.cache()[0].state = 0 }

func (m *poolModel) reserve(t *rapid.T) {
	owner := OwnerID(rapid.IntRange(1, 3).Draw(t, "owner"))
	g := shmpool.Geometry{
		SlotBytes: rapid.SampledFrom([]uint64{4096, 16384, 65536}).Draw(t, "class"),
		Slots:     rapid.Uint32Range(1, 2).Draw(t, "slots"),
	}
	charged := m.in(stateReserved, stateLeased, stateRetired)
	var reuse *modelRegion
	for _, r := range m.cache() {
		if r.lease.Geometry == g {
			reuse = r
		}
	}
	var want error
	switch {
	case sum(m.ofOwner(owner))+g.Bytes() > m.limits.NodeBytes:
		want = ErrNodeQuota
	case reuse != nil:
	case sum(charged)+g.Bytes() > m.limits.TotalBytes:
		want = ErrGlobalLimit
	case len(charged)+1 > m.limits.Regions:
		want = ErrRegionLimit
	}
	l, err := m.pool.Reserve(owner, g)
	if !errors.Is(err, want) {
		t.Fatalf("Reserve: %v, want %v", err, want)
	}
	if err != nil {
		if err.Error() == "" || l != (Lease{}) {
			t.Fatalf("refused with %+v", l)
		}
		return
	}
	if l.Owner != owner || l.Geometry != g {
		t.Fatalf("lease is %+v", l)
	}
	if reuse != nil {
		if l.ID != reuse.lease.ID || l.Region != Region(reuse.fake) {
			t.Fatalf("region %d was reused, not %d", l.ID, reuse.lease.ID)
		}
		reuse.state, reuse.owner = stateLeased, owner
		return
	}
	if l.Region != nil {
		t.Fatalf("region %d comes from nowhere", l.ID)
	}
	if l.ID>>32 != 7 {
		t.Fatalf("id %#x is not of this instance", uint64(l.ID))
	}
	m.makeRoom(g)
	for _, r := range m.regions {
		if r.lease.ID == l.ID {
			t.Fatalf("id %d was given twice", l.ID)
		}
	}
	m.regions = append(m.regions, &modelRegion{lease: l, state: stateReserved, owner: owner})
}

// adopt books a region of another broker, or one that the books have already.
func (m *poolModel) adopt(t *rapid.T) {
	owner := OwnerID(rapid.IntRange(1, 3).Draw(t, "owner"))
	g := shmpool.Geometry{SlotBytes: rapid.SampledFrom([]uint64{4096, 16384}).Draw(t, "class"), Slots: 1}
	id := wire.RegionID(rapid.IntRange(8, 9).Draw(t, "instance"))<<32 | wire.RegionID(rapid.IntRange(1, 4).Draw(t, "number"))
	var want error
	charged := m.in(stateReserved, stateLeased, stateRetired)
	switch {
	case sum(m.ofOwner(owner))+g.Bytes() > m.limits.NodeBytes:
		want = ErrNodeQuota
	case slices.ContainsFunc(m.regions, func(r *modelRegion) bool { return r.state != 0 && r.lease.ID == id }):
		want = ErrRegionExists
	case sum(charged)+g.Bytes() > m.limits.TotalBytes:
		want = ErrGlobalLimit
	case len(charged)+1 > m.limits.Regions:
		want = ErrRegionLimit
	}
	l, err := m.pool.Adopt(owner, id, g)
	if !errors.Is(err, want) {
		t.Fatalf("Adopt: %v, want %v", err, want)
	}
	if err != nil {
		return
	}
	if l != (Lease{ID: id, Owner: owner, Geometry: g}) {
		t.Fatalf("lease is %+v", l)
	}
	m.makeRoom(g)
	m.regions = append(m.regions, &modelRegion{lease: l, state: stateReserved, owner: owner, adopted: true})
}

func (m *poolModel) makeRoom(g shmpool.Geometry) {
	all := []state{stateReserved, stateLeased, stateRetired, stateCached}
	for sum(m.in(all...))+g.Bytes() > m.limits.TotalBytes || len(m.in(all...))+1 > m.limits.Regions {
		m.evict()
	}
}

func (m *poolModel) draw(t *rapid.T, states ...state) *modelRegion {
	rs := m.in(states...)
	if len(rs) == 0 {
		t.Skip("none")
	}
	return rapid.SampledFrom(rs).Draw(t, "region")
}

func (m *poolModel) commit(t *rapid.T) {
	r := m.draw(t, stateReserved)
	r.fake = &fakeRegion{id: r.lease.ID}
	r.state = stateLeased
	if err := m.pool.Commit(r.lease, r.fake); err != nil {
		t.Fatal(err)
	}
}

func (m *poolModel) abort(t *rapid.T) {
	r := m.draw(t, stateReserved)
	r.state = 0
	m.pool.Abort(r.lease)
}

func (m *poolModel) giveBack(t *rapid.T) {
	r := m.draw(t, stateLeased, stateLeased, stateRetired)
	if err := m.pool.Return(r.lease.ID, m.now); err != nil {
		t.Fatal(err)
	}
	bytes := r.lease.Geometry.Bytes()
	if r.state == stateRetired || r.adopted || bytes > m.limits.CacheBytes {
		r.state = 0
		return
	}
	r.state = 0 // not among those to evict
	for sum(m.in(stateCached))+bytes > m.limits.CacheBytes {
		m.evict()
	}
	m.order++
	r.state, r.since, r.order = stateCached, m.now, m.order
}

func (m *poolModel) retire(t *rapid.T) {
	r := m.draw(t, stateLeased, stateRetired)
	r.state = stateRetired
	if err := m.pool.Retire(r.lease.ID); err != nil {
		t.Fatal(err)
	}
}

func (m *poolModel) discard(t *rapid.T) {
	r := m.draw(t, stateLeased, stateRetired)
	r.state = 0
	if err := m.pool.Discard(r.lease.ID); err != nil {
		t.Fatal(err)
	}
}

func (m *poolModel) trim(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second)
	want := 0
	for _, r := range m.cache() {
		if m.now.Sub(r.since) >= m.limits.CacheAge {
			r.state = 0
			want++
		}
	}
	if n := m.pool.Trim(m.now); n != want {
		t.Fatalf("%d trimmed, want %d", n, want)
	}
}

func (m *poolModel) check(t *rapid.T) {
	reserved, leased := m.in(stateReserved), m.in(stateLeased)
	retired, cached := m.in(stateRetired), m.cache()
	st := m.pool.Stats()
	st.CreatedTotal, st.ReusedTotal, st.UnlinkedTotal = 0, 0, 0
	want := Stats{
		LimitBytes: m.limits.TotalBytes, UsedBytes: sum(reserved) + sum(leased) + sum(retired) + sum(cached),
		CachedBytes: sum(cached), RetiredBytes: sum(retired), ReservedBytes: sum(reserved),
		Regions:       len(reserved) + len(leased) + len(retired) + len(cached),
		CachedRegions: len(cached), RetiredRegions: len(retired), ReservedRegions: len(reserved),
	}
	if st != want {
		t.Fatalf("Stats %+v, want %+v", st, want)
	}
	if st.UsedBytes > m.limits.TotalBytes || st.Regions > m.limits.Regions || st.CachedBytes > m.limits.CacheBytes {
		t.Fatalf("past a limit: %+v", st)
	}
	for owner := OwnerID(0); owner < 5; owner++ {
		m.checkOwner(t, owner)
	}
	at, ok := m.pool.NextTrim()
	if ok != (len(cached) > 0) || ok && !at.Equal(cached[0].since.Add(m.limits.CacheAge)) {
		t.Fatalf("next trim at %v, %v", at, ok)
	}
	unlinked := uint64(0)
	for _, r := range m.regions {
		m.checkRegion(t, r)
		if r.fake != nil && (r.fake.unlinks > 0 || r.fake.closes > 0) {
			unlinked++
		}
	}
	if got := m.pool.Stats().UnlinkedTotal; got != unlinked {
		t.Fatalf("%d unlinked, want %d", got, unlinked)
	}
}

func (m *poolModel) checkOwner(t *rapid.T, owner OwnerID) {
	rs := m.ofOwner(owner)
	want := OwnerStats{Regions: len(rs), Bytes: sum(rs)}
	var ids []wire.RegionID
	for _, r := range rs {
		if r.state == stateRetired {
			want.RetiredRegions++
			want.RetiredBytes += r.lease.Geometry.Bytes()
		}
		if r.state != stateReserved {
			ids = append(ids, r.lease.ID)
		}
	}
	slices.Sort(ids)
	if got := m.pool.Owner(owner); got != want || got.Bytes > m.limits.NodeBytes {
		t.Fatalf("owner %d: %+v, want %+v", owner, got, want)
	}
	if got := m.pool.Owned(owner); !slices.Equal(got, ids) {
		t.Fatalf("owner %d owns %v, want %v", owner, got, ids)
	}
}

// checkRegion checks that a region is closed once if it is gone, and not before.
func (m *poolModel) checkRegion(t *rapid.T, r *modelRegion) {
	if r.fake == nil {
		return
	}
	closes := 0
	if r.state == 0 {
		closes = 1
	}
	if r.fake.closes != closes {
		t.Fatalf("region %d (%v) was closed %d times", r.lease.ID, r.state, r.fake.closes)
	}
	if r.state != 0 && (r.fake.unlinks == 1) != (r.state == stateRetired) {
		t.Fatalf("region %d (%v) was unlinked %d times", r.lease.ID, r.state, r.fake.unlinks)
	}
	if r.state == 0 && r.adopted {
		return // its id may have come again
	}
	if info, ok := m.pool.Lookup(r.lease.ID); ok != (r.state == stateLeased || r.state == stateRetired) ||
		ok && (info.Owner != r.owner || info.Retired != (r.state == stateRetired) || info.Region != Region(r.fake)) {
		t.Fatalf("lookup of region %d (%v): %+v, %v", r.lease.ID, r.state, info, ok)
	}
}

func TestPoolModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &poolModel{now: epoch, limits: Limits{
			TotalBytes: rapid.Uint64Range(64<<10, 600<<10).Draw(t, "total"),
			Regions:    rapid.IntRange(1, 8).Draw(t, "regions"),
			CacheBytes: rapid.Uint64Range(0, 300<<10).Draw(t, "cache"),
			CacheAge:   time.Minute,
		}}
		m.limits.NodeBytes = rapid.Uint64Range(32<<10, m.limits.TotalBytes).Draw(t, "node")
		var err error
		m.pool, err = New(m.limits, 7, func(id wire.RegionID, err error) { t.Fatalf("close of region %d: %v", id, err) })
		if err != nil {
			t.Fatal(err)
		}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": m.reserve, "reserve2": m.reserve, "adopt": m.adopt, "commit": m.commit, "commit2": m.commit, "abort": m.abort,
			"return": m.giveBack, "retire": m.retire, "discard": m.discard, "trim": m.trim, "": m.check,
		})
		// At the end nothing is left, and nothing was closed twice.
		pending := m.in(stateReserved)
		m.pool.Close()
		for _, r := range pending {
			r.fake = &fakeRegion{id: r.lease.ID}
			if err := m.pool.Commit(r.lease, r.fake); !errors.Is(err, ErrClosed) {
				t.Fatal(err)
			}
		}
		for _, r := range m.regions {
			r.state = 0
			m.checkRegion(t, r)
		}
		if st := m.pool.Stats(); st.UsedBytes != 0 || st.Regions != 0 || st.CreatedTotal != st.UnlinkedTotal {
			t.Fatalf("at the end: %+v", st)
		}
	})
}
