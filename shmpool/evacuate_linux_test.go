package shmpool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/wire"
)

const mib = 1 << 20

// moveWorld is a sender and a receiver of the same regions in one process.
type moveWorld struct {
	t      testing.TB
	cache  *Cache
	sender map[wire.RegionID]*Mapping
	names  map[wire.RegionID]string
}

func newMoveWorld(t testing.TB) *moveWorld {
	w := &moveWorld{t: t, cache: NewCache(), sender: map[wire.RegionID]*Mapping{}, names: map[wire.RegionID]string{}}
	t.Cleanup(func() {
		if err := w.cache.CloseAll(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *moveWorld) region(id wire.RegionID, g Geometry, access Access) {
	w.t.Helper()
	name := makeRegion(w.t, fmt.Sprintf("move%d", uint64(id)), id, g)
	w.names[id] = name
	w.sender[id] = mustMap(w.t, name, id, g, ReadWrite)
	if err := w.cache.Open(id, name, g, access); err != nil {
		w.t.Fatal(err)
	}
}

// write fills a slot as the sender does. The bytes tell slot and message.
func (w *moveWorld) write(id wire.RegionID, slot uint32, message uint64) {
	w.t.Helper()
	g := w.sender[id].Geometry()
	b, err := w.sender[id].Slice(g.SlotOffset(slot), g.SlotBytes)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], wordOf(id, slot, message, i))
	}
}

func wordOf(id wire.RegionID, slot uint32, message uint64, offset int) uint64 {
	return (uint64(id)<<48 ^ uint64(slot)<<32 ^ message<<24 ^ uint64(offset)) * 0x9e3779b97f4a7c15
}

// held is a message that the receiver has not released.
type heldView struct {
	region  wire.RegionID
	slot    uint32
	message uint64
	bytes   []byte
	ref     Ref
}

func (w *moveWorld) view(id wire.RegionID, slot uint32, message uint64) *heldView {
	w.t.Helper()
	g := w.sender[id].Geometry()
	b, ref, err := w.cache.View(id, g.SlotOffset(slot), g.SlotBytes)
	if err != nil {
		w.t.Fatal(err)
	}
	return &heldView{id, slot, message, b, ref}
}

// wrong returns the number of 8-byte words that are not what was sent.
func (h *heldView) wrong() (n int) {
	for i := 0; i < len(h.bytes); i += 8 {
		if binary.LittleEndian.Uint64(h.bytes[i:]) != wordOf(h.region, h.slot, h.message, i) {
			n++
		}
	}
	return n
}

// move does all steps of a Move.
func (w *moveWorld) move(h *heldView) error {
	offset := w.sender[h.region].Geometry().SlotOffset(h.slot)
	m, err := w.cache.StartMove(h.ref, offset, uint64(len(h.bytes)), 1<<40)
	if err != nil {
		return err
	}
	if err := m.Run(); err != nil {
		return errors.Join(err, w.cache.EndMove(m, false))
	}
	old := h.ref
	h.ref = m.Kept()
	return errors.Join(w.cache.EndMove(m, true), w.cache.Release(old))
}

func (w *moveWorld) mustMove(h *heldView) {
	w.t.Helper()
	if err := w.move(h); err != nil {
		w.t.Fatal(err)
	}
}

func (w *moveWorld) check(views ...*heldView) {
	w.t.Helper()
	for _, h := range views {
		if n := h.wrong(); n > 0 {
			w.t.Fatalf("region %d, slot %d, message %d: %d wrong words of %d", h.region, h.slot, h.message, n, len(h.bytes)/8)
		}
	}
}

func (w *moveWorld) release(views ...*heldView) {
	w.t.Helper()
	for _, h := range views {
		if err := w.cache.Release(h.ref); err != nil {
			w.t.Fatal(err)
		}
	}
}

// mappings counts the mappings of this process, or those of the world's regions.
func (w *moveWorld) mappings(ofRegions bool) (n int) {
	w.t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		w.t.Skip(err)
	}
	for line := range strings.Lines(string(maps)) {
		if !ofRegions || strings.Contains(line, testPrefix+"-move") {
			n++
		}
	}
	return n
}

// residentBytes is what this process has of private memory.
func residentBytes(t testing.TB) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Skip(err)
	}
	var kib uint64
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Anonymous:"); ok {
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Fatal(err)
			}
		}
	}
	return kib << 10
}

// Readers look at every byte of 64 MiB while it is moved away from under them,
// again and again, and while the sender writes other messages to the same slots.
func TestMoveUnderReaders(t *testing.T) {
	rounds := 24
	if testing.Short() {
		rounds = 4
	}
	g := Geometry{SlotBytes: 16 * mib, Slots: 4}
	w := newMoveWorld(t)
	w.region(1, g, ReadLedger)
	var passes, wrong atomic.Int64
	for round := range uint64(rounds) {
		views := make([]*heldView, g.Slots)
		for k := range g.Slots {
			w.write(1, k, round)
			views[k] = w.view(1, k, round)
		}
		stop := make(chan struct{})
		var readers sync.WaitGroup
		for r := range 2 {
			readers.Go(func() {
				for i := r; ; i++ {
					wrong.Add(int64(views[i%len(views)].wrong()))
					passes.Add(1)
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		for _, h := range views {
			w.mustMove(h)
			w.write(1, h.slot, round+1000) // the slot is the sender's again
		}
		// The readers see it all once more.
		for before := passes.Load(); passes.Load() < before+2*int64(len(views)); {
			runtime.Gosched()
		}
		close(stop)
		readers.Wait()
		w.check(views...)
		w.release(views...)
	}
	t.Logf("%d rounds, %d passes over 16 MiB, %d wrong words", rounds, passes.Load(), wrong.Load())
	if wrong.Load() != 0 {
		t.Errorf("%d wrong words", wrong.Load())
	}
	if st := w.cache.Stats(); st != (CacheStats{Regions: 1, Bytes: g.Bytes()}) {
		t.Errorf("stats %+v", st)
	}
}

// Slots smaller than a page: the page is copied once, for all its readers.
func TestMoveSharedPage(t *testing.T) {
	w := newMoveWorld(t)
	g := Geometry{SlotBytes: 128, Slots: 40} // on two pages
	w.region(1, g, ReadLedger)
	var views []*heldView
	for k := range g.Slots {
		w.write(1, k, 1)
		if k%3 != 2 {
			views = append(views, w.view(1, k, 1))
		}
	}
	for i, h := range views {
		w.mustMove(h)
		w.write(1, h.slot, 2)
		w.check(views...)
		if later := w.view(1, h.slot, 2); later.wrong() != 0 {
			t.Fatal("a later view is not of the sender's memory")
		} else if &later.bytes[0] == &h.bytes[0] {
			t.Fatal("a later view is at the same place")
		} else {
			w.release(later)
		}
		if st := w.cache.Stats(); i == 0 && (st.PrivateBytes != systemPageBytes || st.PrivatePieces != 1) {
			t.Fatalf("stats %+v", st)
		}
	}
	if st := w.cache.Stats(); st.RetiredMappings != 1 || st.PrivateBytes != 2*systemPageBytes && systemPageBytes == PageBytes {
		t.Fatalf("stats %+v", st)
	}
	for i, h := range views {
		w.release(h)
		w.check(views[i+1:]...)
	}
	if st := w.cache.Stats(); st != (CacheStats{Regions: 1, Bytes: g.Bytes()}) {
		t.Errorf("stats %+v", st)
	}
}

// A message may be held by two inputs of one node.
func TestMoveTwoViewsOfOneSlot(t *testing.T) {
	w := newMoveWorld(t)
	g := Geometry{SlotBytes: 3 * PageBytes, Slots: 2}
	w.region(1, g, ReadOnly)
	w.write(1, 1, 1)
	a, b := w.view(1, 1, 1), w.view(1, 1, 1)
	w.mustMove(a)
	if st := w.cache.Stats(); st.PrivateBytes != 3*PageBytes && systemPageBytes == PageBytes {
		t.Fatalf("stats %+v", st)
	}
	// b holds the slot in shared memory, and sees the copy. Moving it copies nothing,
	// or it would get what is there now.
	w.write(1, 1, 2)
	w.check(a, b)
	w.mustMove(b)
	w.check(a, b)
	w.release(a)
	w.check(b)
	if _, err := w.cache.StartMove(b.ref, g.SlotOffset(1), 8, 1<<30); err == nil {
		t.Error("a view was moved twice")
	}
	w.release(b)
	if st := w.cache.Stats(); st != (CacheStats{Regions: 1, Bytes: g.Bytes()}) {
		t.Errorf("stats %+v", st)
	}
}

// When all views of a mapping are moved nothing of the region is mapped any more,
// so that its memory is free when the broker unlinks it; and what was moved is
// given back with each view.
func TestMoveLetsGo(t *testing.T) {
	w := newMoveWorld(t)
	before := w.mappings(false)
	anonymous := residentBytes(t)
	g := Geometry{SlotBytes: 4 * mib, Slots: 8}
	w.region(1, g, ReadLedger)
	if n := w.mappings(true); n != 3 { // the sender's, and the receiver's with its ledger
		t.Fatalf("%d mappings", n)
	}
	var views []*heldView
	for k := range g.Slots {
		w.write(1, k, 1)
		views = append(views, w.view(1, k, 1))
	}
	if err := os.Remove(filepath.Join(Dir, w.names[1])); err != nil { // it has no name any more
		t.Fatal(err)
	}
	for _, h := range views {
		if h.ref.Ledger() == nil {
			t.Fatal("no ledger")
		}
		w.mustMove(h)
		if h.ref.Ledger() != nil {
			t.Fatal("a ledger of what was moved")
		}
	}
	if got := residentBytes(t) - anonymous; got < g.Bytes()-mib {
		t.Errorf("%d bytes of private memory for %d bytes", got, g.Bytes())
	}
	if n := w.mappings(true); n != 3 {
		t.Errorf("%d mappings of the region after the move, the retired one should have none:", n)
	}
	if err := w.cache.Close(1); err != nil {
		t.Fatal(err)
	}
	if n := w.mappings(true); n != 1 {
		t.Errorf("%d mappings after the region was closed", n)
	}
	w.check(views...)
	for i, h := range views {
		w.release(h)
		w.check(views[i+1:]...)
		want := uint64(len(views)-i-1) * g.SlotBytes
		if st := w.cache.Stats(); st.PrivateBytes != want {
			t.Errorf("stats %+v, want %d private bytes", st, want)
		}
		if got := int64(residentBytes(t)) - int64(anonymous); got > int64(want)+8*mib {
			t.Errorf("%d bytes of private memory after %d of %d were released", got, i+1, len(views))
		}
		if i+1 < len(views) && !faults(func() { copy(make([]byte, 1), h.bytes) }) {
			t.Error("what was released can be read")
		}
	}
	if err := w.sender[1].Close(); err != nil {
		t.Fatal(err)
	}
	if st := w.cache.Stats(); st != (CacheStats{}) {
		t.Errorf("stats %+v", st)
	}
	if n := w.mappings(false); n > before+2 { // the heap may have grown
		t.Errorf("%d mappings, %d before", n, before)
	}
}

// What is moved while its holder lets go of it does no harm, and costs nothing
// afterwards.
func TestMoveReleasedMeanwhile(t *testing.T) {
	w := newMoveWorld(t)
	g := Geometry{SlotBytes: 2 * PageBytes, Slots: 3}
	w.region(1, g, ReadLedger)
	w.write(1, 0, 1)
	h := w.view(1, 0, 1)
	m, err := w.cache.StartMove(h.ref, g.SlotOffset(0), g.SlotBytes, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	w.release(h)
	w.write(1, 0, 2)
	if err := m.Run(); err != nil {
		t.Fatal(err)
	}
	if err := w.cache.EndMove(m, false); err != nil {
		t.Fatal(err)
	}
	if st := w.cache.Stats(); st != (CacheStats{Regions: 1, Bytes: g.Bytes()}) {
		t.Errorf("stats %+v", st)
	}
}

func TestMoveLimits(t *testing.T) {
	w := newMoveWorld(t)
	g := Geometry{SlotBytes: 2 * PageBytes, Slots: 2}
	w.region(1, g, ReadLedger)
	w.region(2, g, ReadWrite)
	w.write(1, 0, 1)
	h := w.view(1, 0, 1)
	at := g.SlotOffset(0)
	if _, err := w.cache.StartMove(h.ref, at, 2*PageBytes, 2*PageBytes-1); !errors.Is(err, ErrMoveLimit) {
		t.Error(err)
	}
	if _, err := w.cache.StartMove(h.ref, at+g.SlotBytes, 1, 1<<30); !errors.Is(err, ErrBounds) {
		t.Error(err)
	}
	if _, err := w.cache.StartMove(h.ref, at, g.SlotBytes+1, 1<<30); !errors.Is(err, ErrBounds) {
		t.Error(err)
	}
	if _, err := w.cache.StartMove(Ref{}, at, 1, 1<<30); err == nil {
		t.Error("moved nothing")
	}
	own := w.view(2, 0, 1)
	if _, err := w.cache.StartMove(own.ref, at, 1, 1<<30); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if st := w.cache.Stats(); st.RetiredMappings != 0 || st.PrivateBytes != 0 {
		t.Errorf("stats %+v after moves that were refused", st)
	}
	// A payload that fills a part of its slot costs the pages that it touches.
	m, err := w.cache.StartMove(h.ref, at, 1, systemPageBytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(); err != nil || m.Bytes() != systemPageBytes {
		t.Fatal(m.Bytes(), err)
	}
	kept := m.Kept()
	if err := w.cache.EndMove(m, true); err != nil {
		t.Fatal(err)
	}
	w.check(h)
	w.release(h, own)
	// The rest of the slot is nobody's now.
	if !faults(func() { copy(make([]byte, 1), h.bytes[systemPageBytes:]) }) {
		t.Error("memory that nobody has a view of can be read")
	}
	if err := w.cache.Release(kept); err != nil {
		t.Fatal(err)
	}
	again := w.view(1, 0, 1)
	w.check(again)
	w.release(again)
}

// The pieces of private memory are bounded, and at the bound everything is right
// and goes back.
func TestMovePiecesMax(t *testing.T) {
	w := newMoveWorld(t)
	g := Geometry{SlotBytes: systemPageBytes, Slots: 400}
	before := w.mappings(false)
	var views []*heldView
	moved := 0
	for id := wire.RegionID(1); moved < CachePiecesMax; id++ {
		w.region(id, g, ReadOnly)
		first := len(views)
		for k := uint32(0); k < g.Slots; k += 2 { // with a gap between any two
			w.write(id, k, 1)
			views = append(views, w.view(id, k, 1))
		}
		for _, h := range views[first:] {
			if w.cache.Stats().PrivatePieces == CachePiecesMax {
				if err := w.move(h); !errors.Is(err, ErrMoveLimit) {
					t.Fatalf("one piece too many: %v", err)
				}
				continue
			}
			w.mustMove(h)
			moved++
		}
	}
	if n := w.mappings(false) - before; n > 3*CachePiecesMax {
		t.Errorf("%d mappings for %d pieces", n, CachePiecesMax)
	}
	t.Logf("%d pieces of private memory, %d mappings", moved, w.mappings(false)-before)
	w.check(views...)
	w.release(views...)
	if st := w.cache.Stats(); st.PrivatePieces != 0 || st.PrivateBytes != 0 || st.RetiredMappings != 0 {
		t.Errorf("stats %+v", st)
	}
	if err := w.cache.CloseAll(); err != nil {
		t.Fatal(err)
	}
}

// A sender that cuts its file short hurts itself and its receiver's view, but the
// move is an error and no crash.
func TestMoveOfShrunkFile(t *testing.T) {
	w := newMoveWorld(t)
	g := Geometry{SlotBytes: 4 * PageBytes, Slots: 2}
	w.region(1, g, ReadLedger)
	h := w.view(1, 0, 1)
	if err := os.Truncate(filepath.Join(Dir, w.names[1]), int64(g.SlotOffset(0))+PageBytes); err != nil {
		t.Fatal(err)
	}
	if err := w.move(h); !errors.Is(err, ErrRegionFile) {
		t.Fatalf("move: %v", err)
	}
	w.release(h)
	if st := w.cache.Stats(); st.PrivatePieces != 0 || st.PrivateBytes != 0 || st.RetiredMappings != 0 {
		t.Errorf("stats %+v", st)
	}
}

// outOfMappingsEnv makes the test a process that uses up its mappings.
const outOfMappingsEnv = "SHMPOOL_TEST_OUT_OF_MAPPINGS"

// When the process has no mapping left, a move fails and nothing has changed.
func TestMoveOutOfMappings(t *testing.T) {
	if os.Getenv(outOfMappingsEnv) == "" {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		out, err := runTest(exe, t.Name(), outOfMappingsEnv+"=1")
		if err != nil || !bytes.Contains(out, []byte("PASS")) {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	w := newMoveWorld(t)
	g := Geometry{SlotBytes: 4 * PageBytes, Slots: 4}
	w.region(1, g, ReadLedger)
	var views []*heldView
	for k := range g.Slots {
		w.write(1, k, 1)
		views = append(views, w.view(1, k, 1))
	}
	w.mustMove(views[0]) // so that the mapping is retired
	runtime.GC()         // what the heap needs it has
	limit := mapsMax(t)
	hog, err := unix.Mmap(-1, 0, 2*limit*PageBytes, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		t.Skip(err)
	}
	used := 0
	for ; used < 2*limit; used += 2 {
		if err := unix.Mprotect(hog[used*PageBytes:(used+1)*PageBytes], unix.PROT_READ); err != nil {
			break
		}
	}
	if used < limit/2 {
		t.Skipf("%d mappings, limit %d", used, limit)
	}
	failed := 0
	// Give back one after the other until the move succeeds: each step on the way
	// has failed once.
	for ; used > 0; used -= 2 {
		err := w.move(views[1])
		w.check(views...)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.ENOMEM) {
			t.Fatal(err)
		}
		failed++
		if err := unix.Mprotect(hog[(used-2)*PageBytes:(used-1)*PageBytes], unix.PROT_NONE); err != nil && err != unix.ENOMEM {
			t.Fatal(err)
		}
	}
	if failed == 0 || used <= 0 {
		t.Errorf("failed %d times, %d left", failed, used)
	}
	if err := unix.Munmap(hog); err != nil {
		t.Fatal(err)
	}
	for _, h := range views[2:] {
		w.mustMove(h)
	}
	for k := range g.Slots {
		w.write(1, k, 2)
	}
	w.check(views...)
	w.release(views...)
	fmt.Printf("failed %d times for want of mappings, then moved\n", failed)
}
