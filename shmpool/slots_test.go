package shmpool

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/brokerd/brokerd/wire"
)

// slotsModel is Slots as one would write it without a thought for speed.
type slotsModel struct {
	slots   *Slots
	regions map[wire.RegionID]*modelRegion
	taken   []Slot
	clock   int // orders frees
	nextID  wire.RegionID
	freed   []Slot // handles that are no good any more
}

type modelRegion struct {
	geometry Geometry
	retired  bool
	slots    []modelSlot
}

type modelSlot struct {
	taken bool
	warm  int // when it was freed last; for a slot never taken, how late it comes
}

func (r *modelRegion) used() int {
	n := 0
	for _, s := range r.slots {
		if s.taken {
			n++
		}
	}
	return n
}

func (m *slotsModel) add(t *rapid.T) {
	classes := []uint64{128, 1024, 4096, 8192, 20480, 32768, 131072}
	g := Geometry{
		SlotBytes: rapid.SampledFrom(classes).Draw(t, "class"),
		Slots:     rapid.Uint32Range(1, 4).Draw(t, "slots"),
	}
	m.nextID++
	if err := m.slots.Add(m.nextID, g, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.slots.Add(m.nextID, g, nil); !errors.Is(err, ErrRegionExists) {
		t.Fatalf("second Add: %v", err)
	}
	r := &modelRegion{geometry: g}
	for k := range g.Slots {
		// Behind everything that has been freed and every region added before.
		r.slots = append(r.slots, modelSlot{warm: -int(m.nextID)*1000 - int(k)})
	}
	m.regions[m.nextID] = r
}

// pick returns the slot that Take has to return.
func (m *slotsModel) pick(n uint64) (id wire.RegionID, index int, ok bool) {
	var best modelSlot
	var bestBytes uint64
	for rid, r := range m.regions {
		if r.retired || r.geometry.SlotBytes < n || r.geometry.SlotBytes > takeWasteMax*max(SlotClass(n), PageBytes) {
			continue
		}
		for k, s := range r.slots {
			if s.taken {
				continue
			}
			if !ok || r.geometry.SlotBytes < bestBytes || r.geometry.SlotBytes == bestBytes && s.warm > best.warm {
				id, index, ok, best, bestBytes = rid, k, true, s, r.geometry.SlotBytes
			}
		}
	}
	return id, index, ok
}

func (m *slotsModel) take(t *rapid.T) {
	n := rapid.OneOf(rapid.Uint64Range(0, 40000), rapid.Uint64Range(0, 2*131072)).Draw(t, "n")
	id, index, ok := m.pick(n)
	slot, got := m.slots.Take(n)
	if got != ok {
		t.Fatalf("Take(%d): %v, want %v", n, got, ok)
	}
	if !ok {
		return
	}
	r := m.regions[id]
	want := Slot{Region: id, Index: uint32(index), Offset: r.geometry.SlotOffset(uint32(index)), Bytes: r.geometry.SlotBytes}
	slotNoGen := slot
	slotNoGen.generation = 0
	if slotNoGen != want {
		t.Fatalf("Take(%d) = %+v, want %+v", n, slot, want)
	}
	if err := r.geometry.Contains(slot.Offset, slot.Bytes); err != nil {
		t.Fatal(err)
	}
	r.slots[index].taken = true
	m.taken = append(m.taken, slot)
}

func (m *slotsModel) free(t *rapid.T) {
	if len(m.taken) == 0 {
		t.Skip("none taken")
	}
	i := rapid.IntRange(0, len(m.taken)-1).Draw(t, "which")
	slot := m.taken[i]
	m.taken = slices.Delete(m.taken, i, i+1)
	m.clock++
	r := m.regions[slot.Region]
	r.slots[slot.Index] = modelSlot{warm: m.clock}
	if drained, want := m.slots.Free(slot), r.retired && r.used() == 0; drained != want {
		t.Fatalf("Free: drained %v, want %v", drained, want)
	}
	m.freed = append(m.freed, slot)
}

func (m *slotsModel) freeAgain(t *rapid.T) {
	if len(m.freed) == 0 {
		t.Skip("none freed")
	}
	slot := rapid.SampledFrom(m.freed).Draw(t, "slot")
	if !panics(func() { m.slots.Free(slot) }) || !panics(func() { m.slots.Payload(slot) }) {
		t.Fatalf("a freed handle works: %+v", slot)
	}
}

func (m *slotsModel) draw(t *rapid.T) (wire.RegionID, *modelRegion) {
	if len(m.regions) == 0 {
		t.Skip("no regions")
	}
	var ids []wire.RegionID
	for id := range m.regions {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	id := rapid.SampledFrom(ids).Draw(t, "region")
	return id, m.regions[id]
}

func (m *slotsModel) retire(t *rapid.T) {
	id, r := m.draw(t)
	r.retired = true
	if drained, err := m.slots.Retire(id); err != nil || drained != (r.used() == 0) {
		t.Fatalf("Retire: %v, %v with %d used", drained, err, r.used())
	}
}

func (m *slotsModel) remove(t *rapid.T) {
	id, r := m.draw(t)
	_, err := m.slots.Remove(id)
	if r.used() > 0 {
		if !errors.Is(err, ErrRegionBusy) {
			t.Fatalf("Remove of a busy region: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	delete(m.regions, id)
	if _, err := m.slots.Remove(id); !errors.Is(err, ErrUnknownRegion) {
		t.Fatalf("second Remove: %v", err)
	}
	if _, err := m.slots.Retire(id); !errors.Is(err, ErrUnknownRegion) {
		t.Fatalf("Retire after Remove: %v", err)
	}
}

func (m *slotsModel) check(t *rapid.T) {
	var want SlotsStats
	var empty []wire.RegionID
	for id, r := range m.regions {
		want.Regions++
		if r.retired {
			want.RetiredRegions++
		}
		if r.used() == 0 {
			empty = append(empty, id)
		}
		want.Slots += len(r.slots)
		want.UsedSlots += r.used()
		want.Bytes += r.geometry.Bytes()
		want.UsedBytes += uint64(r.used()) * r.geometry.SlotBytes
	}
	slices.Sort(empty)
	if got := m.slots.Stats(); got != want {
		t.Fatalf("Stats %+v, want %+v", got, want)
	}
	if got := m.slots.Empty(nil); !slices.Equal(got, empty) {
		t.Fatalf("Empty %v, want %v", got, empty)
	}
	if want.UsedSlots != len(m.taken) {
		t.Fatalf("%d used, %d taken", want.UsedSlots, len(m.taken))
	}
}

func TestSlotsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &slotsModel{slots: NewSlots(), regions: make(map[wire.RegionID]*modelRegion)}
		t.Repeat(map[string]func(*rapid.T){
			"add": m.add, "take": m.take, "take2": m.take, "take3": m.take, "free": m.free, "free2": m.free,
			"freeAgain": m.freeAgain, "retire": m.retire, "remove": m.remove, "": m.check,
		})
	})
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

func TestSlotsForgedHandles(t *testing.T) {
	s := NewSlots()
	if err := s.Add(1, Geometry{4096, 2}, nil); err != nil {
		t.Fatal(err)
	}
	good, _ := s.Take(1)
	for name, slot := range map[string]Slot{
		"zero": {}, "unknown region": {Region: 9, generation: 1}, "index": {Region: 1, Index: 2, generation: 1},
		"never taken": {Region: 1, Index: 1}, "made up": {Region: 1, Index: 1, generation: 1},
	} {
		if !panics(func() { s.Free(slot) }) {
			t.Errorf("%s: no panic", name)
		}
	}
	if s.Free(good) {
		t.Error("a region that is not retired has drained")
	}
	if err := s.Add(2, Geometry{4097, 2}, nil); !errors.Is(err, ErrGeometry) {
		t.Errorf("Add: %v", err)
	}
}

func TestSlotsAllocateNothing(t *testing.T) {
	s := NewSlots()
	for id := range wire.RegionID(4) {
		if err := s.Add(id+1, Geometry{20480, 8}, nil); err != nil {
			t.Fatal(err)
		}
	}
	var slots [40]Slot
	for i := range 32 {
		slots[i], _ = s.Take(20000)
	}
	// Added while all slots are taken, the stack still has to have room for all.
	if err := s.Add(5, Geometry{20480, 8}, nil); err != nil {
		t.Fatal(err)
	}
	room := cap(s.class(20480).free)
	for _, slot := range slots[:32] {
		s.Free(slot)
	}
	if got := cap(s.class(20480).free); got != room {
		t.Fatalf("the stack grew from %d to %d slots", room, got)
	}
	round := func() {
		for i := range slots {
			slots[i], _ = s.Take(20000)
		}
		for _, slot := range slots {
			s.Free(slot)
		}
	}
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkSlotsTakeFree(b *testing.B) {
	s := NewSlots()
	for i, class := range []uint64{4096, 20480, 1 << 20, 40 << 20} {
		if err := s.Add(wire.RegionID(i+1), Geometry{class, 8}, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		slot, ok := s.Take(1 << 20)
		if !ok {
			b.Fatal("none")
		}
		s.Free(slot)
	}
}
