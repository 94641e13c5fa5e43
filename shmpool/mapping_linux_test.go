package shmpool

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var smallGeometry = Geometry{SlotBytes: 8192, Slots: 3}

func TestMapSharesMemory(t *testing.T) {
	name := makeRegion(t, "share", 5, smallGeometry)
	fds := openFDs(t)
	w := mustMap(t, name, 5, smallGeometry, ReadWrite)
	r := mustMap(t, name, 5, smallGeometry, ReadOnly)
	if n := openFDs(t); n != fds {
		t.Errorf("%d descriptors were kept", n-fds)
	}
	if w.Region() != 5 || w.Geometry() != smallGeometry || !w.Writable() || r.Writable() {
		t.Errorf("mapping is %+v", w)
	}
	offset := smallGeometry.SlotOffset(2)
	dst, err := w.Slice(offset, 8192)
	if err != nil {
		t.Fatal(err)
	}
	copy(dst, "hello")
	src, err := r.Slice(offset, 5)
	if err != nil || string(src) != "hello" || cap(src) != 5 {
		t.Fatalf("read %q, cap %d, %v", src, cap(src), err)
	}
	if !faults(func() { src[0] = 'H' }) {
		t.Fatal("a read-only mapping was written to")
	}
	if _, err := r.Slice(offset, 8193); !errors.Is(err, ErrBounds) {
		t.Fatalf("slice over the end: %v", err)
	}
	// The name may go; the memory stays.
	if err := os.Remove(filepath.Join(Dir, name)); err != nil {
		t.Fatal(err)
	}
	if string(src) != "hello" {
		t.Fatal("memory went with the name")
	}
	if _, err := Map(name, 5, smallGeometry, ReadOnly); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("map after unlink: %v", err)
	}
}

// faults reports whether f touches memory that it must not.
func faults(f func()) (did bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { did = recover() != nil }()
	f()
	return false
}

func TestMapClose(t *testing.T) {
	name := makeRegion(t, "close", 5, smallGeometry)
	m := mustMap(t, name, 5, smallGeometry, ReadWrite)
	b, err := m.Slice(HeaderBytes, 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Slice(HeaderBytes, 1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("slice: %v", err)
	}
	if err := m.Prefault(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("prefault: %v", err)
	}
	if !faults(func() { _ = b[0] + 1; copy(make([]byte, 1), b) }) {
		t.Error("memory is still mapped")
	}
}

func TestMapRefuses(t *testing.T) {
	g := smallGeometry
	good := makeRegion(t, "good", 5, g)
	header := make([]byte, HeaderBytes)
	EncodeHeader(header, 5, g)
	link := testPrefix + "-link"
	if err := os.Symlink(good, filepath.Join(Dir, link)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(filepath.Join(Dir, link)) })
	fifo := testPrefix + "-fifo"
	if err := unix.Mkfifo(filepath.Join(Dir, fifo), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(filepath.Join(Dir, fifo)) })

	fds := openFDs(t)
	for _, c := range []struct {
		what, name string
		id         uint64
		g          Geometry
		want       error
	}{
		{"no name", "", 5, g, ErrName},
		{"path", "../shm/" + good, 5, g, ErrName},
		{"missing", testPrefix + "-missing", 5, g, fs.ErrNotExist},
		{"symlink", link, 5, g, unix.ELOOP},
		{"FIFO", fifo, 5, g, ErrRegionFile},
		{"empty", makeObject(t, "empty", 0, nil), 5, g, ErrRegionFile},
		{"one byte short", makeObject(t, "short", int64(g.Bytes())-1, header), 5, g, ErrRegionFile},
		{"no header", makeObject(t, "blank", int64(g.Bytes()), nil), 5, g, ErrHeader},
		{"other id", good, 6, g, ErrHeader},
		{"other geometry", good, 5, Geometry{8192, 2}, ErrHeader},
		{"larger geometry", good, 5, Geometry{8192, 4}, ErrRegionFile},
		{"bad geometry", good, 5, Geometry{8191, 3}, ErrGeometry},
	} {
		for _, access := range []Access{ReadOnly, ReadLedger, ReadWrite} {
			m, err := Map(c.name, 5, c.g, access)
			if c.id != 5 {
				m, err = Map(c.name, 6, c.g, access)
			}
			if m != nil || !errors.Is(err, c.want) {
				t.Errorf("%s (%v): %v, want %v", c.what, access, err, c.want)
			}
		}
	}
	if n := openFDs(t); n != fds {
		t.Errorf("%d descriptors leaked", n-fds)
	}
}

func TestPrefault(t *testing.T) {
	g := Geometry{SlotBytes: 1 << 20, Slots: 2}
	name := makeRegion(t, "prefault", 5, g)
	for _, byHand := range []bool{false, true} {
		for _, access := range []Access{ReadWrite, ReadLedger, ReadOnly} {
			m := mustMap(t, name, 5, g, access)
			// The header has been read, and the kernel maps some pages around a fault.
			if before := resident(t, m); before > int(g.Bytes()/PageBytes/2) {
				t.Fatalf("%d pages are mapped before", before)
			}
			prefault := m.Prefault
			if byHand {
				prefault = func() error { return touch(m.data, access == ReadWrite) }
			}
			if err := prefault(); err != nil {
				t.Fatal(err)
			}
			if got, want := resident(t, m), int(g.Bytes()/PageBytes); got != want {
				t.Errorf("by hand %v, %v: %d of %d pages", byHand, access, got, want)
			}
			if err := CheckHeader(m.data, 5, g); err != nil {
				t.Error(err)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPrefaultForWriting: the first write to a page that was entered by reading is
// no fault.
func TestPrefaultForWriting(t *testing.T) {
	g := Geometry{SlotBytes: 1 << 20, Slots: 4}
	m := mustMap(t, makeRegion(t, "writing", 5, g), 5, g, ReadWrite)
	if err := m.Prefault(); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	faults := func() int64 {
		var usage unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
			t.Fatal(err)
		}
		return usage.Minflt
	}
	before := faults()
	for offset := HeaderBytes; offset < len(m.data); offset += PageBytes {
		m.data[offset]++
	}
	if n, pages := faults()-before, int64(g.Bytes()/PageBytes); n > pages/16 {
		t.Errorf("%d faults for %d pages", n, pages)
	}
}

// resident counts the pages of a mapping in this process's page tables.
func resident(t *testing.T, m *Mapping) int {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = f.Close() }()
	pages := len(m.data) / PageBytes
	entries := make([]byte, 8*pages)
	if _, err := f.ReadAt(entries, int64(addressOf(m.data)/PageBytes*8)); err != nil {
		t.Skip(err)
	}
	n := 0
	for i := range pages {
		n += int(entries[8*i+7] >> 7) // bit 63: present
	}
	return n
}

// TestShrunkRegion: a sender that cuts its region off is an error where this
// package touches the memory.
func TestShrunkRegion(t *testing.T) {
	name := makeRegion(t, "shrunk", 5, smallGeometry)
	m := mustMap(t, name, 5, smallGeometry, ReadWrite)
	if err := os.Truncate(filepath.Join(Dir, name), 0); err != nil {
		t.Fatal(err)
	}
	if err := touch(m.data, true); !errors.Is(err, ErrRegionFile) {
		t.Errorf("touch: %v", err)
	}
	if err := m.checkHeader(); !errors.Is(err, ErrRegionFile) {
		t.Errorf("header: %v", err)
	}
	if err := m.Prefault(); err == nil {
		t.Error("prefault found pages")
	}
	// Other panics are not for it to hide.
	if !panics(func() { _ = catchFault(func() error { panic("else") }) }) {
		t.Error("a panic was swallowed")
	}
}

func TestSlotsMangle(t *testing.T) {
	g := Geometry{SlotBytes: 16384, Slots: 2}
	name := makeRegion(t, "mangle", 5, g)
	m := mustMap(t, name, 5, g, ReadWrite)
	r := mustMap(t, name, 5, g, ReadOnly)
	s := NewSlots()
	if err := s.Add(5, g, m); err != nil {
		t.Fatal(err)
	}
	slot, ok := s.Take(10000)
	if !ok {
		t.Fatal("no slot")
	}
	payload := s.Payload(slot)
	if len(payload) != 16384 || cap(payload) != 16384 {
		t.Fatalf("payload has %d bytes, cap %d", len(payload), cap(payload))
	}
	copy(payload, strings.Repeat("x", 16384))
	view, err := r.Slice(slot.Offset, slot.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	s.Free(slot)
	mangled := bytes.Repeat([]byte{mangledByte}, mangledHeadBytes)
	head := bytes.Equal(view[:mangledHeadBytes], mangled)
	tail := bytes.Equal(view[16384-mangledTailBytes:], mangled[:mangledTailBytes])
	if head != Invariants || tail != Invariants {
		t.Fatalf("mangled: head %v, tail %v, invariants %v", head, tail, Invariants)
	}
	if got, err := s.Remove(5); err != nil || got != m {
		t.Fatalf("Remove: %p, %v", got, err)
	}
}

func BenchmarkMapUnmap(b *testing.B) {
	g := Geometry{SlotBytes: 1 << 20, Slots: 8}
	name := makeRegion(b, "bench", 1, g)
	b.ReportAllocs()
	for b.Loop() {
		m, err := Map(name, 1, g, ReadOnly)
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPrefault(b *testing.B) {
	g := Geometry{SlotBytes: 8 << 20, Slots: 8}
	name := makeRegion(b, "bench", 1, g)
	b.SetBytes(int64(g.Bytes()))
	for b.Loop() {
		m, err := Map(name, 1, g, ReadWrite)
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(m.Prefault(), m.Close()); err != nil {
			b.Fatal(err)
		}
	}
}
