package shmpool

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/brokerd/brokerd/wire"
)

// fillSlot0 makes the start of slot 0 say which region it is.
func fillSlot0(tb testing.TB, name string, id wire.RegionID, g Geometry) string {
	tb.Helper()
	m := mustMap(tb, name, id, g, ReadWrite)
	b, err := m.Slice(HeaderBytes, 32)
	if err != nil {
		tb.Fatal(err)
	}
	text := fmt.Sprintf("this is region %-8d", uint64(id))
	copy(b, text)
	return text
}

func TestCacheViews(t *testing.T) {
	g := smallGeometry
	name := makeRegion(t, "cache", 7, g)
	text := fillSlot0(t, name, 7, g)
	c := NewCache()
	if _, _, err := c.View(7, HeaderBytes, 1); !errors.Is(err, ErrUnknownRegion) {
		t.Fatalf("view before open: %v", err)
	}
	for range 2 { // again is fine
		if err := c.Open(7, name, g, ReadOnly); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Open(7, name, Geometry{8192, 2}, ReadOnly); !errors.Is(err, ErrRegionExists) {
		t.Fatalf("open with another geometry: %v", err)
	}
	if err := c.Open(8, testPrefix+"-missing", g, ReadOnly); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open of nothing: %v", err)
	}
	b, ref, err := c.View(7, HeaderBytes, uint64(len(text)))
	if err != nil || string(b) != text || cap(b) != len(text) {
		t.Fatalf("view %q, cap %d, %v", b, cap(b), err)
	}
	if st := c.Stats(); st != (CacheStats{Regions: 1, Views: 1, Bytes: g.Bytes()}) {
		t.Fatalf("stats %+v", st)
	}

	// Closed, the region is gone for new views and stays for this one.
	if err := c.Close(7); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(7); !errors.Is(err, ErrUnknownRegion) {
		t.Fatalf("second close: %v", err)
	}
	if _, _, err := c.View(7, HeaderBytes, 1); !errors.Is(err, ErrUnknownRegion) {
		t.Fatalf("view after close: %v", err)
	}
	if st := c.Stats(); st != (CacheStats{ClosingRegions: 1}) {
		t.Fatalf("stats %+v", st)
	}
	if string(b) != text {
		t.Fatal("the view is gone")
	}
	if err := c.Release(ref); err != nil {
		t.Fatal(err)
	}
	if !faults(func() { copy(make([]byte, 1), b) }) {
		t.Fatal("the region is still mapped")
	}
	if st := c.Stats(); st != (CacheStats{}) {
		t.Fatalf("stats %+v", st)
	}
	if !panics(func() { _ = c.Release(ref) }) {
		t.Fatal("a view was released twice")
	}
	if err := c.Release(Ref{}); err != nil {
		t.Fatal(err)
	}
}

func TestCacheHostileRanges(t *testing.T) {
	g := smallGeometry
	c := NewCache()
	if err := c.Open(7, makeRegion(t, "hostile", 7, g), g, ReadOnly); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]uint64{
		{0, 1}, {0, 4096}, {4095, 1}, {4095, 2}, {HeaderBytes, 8193}, {HeaderBytes + 8191, 2}, {HeaderBytes, math.MaxUint64},
		{g.Bytes(), 0}, {g.Bytes(), 1}, {g.Bytes() - 1, 2}, {math.MaxUint64, 1}, {math.MaxUint64, math.MaxUint64},
		{HeaderBytes + 1, math.MaxUint64}, {1 << 63, 1 << 63}, {math.MaxUint64 - 4095, 8192},
	} {
		if b, ref, err := c.View(7, r[0], r[1]); !errors.Is(err, ErrBounds) || b != nil || ref != (Ref{}) {
			t.Errorf("%d bytes at %d: %d bytes, %v", r[1], r[0], len(b), err)
		}
	}
	if st := c.Stats(); st.Views != 0 {
		t.Errorf("%d views are left", st.Views)
	}
	if err := c.CloseAll(); err != nil {
		t.Fatal(err)
	}
}

func TestCacheLimit(t *testing.T) {
	g := Geometry{4096, 1}
	name := makeRegion(t, "limit", 1, g)
	c := NewCache()
	if err := c.Open(1, name, g, ReadOnly); err != nil {
		t.Fatal(err)
	}
	// Entries without mappings; the limit counts closed ones that are held, too.
	for id := wire.RegionID(2); id < CacheRegionsMax; id++ {
		c.regions[id] = &cachedRegion{mapping: &Mapping{id: id}}
	}
	_, ref, err := c.View(1, HeaderBytes, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(1); err != nil {
		t.Fatal(err)
	}
	if err := c.Open(1, name, g, ReadOnly); err != nil {
		t.Fatal(err)
	}
	if err := c.Open(CacheRegionsMax+1, name, g, ReadOnly); !errors.Is(err, ErrTooManyRegions) {
		t.Fatalf("one too many: %v", err)
	}
	if err := errors.Join(c.Release(ref), c.CloseAll()); err != nil {
		t.Fatal(err)
	}
}

// TestCacheModel opens, views, releases and closes at random, and checks that
// every view reads what its region holds for as long as it is held.
func TestCacheModel(t *testing.T) {
	const regions = 4
	g := Geometry{4096, 1}
	var names, texts [regions]string
	for i := range regions {
		id := wire.RegionID(i + 1)
		names[i] = makeRegion(t, fmt.Sprintf("model%d", i), id, g)
		texts[i] = fillSlot0(t, names[i], id, g)
	}
	before := mappings(t)
	rapid.Check(t, func(t *rapid.T) {
		type view struct {
			bytes []byte
			ref   Ref
			text  string
			era   int
		}
		c := NewCache()
		open := make(map[wire.RegionID]bool)
		var eras [regions + 1]int
		var views []view
		pick := func(t *rapid.T) wire.RegionID { return wire.RegionID(rapid.IntRange(1, regions).Draw(t, "region")) }
		closeOne := func(id wire.RegionID) {
			open[id] = false
			eras[id]++
		}
		release := func(t *rapid.T, i int) {
			if err := c.Release(views[i].ref); err != nil {
				t.Fatal(err)
			}
			views = append(views[:i], views[i+1:]...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				id := pick(t)
				if err := c.Open(id, names[id-1], g, ReadOnly); err != nil {
					t.Fatal(err)
				}
				open[id] = true
			},
			"view": func(t *rapid.T) {
				id := pick(t)
				b, ref, err := c.View(id, HeaderBytes, uint64(len(texts[id-1])))
				if (err == nil) != open[id] {
					t.Fatalf("view of region %d: %v, open %v", id, err, open[id])
				}
				if err == nil {
					views = append(views, view{b, ref, texts[id-1], eras[id]})
				}
			},
			"release": func(t *rapid.T) {
				if len(views) == 0 {
					t.Skip()
				}
				release(t, rapid.IntRange(0, len(views)-1).Draw(t, "view"))
			},
			"close": func(t *rapid.T) {
				id := pick(t)
				if err := c.Close(id); (err == nil) != open[id] {
					t.Fatalf("close of region %d: %v, open %v", id, err, open[id])
				}
				if open[id] {
					closeOne(id)
				}
			},
			"closeAll": func(t *rapid.T) {
				if err := c.CloseAll(); err != nil {
					t.Fatal(err)
				}
				for id, is := range open {
					if is {
						closeOne(id)
					}
				}
			},
			"": func(t *rapid.T) {
				closing := make(map[*cachedRegion]bool)
				held := 0
				for _, v := range views {
					if string(v.bytes) != v.text {
						t.Fatalf("a view reads %q, not %q", v.bytes, v.text)
					}
					if v.era != eras[v.ref.region.mapping.id] {
						closing[v.ref.region] = true
					} else {
						held++
					}
				}
				if st := c.Stats(); st.ClosingRegions != len(closing) || st.Views != held {
					t.Fatalf("stats %+v, want %d closing and %d views", st, len(closing), held)
				}
			},
		})
		for len(views) > 0 {
			release(t, 0)
		}
		if err := c.CloseAll(); err != nil {
			t.Fatal(err)
		}
		if st := c.Stats(); st != (CacheStats{}) {
			t.Fatalf("stats %+v at the end", st)
		}
	})
	if after := mappings(t); after != before {
		t.Fatalf("%d mappings of the test's regions before, %d after", before, after)
	}
}

// mappings counts this process's mappings of the test's objects.
func mappings(tb testing.TB) int {
	tb.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		tb.Skip(err)
	}
	n := 0
	for i := range maps {
		if prefix := filepath.Join(Dir, testPrefix); len(maps)-i >= len(prefix) && string(maps[i:i+len(prefix)]) == prefix {
			n++
		}
	}
	return n
}

func newBenchCache(tb testing.TB) *Cache {
	tb.Helper()
	g := Geometry{SlotBytes: 1 << 20, Slots: 4}
	c := NewCache()
	for id := wire.RegionID(1); id <= 2; id++ {
		if err := c.Open(id, makeRegion(tb, fmt.Sprintf("bench%d", id), id, g), g, ReadOnly); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(func() {
		if err := c.CloseAll(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

func TestCacheAllocatesNothing(t *testing.T) {
	c := newBenchCache(t)
	n := testing.AllocsPerRun(100, func() {
		for id := wire.RegionID(1); id <= 2; id++ {
			_, ref, err := c.View(id, HeaderBytes, 1000)
			if err != nil || c.Release(ref) != nil {
				t.Fatal(err)
			}
		}
	})
	if n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkCacheView(b *testing.B) {
	for _, regions := range []wire.RegionID{1, 2} { // the same again; in turns
		b.Run(fmt.Sprintf("regions=%d", regions), func(b *testing.B) {
			c := newBenchCache(b)
			b.ReportAllocs()
			for i := wire.RegionID(0); b.Loop(); i++ {
				_, ref, err := c.View(1+i%regions, HeaderBytes+1<<20, 1<<20)
				if err != nil {
					b.Fatal(err)
				}
				if err := c.Release(ref); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
