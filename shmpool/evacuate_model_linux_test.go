package shmpool

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/brokerd/brokerd/wire"
)

func runTest(exe, name, env string) ([]byte, error) {
	cmd := exec.Command(exe, "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), env)
	return cmd.CombinedOutput()
}

func mapsMax(t testing.TB) int {
	b, err := os.ReadFile("/proc/sys/vm/max_map_count")
	if err != nil {
		t.Skip(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n > 1<<18 {
		t.Skip("no limit that could be reached: ", n, err)
	}
	return n
}

// Any order of views, moves, releases, closed and opened regions: what is held is
// right, slots that nobody holds are the sender's, and nothing is left behind.
func TestMoveModel(t *testing.T) {
	geometries := []Geometry{{128, 70}, {2048, 5}, {PageBytes, 6}, {5 * PageBytes, 4}}
	rapid.Check(t, func(rt *rapid.T) {
		w := newMoveWorld(t)
		var held []*heldView
		message := uint64(1)
		holders := map[wire.RegionID]map[uint32]int{} // of slots in shared memory
		inSlot := map[wire.RegionID]map[uint32]uint64{}
		moved := map[*heldView]bool{}
		open := map[wire.RegionID]bool{}
		for i, g := range geometries {
			id := wire.RegionID(i + 1)
			w.region(id, g, []Access{ReadLedger, ReadOnly}[i%2])
			holders[id], inSlot[id], open[id] = map[uint32]int{}, map[uint32]uint64{}, true
		}
		defer func() { // names are used again
			for id, m := range w.sender {
				_ = m.Close()
				_ = os.Remove(Dir + "/" + w.names[id])
			}
		}()
		pick := func(rt *rapid.T) *heldView {
			if len(held) == 0 {
				rt.Skip("nothing is held")
			}
			return held[rapid.IntRange(0, len(held)-1).Draw(rt, "held")]
		}
		letGo := func(h *heldView) {
			if !moved[h] {
				holders[h.region][h.slot]--
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"receive": func(rt *rapid.T) {
				id := wire.RegionID(rapid.IntRange(1, len(geometries)).Draw(rt, "region"))
				if !open[id] {
					return
				}
				slot := uint32(rapid.IntRange(0, int(geometries[id-1].Slots)-1).Draw(rt, "slot"))
				if holders[id][slot] == 0 { // free: the sender writes
					message++
					w.write(id, slot, message)
					inSlot[id][slot] = message
				}
				held = append(held, w.view(id, slot, inSlot[id][slot]))
				holders[id][slot]++
			},
			"move": func(rt *rapid.T) {
				h := pick(rt)
				if moved[h] {
					return
				}
				w.mustMove(h)
				letGo(h)
				moved[h] = true
			},
			"moveWhileReleased": func(rt *rapid.T) {
				h := pick(rt)
				if moved[h] {
					return
				}
				g := geometries[h.region-1]
				m, err := w.cache.StartMove(h.ref, g.SlotOffset(h.slot), g.SlotBytes, 1<<30)
				if err != nil {
					rt.Fatal(err)
				}
				letGo(h)
				w.release(h)
				held = remove(held, h)
				if holders[h.region][h.slot] == 0 {
					message++
					w.write(h.region, h.slot, message)
					inSlot[h.region][h.slot] = message
				}
				if err := m.Run(); err != nil {
					rt.Fatal(err)
				}
				if used := rapid.Bool().Draw(rt, "used"); used {
					// The one who took it has let go of it before the end.
					if err := errors.Join(w.cache.Release(m.Kept()), w.cache.EndMove(m, true)); err != nil {
						rt.Fatal(err)
					}
				} else if err := w.cache.EndMove(m, false); err != nil {
					rt.Fatal(err)
				}
			},
			"release": func(rt *rapid.T) {
				h := pick(rt)
				letGo(h)
				w.release(h)
				held = remove(held, h)
			},
			"close": func(rt *rapid.T) {
				id := wire.RegionID(rapid.IntRange(1, len(geometries)).Draw(rt, "region"))
				if open[id] {
					if err := w.cache.Close(id); err != nil {
						rt.Fatal(err)
					}
				} else if err := w.cache.Open(id, w.names[id], geometries[id-1], ReadLedger); err != nil {
					rt.Fatal(err)
				}
				open[id] = !open[id]
			},
			"": func(rt *rapid.T) {
				pages := map[uintptr]bool{}
				for _, h := range held {
					if n := h.wrong(); n > 0 {
						rt.Fatalf("region %d slot %d message %d: %d wrong words (moved %v)", h.region, h.slot, h.message, n, moved[h])
					}
					if moved[h] {
						first := addressOf(h.bytes) / uintptr(systemPageBytes)
						last := (addressOf(h.bytes) + uintptr(len(h.bytes)) - 1) / uintptr(systemPageBytes)
						for p := first; p <= last; p++ {
							pages[p] = true
						}
					}
				}
				// Pages that were moved for somebody stay for those who share them.
				if got, least := w.cache.Stats().PrivateBytes, uint64(len(pages))*systemPageBytes; got < least {
					rt.Fatalf("%d private bytes, %d are in use", got, least)
				}
			},
		})
		w.release(held...)
		if err := w.cache.CloseAll(); err != nil {
			rt.Fatal(err)
		}
		if st := w.cache.Stats(); st != (CacheStats{}) {
			rt.Fatalf("stats %+v", st)
		}
		for _, m := range w.sender {
			if err := m.Close(); err != nil {
				rt.Fatal(err)
			}
		}
		if n := w.mappings(true); n != 0 {
			rt.Fatalf("%d mappings are left", n)
		}
	})
}

func remove(all []*heldView, h *heldView) []*heldView {
	for i := range all {
		if all[i] == h {
			return append(all[:i], all[i+1:]...)
		}
	}
	return all
}

func TestPageSet(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const n = 300
		var s pageSet
		s.grow(n)
		model := make([]bool, n)
		for range rapid.IntRange(0, 20).Draw(rt, "changes") {
			first := rapid.Uint64Range(0, n-1).Draw(rt, "first")
			run := pageRun{first, rapid.Uint64Range(0, n-first).Draw(rt, "count")}
			in := rapid.Bool().Draw(rt, "in")
			s.set(run, in)
			for p := run.first; p < run.first+run.count; p++ {
				model[p] = in
			}
		}
		first := rapid.Uint64Range(0, n).Draw(rt, "bounds")
		bounds := pageRun{first, rapid.Uint64Range(0, n+100-first).Draw(rt, "length")}
		for _, in := range []bool{true, false} {
			seen := map[uint64]bool{}
			end := bounds.first
			for i, run := range s.runs(bounds, in) {
				if run.count == 0 || i > 0 && run.first <= end || run.first+run.count > bounds.first+bounds.count {
					rt.Fatalf("run %v behind %d in %v", run, end, bounds)
				}
				end = run.first + run.count
				for p := run.first; p < end; p++ {
					seen[p] = true
				}
			}
			for p := bounds.first; p < bounds.first+bounds.count; p++ {
				if want := (p < n && model[p]) == in; seen[p] != want || s.has(p) != (p < n && model[p]) {
					rt.Fatalf("page %d: in runs(%v) %v, has %v", p, in, seen[p], s.has(p))
				}
			}
		}
	})
}
