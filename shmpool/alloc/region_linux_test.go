package alloc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

func statObject(t *testing.T, name string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(shmpool.Dir, name), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestCreate(t *testing.T) {
	eachBackend(t, func(t *testing.T, a *Allocator) {
		// The mode is exact whatever the umask takes away.
		defer unix.Umask(unix.Umask(0o777))
		r := mustCreate(t, a, 0x2a, smallGeometry)
		if want := testPrefix + "-" + a.Instance() + "-2a-"; !strings.HasPrefix(r.Name(), want) || len(r.Name()) != len(want)+16 {
			t.Errorf("name %q, want %s and 16 digits", r.Name(), want)
		}
		st := statObject(t, r.Name())
		if st.Mode != unix.S_IFREG|0o600 {
			t.Errorf("mode %#o", st.Mode)
		}
		if size := uint64(st.Size); size != smallGeometry.Bytes() || uint64(st.Blocks)*512 < size {
			t.Errorf("%d bytes, %d blocks", st.Size, st.Blocks)
		}
		w, err := shmpool.Map(r.Name(), 0x2a, smallGeometry, shmpool.ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = w.Close() }()
		offset := smallGeometry.SlotOffset(3)
		b, err := w.Slice(offset, 20480)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, make([]byte, 20480)) {
			t.Error("not zeroed")
		}
		copy(b, "hello")
		got := make([]byte, 5)
		if _, err := r.ReadAt(got, int64(offset)); err != nil || string(got) != "hello" {
			t.Errorf("read %q, %v", got, err)
		}
		if r.ID() != 0x2a || r.Geometry() != smallGeometry {
			t.Errorf("id %d, geometry %v", r.ID(), r.Geometry())
		}
	})
}

func TestCreateForGroup(t *testing.T) {
	cfg := testConfig
	cfg.Mode, cfg.GID = GroupMode, os.Getegid()
	if os.Geteuid() == 0 {
		cfg.GID = 12345 // root may give any
	}
	a := mustOpenWith(t, cfg)
	r := mustCreate(t, a, 1, smallGeometry)
	probe, _, _ := a.Probe()
	for name, mode := range map[string]uint32{r.Name(): 0o660, probe: 0o640} {
		if st := statObject(t, name); st.Mode&0o7777 != mode || int(st.Gid) != cfg.GID {
			t.Errorf("%s: mode %#o, group %d, want %#o, %d", name, st.Mode&0o7777, st.Gid, mode, cfg.GID)
		}
	}
}

// TestDescriptors: one per region, one more only while a region that has a name
// is being read.
func TestDescriptors(t *testing.T) {
	eachBackend(t, func(t *testing.T, a *Allocator) {
		pure := a.backend.name == pureBackend.name
		r := mustCreate(t, a, 1, smallGeometry)
		check := func(when string, wantFDs, wantMappings int) {
			t.Helper()
			if pure {
				wantFDs, wantMappings = min(wantFDs, 1), 0
			}
			if fds, mappings := holds(t, r.Name()); fds != wantFDs || mappings != wantMappings {
				t.Errorf("%s: %d descriptors, %d mappings, want %d, %d", when, fds, mappings, wantFDs, wantMappings)
			}
		}
		check("created", 1, 1)
		if _, err := r.ReadAt(make([]byte, 1), 0); err != nil {
			t.Fatal(err)
		}
		check("read", RegionFDs, 1)
		r.Rest()
		check("at rest", 1, 1)
		if _, err := r.ReadAt(make([]byte, 1), 0); err != nil {
			t.Fatal(err)
		}
		check("read again", RegionFDs, 1)
		if err := r.Unlink(); err != nil {
			t.Fatal(err)
		}
		check("unlinked", 1, 0)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		check("closed", 0, 0)
	})
}

func TestReadAt(t *testing.T) {
	eachBackend(t, func(t *testing.T, a *Allocator) {
		r := mustCreate(t, a, 1, smallGeometry)
		size := int64(smallGeometry.Bytes())
		buf := make([]byte, 8192)
		for _, c := range []struct {
			offset int64
			n      int
			want   error
		}{
			{0, 8192, nil}, {size - 8192, 8192, nil}, {size - 100, 100, io.EOF}, {size, 0, io.EOF}, {math.MaxInt64, 0, io.EOF},
			{-1, 0, unix.EINVAL},
		} {
			if n, err := r.ReadAt(buf, c.offset); n != c.n || !errors.Is(err, c.want) {
				t.Errorf("at %d: %d, %v, want %d, %v", c.offset, n, err, c.n, c.want)
			}
		}
		// A node that shrinks the region cannot hurt the broker.
		if err := os.Truncate(filepath.Join(shmpool.Dir, r.Name()), 4096+100); err != nil {
			t.Fatal(err)
		}
		if n, err := r.ReadAt(buf, 4096); n != 100 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("shrunk: %d, %v", n, err)
		}
		if n, err := r.ReadAt(buf, 8192); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("behind the cut: %d, %v", n, err)
		}
		if err := r.Unlink(); err != nil {
			t.Fatal(err)
		}
		if n, err := r.ReadAt(buf[:4096], 0); n != 4096 || err != nil {
			t.Errorf("unlinked: %d, %v", n, err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.ReadAt(buf, 0); !errors.Is(err, os.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}

// TestReadOfReplacedFile: a file that was put in the region's place is not read.
func TestReadOfReplacedFile(t *testing.T) {
	a := mustOpen(t)
	if a.backend.name == pureBackend.name {
		t.Skip("it has the right file open")
	}
	r := mustCreate(t, a, 1, smallGeometry)
	path := filepath.Join(shmpool.Dir, r.Name())
	if err := errors.Join(os.Remove(path), os.WriteFile(path, make([]byte, smallGeometry.Bytes()), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(make([]byte, 1), 0); err == nil {
		t.Fatal("read another file")
	}
}

func TestUnlinkAndClose(t *testing.T) {
	eachBackend(t, func(t *testing.T, a *Allocator) {
		r := mustCreate(t, a, 1, smallGeometry)
		m, err := shmpool.Map(r.Name(), 1, smallGeometry, shmpool.ReadOnly)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = m.Close() }()
		for range 2 {
			if err := r.Unlink(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := shmpool.Map(r.Name(), 1, smallGeometry, shmpool.ReadOnly); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("map after unlink: %v", err)
		}
		if err := a.Close(); !errors.Is(err, ErrRegionsOpen) {
			t.Errorf("allocator closed before its region: %v", err)
		}
		for range 2 {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		b, err := m.Slice(shmpool.HeaderBytes, 1)
		if err != nil || b[0] != 0 {
			t.Errorf("the node's mapping: %v, %v", b, err)
		}
		// Somebody else may have removed the name; that is no reason to fail.
		r = mustCreate(t, a, 2, smallGeometry)
		if err := os.Remove(filepath.Join(shmpool.Dir, r.Name())); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("close of a region whose name is gone: %v", err)
		}
		for range 2 {
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.Create(3, smallGeometry); !errors.Is(err, os.ErrClosed) {
			t.Errorf("create after close: %v", err)
		}
	})
}

func TestRegionConcurrency(t *testing.T) {
	eachBackend(t, func(t *testing.T, a *Allocator) {
		for id := range wire.RegionID(20) {
			r := mustCreate(t, a, id, smallGeometry)
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					buf := make([]byte, 20480)
					for range 20 {
						n, err := r.ReadAt(buf, shmpool.HeaderBytes)
						// Not ErrNotExist: Unlink opens what it takes the name of.
						if n != len(buf) && !errors.Is(err, os.ErrClosed) {
							t.Errorf("%d, %v", n, err)
						}
					}
				})
			}
			wg.Go(func() {
				for range 20 {
					r.Rest()
				}
			})
			wg.Go(func() {
				if err := r.Unlink(); err != nil {
					t.Error(err)
				}
			})
			if id%2 == 0 {
				wg.Go(func() {
					if err := r.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
	})
}

// TestCreateConcurrently: the pool's workers create several at a time.
func TestCreateConcurrently(t *testing.T) {
	eachBackend(t, func(t *testing.T, a *Allocator) {
		var wg sync.WaitGroup
		for id := range wire.RegionID(16) {
			wg.Go(func() {
				r, err := a.Create(id, smallGeometry)
				if err != nil {
					t.Error(err)
					return
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if left := objects(t); len(left) != 1 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestLongRegions: what does not fit an int32 is not given to hidez8891/shm.
func TestLongRegions(t *testing.T) {
	a := mustOpen(t)
	short, long := shmpool.Geometry{SlotBytes: 1 << 30, Slots: 1}, shmpool.Geometry{SlotBytes: 1 << 30, Slots: 2}
	if got := a.backendFor(short); got.name != defaultBackend.name {
		t.Errorf("%v goes to %s", short, got.name)
	}
	if got := a.backendFor(long); got.name != pureBackend.name {
		t.Errorf("%v goes to %s", long, got.name)
	}
	if a.Backend() != defaultBackend.name {
		t.Errorf("backend %s", a.Backend())
	}
	for _, g := range []shmpool.Geometry{{}, {SlotBytes: 1 << 30, Slots: 64}, {SlotBytes: 5000, Slots: 1}} {
		if _, err := a.Create(1, g); !errors.Is(err, shmpool.ErrGeometry) {
			t.Errorf("%v: %v", g, err)
		}
	}
}

// TestVerify: what hidez8891/shm hides is found.
func TestVerify(t *testing.T) {
	eachBackend(t, func(t *testing.T, a *Allocator) {
		const size = 8192
		header := bytes.Repeat([]byte("header"), 10)
		for _, c := range []struct {
			what   string
			damage func(path string) error
			fine   bool
		}{
			{"nothing", func(string) error { return nil }, true},
			{"unlinked", os.Remove, false}, // as after a failed mmap
			{"replaced", func(path string) error {
				return errors.Join(os.Remove(path), os.WriteFile(path, make([]byte, size), 0o600))
			}, false},
			{"longer", func(path string) error { return os.Truncate(path, size+1) }, false},
		} {
			o, err := createObject(fmt.Sprintf("%s-verify", testPrefix))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(o.allocate(size), o.writeAt(header, 0)); err != nil {
				t.Fatal(err)
			}
			h, err := a.backend.hold(o, size)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.damage(o.path); err != nil {
				t.Fatal(err)
			}
			if err := h.verify(o, header, size); (err == nil) != c.fine {
				t.Errorf("%s: %v", c.what, err)
			}
			if err := errors.Join(h.unlink(), o.close()); err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
		}
	})
}

func BenchmarkCreateClose(b *testing.B) {
	for _, backend := range []backend{defaultBackend, pureBackend} {
		for _, g := range []shmpool.Geometry{{SlotBytes: 4096, Slots: 8}, {SlotBytes: 1 << 20, Slots: 8}, {SlotBytes: 40 << 20, Slots: 4}} {
			b.Run(fmt.Sprintf("%s/%v", strings.ReplaceAll(backend.name, "/", "-"), g), func(b *testing.B) {
				a := mustOpen(b)
				a.backend = backend
				b.SetBytes(int64(g.Bytes()))
				for b.Loop() {
					r, err := a.Create(1, g)
					if err != nil {
						b.Fatal(err)
					}
					if err := r.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
