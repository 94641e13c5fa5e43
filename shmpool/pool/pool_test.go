package pool

import (
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// fakeRegion is a Region that remembers what was done with it.
type fakeRegion struct {
	id               wire.RegionID
	unlinks, closes  int
	rests            int
	unlinkErr, clErr error
}

func (r *fakeRegion) Name() string { return "fake" }

func (r *fakeRegion) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }

func (r *fakeRegion) Rest() { r.rests++ }

func (r *fakeRegion) Unlink() error {
	r.unlinks++
	return r.unlinkErr
}

func (r *fakeRegion) Close() error {
	r.closes++
	return r.clErr
}

func mustNew(tb testing.TB, limits Limits) *Pool {
	tb.Helper()
	p, err := New(limits, 0, func(id wire.RegionID, err error) { tb.Errorf("close of region %d: %v", id, err) })
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// lease reserves and commits.
func lease(tb testing.TB, p *Pool, owner OwnerID, g shmpool.Geometry) (wire.RegionID, *fakeRegion) {
	tb.Helper()
	l, err := p.Reserve(owner, g)
	if err != nil {
		tb.Fatal(err)
	}
	if l.Region != nil {
		return l.ID, l.Region.(*fakeRegion)
	}
	r := &fakeRegion{id: l.ID}
	if err := p.Commit(l, r); err != nil {
		tb.Fatal(err)
	}
	return l.ID, r
}

var (
	epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	// One slot of these and a header make 1 MiB and 2 MiB.
	mib = shmpool.Geometry{SlotBytes: 1 << 20, Slots: 1}
	big = shmpool.Geometry{SlotBytes: 2 << 20, Slots: 1}
)

func limits(mibs uint64) Limits {
	unit := mib.Bytes()
	return Limits{TotalBytes: mibs * unit, NodeBytes: mibs * unit, Regions: 100, CacheBytes: mibs * unit, CacheAge: time.Minute}
}

func TestReuse(t *testing.T) {
	p := mustNew(t, limits(10))
	id, r := lease(t, p, 1, mib)
	if id == 0 {
		t.Fatal("region id 0 means no region on the wire")
	}
	if err := p.Return(id, epoch); err != nil {
		t.Fatal(err)
	}
	if st := p.Stats(); st.CachedRegions != 1 || st.UsedBytes != mib.Bytes() || p.Owner(1) != (OwnerStats{}) || r.rests != 1 {
		t.Fatalf("%+v, owner %+v", st, p.Owner(1))
	}
	if again, same := lease(t, p, 2, mib); again != id || same != r {
		t.Fatalf("region %d instead of %d", again, id)
	}
	// Another geometry is another region, though it would fit.
	if other, _ := lease(t, p, 2, big); other == id {
		t.Fatal("a region has two geometries")
	}
	if st := p.Stats(); st.CreatedTotal != 2 || st.ReusedTotal != 1 || st.UnlinkedTotal != 0 || r.closes != 0 {
		t.Fatalf("%+v", st)
	}
	if got := p.Owned(2); !slices.Equal(got, []wire.RegionID{1, 2}) {
		t.Fatalf("owned %v", got)
	}
	if info, ok := p.Lookup(id); !ok || info.Owner != 2 || info.Region != r || info.Geometry != mib || info.Retired {
		t.Fatalf("lookup %+v", info)
	}
}

// TestReuseIsLIFO: the region returned last has the warmest pages, the one
// returned first is the first to go.
func TestReuseIsLIFO(t *testing.T) {
	l := limits(10)
	l.CacheBytes = 2 * mib.Bytes()
	p := mustNew(t, l)
	var rs [3]*fakeRegion
	var ids [3]wire.RegionID
	for i := range rs {
		ids[i], rs[i] = lease(t, p, 1, mib)
	}
	for i := range rs {
		if err := p.Return(ids[i], epoch.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if rs[0].closes != 1 || rs[1].closes != 0 || rs[2].closes != 0 {
		t.Fatalf("over the cache limit, not the oldest was closed: %+v", rs)
	}
	if id, _ := lease(t, p, 1, mib); id != ids[2] {
		t.Fatalf("reused region %d, not %d", id, ids[2])
	}
	// A region beyond the whole cache does not empty it.
	huge := shmpool.Geometry{SlotBytes: 4 << 20, Slots: 1}
	id, r := lease(t, p, 1, huge)
	if err := p.Return(id, epoch); err != nil {
		t.Fatal(err)
	}
	if r.closes != 1 || rs[1].closes != 0 {
		t.Fatal("the cache was emptied for a region that it cannot hold")
	}
}

func TestTrim(t *testing.T) {
	p := mustNew(t, limits(10))
	if _, ok := p.NextTrim(); ok {
		t.Fatal("an empty cache wants a trim")
	}
	for i := range 3 {
		if id, _ := lease(t, p, 1, mib); id != wire.RegionID(i+1) {
			t.Fatalf("region %d has id %d", i+1, id)
		}
	}
	for i := range 3 {
		if err := p.Return(wire.RegionID(i+1), epoch.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if at, ok := p.NextTrim(); !ok || !at.Equal(epoch.Add(time.Minute)) {
		t.Fatalf("next trim at %v", at)
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{time.Minute - 1, 0}, {time.Minute, 1}, {time.Minute, 0}, {time.Minute + 5*time.Second, 2}} {
		if n := p.Trim(epoch.Add(c.after)); n != c.want {
			t.Errorf("after %v: %d trimmed, want %d", c.after, n, c.want)
		}
	}
	if st := p.Stats(); st.Regions != 0 || st.UsedBytes != 0 || st.UnlinkedTotal != 3 {
		t.Errorf("%+v", st)
	}
}

func TestLimitTexts(t *testing.T) {
	l := limits(9)
	l.NodeBytes = 4 * mib.Bytes()
	l.Regions = 8
	p := mustNew(t, l)
	quarantined, _ := lease(t, p, 7, mib)
	lease(t, p, 7, mib)
	lease(t, p, 7, mib)
	if err := p.Retire(quarantined); err != nil {
		t.Fatal(err)
	}
	lease(t, p, 8, big)

	check := func(owner OwnerID, g shmpool.Geometry, want error, parts ...string) {
		t.Helper()
		before := p.Stats()
		_, err := p.Reserve(owner, g)
		var limit *LimitError
		if !errors.Is(err, want) || !errors.As(err, &limit) || limit.Owner != owner || limit.AskedBytes != g.Bytes() {
			t.Fatalf("%v, want %v", err, want)
		}
		for _, part := range parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is not in: %v", part, err)
			}
		}
		if p.Stats() != before {
			t.Errorf("a refusal changed the books: %+v", p.Stats())
		}
	}
	check(7, big, ErrNodeQuota, "it holds 3.0 MiB in 3 regions", "asks for 2.0 MiB", "may have 4.0 MiB",
		"1.0 MiB of it in 1 regions wait for receivers")
	lease(t, p, 9, mib)
	lease(t, p, 9, mib)
	lease(t, p, 9, mib)
	check(8, big, ErrGlobalLimit, "8.0 MiB of 9.0 MiB in use", "the node asks for 2.0 MiB", "the node that holds most has 3.0 MiB in 3 regions")
	small := shmpool.Geometry{SlotBytes: 4096, Slots: 1}
	lease(t, p, 9, small)
	check(8, small, ErrRegionLimit, "8 of 8 in use", "the node asks", "8 KiB")
}

// TestLimitsAreInclusive: what is exactly at a limit is allowed, one page more is
// not.
func TestLimitsAreInclusive(t *testing.T) {
	small := shmpool.Geometry{SlotBytes: 4096, Slots: 1}
	for want, change := range map[error]func(*Limits){
		ErrNodeQuota:   func(l *Limits) { l.NodeBytes = 2 * mib.Bytes() },
		ErrGlobalLimit: func(l *Limits) { l.TotalBytes = 2 * mib.Bytes(); l.NodeBytes = l.TotalBytes },
		ErrRegionLimit: func(l *Limits) { l.Regions = 2 },
	} {
		l := limits(4)
		change(&l)
		p := mustNew(t, l)
		lease(t, p, 1, mib)
		lease(t, p, 1, mib)
		owner := OwnerID(1)
		if errors.Is(want, ErrGlobalLimit) {
			owner = 2
		}
		if _, err := p.Reserve(owner, small); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

// TestRoomIsMadeFromCache: what is free is no obstacle, and is not thrown away in
// vain.
func TestRoomIsMadeFromCache(t *testing.T) {
	p := mustNew(t, limits(4))
	a, ra := lease(t, p, 1, mib)
	b, rb := lease(t, p, 1, mib)
	lease(t, p, 1, mib)
	if err := errors.Join(p.Return(a, epoch), p.Return(b, epoch)); err != nil {
		t.Fatal(err)
	}
	four := shmpool.Geometry{SlotBytes: 4 << 20, Slots: 1}
	if _, err := p.Reserve(1, four); err == nil {
		t.Fatal("past the limit")
	}
	if ra.closes+rb.closes != 0 {
		t.Fatal("free regions were closed though that was of no use")
	}
	lease(t, p, 1, big)
	if ra.closes != 1 || rb.closes != 0 {
		t.Fatal("not the oldest one, or more than needed, was closed")
	}
}

func TestWrongStates(t *testing.T) {
	p := mustNew(t, limits(10))
	l, err := p.Reserve(1, mib)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]func(wire.RegionID) error{
		"return": func(id wire.RegionID) error { return p.Return(id, epoch) }, "retire": p.Retire, "discard": p.Discard,
	}
	for name, f := range all {
		if err := f(l.ID); !errors.Is(err, ErrWrongState) {
			t.Errorf("%s of a reserved region: %v", name, err)
		}
		if err := f(99); !errors.Is(err, ErrUnknownRegion) {
			t.Errorf("%s of no region: %v", name, err)
		}
	}
	if got := p.Owned(1); len(got) != 0 || p.Owner(1).Bytes != mib.Bytes() {
		t.Errorf("reserved: owned %v, %+v", got, p.Owner(1))
	}
	p.Abort(l)
	if p.Stats().UsedBytes != 0 {
		t.Errorf("%+v after abort", p.Stats())
	}
	for name, f := range map[string]func(){
		"abort": func() { p.Abort(l) }, "commit": func() { _ = p.Commit(l, &fakeRegion{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("second %s did not panic", name)
				}
			}()
			f()
		}()
	}
	id, _ := lease(t, p, 1, mib)
	if err := p.Return(id, epoch); err != nil {
		t.Fatal(err)
	}
	for name, f := range all {
		if err := f(id); !errors.Is(err, ErrWrongState) {
			t.Errorf("%s of a cached region: %v", name, err)
		}
	}
	if _, err := p.Reserve(1, shmpool.Geometry{SlotBytes: 1, Slots: 1}); !errors.Is(err, shmpool.ErrGeometry) {
		t.Error(err)
	}
}

func TestFailures(t *testing.T) {
	failed := make(map[wire.RegionID]error)
	p, err := New(limits(10), 0, func(id wire.RegionID, err error) { failed[id] = err })
	if err != nil {
		t.Fatal(err)
	}
	id, r := lease(t, p, 1, mib)
	r.unlinkErr, r.clErr = errors.New("unlink"), errors.New("close")
	if err := p.Retire(id); !errors.Is(err, r.unlinkErr) {
		t.Fatal(err)
	}
	if err := p.Retire(id); err != nil || r.unlinks != 1 || p.Stats().RetiredRegions != 1 {
		t.Fatalf("retired again: %v, %d unlinks", err, r.unlinks)
	}
	// Returning a retired region ends it.
	if err := p.Return(id, epoch); err != nil || r.closes != 1 || p.Stats().Regions != 0 {
		t.Fatalf("%v, %d closes, %+v", err, r.closes, p.Stats())
	}
	if !maps.Equal(failed, map[wire.RegionID]error{id: r.clErr}) {
		t.Fatalf("close errors %v", failed)
	}
}

func TestCloseWithWorkInFlight(t *testing.T) {
	p := mustNew(t, limits(10))
	_, held := lease(t, p, 1, mib)
	first, err := p.Reserve(1, mib)
	if err != nil {
		t.Fatal(err)
	}
	second, err := p.Reserve(1, mib)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	p.Close()
	if held.closes != 1 {
		t.Errorf("closed %d times", held.closes)
	}
	late := &fakeRegion{}
	if err := p.Commit(first, late); !errors.Is(err, ErrClosed) || late.closes != 1 {
		t.Errorf("commit: %v, closed %d times", err, late.closes)
	}
	p.Abort(second)
	if _, err := p.Reserve(1, mib); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if st := p.Stats(); st.Regions != 0 || st.UsedBytes != 0 || st.CreatedTotal != st.UnlinkedTotal {
		t.Errorf("%+v", st)
	}
}

func TestLimitsValidate(t *testing.T) {
	for name, change := range map[string]func(*Limits){
		"total": func(l *Limits) { l.TotalBytes = 0 }, "node": func(l *Limits) { l.NodeBytes = 0 },
		"node over total": func(l *Limits) { l.NodeBytes = l.TotalBytes + 1 }, "regions": func(l *Limits) { l.Regions = 0 },
		"age": func(l *Limits) { l.CacheAge = -1 },
	} {
		l := limits(10)
		change(&l)
		if _, err := New(l, 0, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := limits(10).Validate(); err != nil {
		t.Error(err)
	}
}

func BenchmarkReserveReturn(b *testing.B) {
	p := mustNew(b, limits(10))
	lease(b, p, 1, big)
	id, _ := lease(b, p, 1, mib)
	if err := p.Return(id, epoch); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		l, err := p.Reserve(1, mib)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Return(l.ID, epoch); err != nil {
			b.Fatal(err)
		}
	}
}

// Ids name regions of all brokers there ever were on this machine, so one that is
// still in use is not given again when the numbers start over.
func TestIDs(t *testing.T) {
	p, err := New(limits(10), 0xfffffffe, nil)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := lease(t, p, 1, mib)
	if first != 0xfffffffe_00000001 {
		t.Fatalf("the first id is %#x", uint64(first))
	}
	p.lastID = 1<<32 - 2
	for _, want := range []wire.RegionID{0xfffffffe_ffffffff, 0xfffffffe_00000002} {
		if id, _ := lease(t, p, 1, mib); id != want {
			t.Fatalf("id %#x, want %#x", uint64(id), uint64(want))
		}
	}
	for _, id := range []wire.RegionID{0, first, 0xfffffffe_00000077} {
		if _, err := p.Adopt(1, id, mib); !errors.Is(err, ErrRegionExists) {
			t.Errorf("adopt %#x: %v", uint64(id), err)
		}
	}
	if _, err := p.Adopt(1, 0xffffffff_00000001, mib); err != nil {
		t.Error(err)
	}
}
