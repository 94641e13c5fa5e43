package actors

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/brokerd/brokerd/wire"
)

// TestScribbledLanes plays two nodes that write anything into the memory of their
// lanes, and say anything of them. The router may cut them off; it must neither
// fail nor lose count of what it believed, and in the end nothing may be left over.
func TestScribbledLanes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newLaneModel(rt)
		m.warm()
		w := m.w
		word := rapid.OneOf(rapid.Uint64(), rapid.Uint64Max(70), rapid.SampledFrom([]uint64{1 << 31, 1 << 32, 1<<32 - 1, 1 << 63, 1<<63 + 3, 1<<64 - 1}))
		id := func() wire.RegionID { return wire.RegionID(rapid.Uint64Max(uint64(w.last)+1).Draw(rt, "id")) }
		conn := func() ConnID { return ConnID(rapid.IntRange(1, 3).Draw(rt, "conn")) }
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) { w.t, m.t = rt, rt; w.core.check(rt) },
			"scribble": func(rt *rapid.T) {
				words := w.words[id()]
				if len(words) == 0 {
					rt.Skip("no lane")
				}
				words[rapid.IntRange(0, min(len(words), 80)-1).Draw(rt, "word")] = word.Draw(rt, "value")
			},
			"wait": func(rt *rapid.T) { w.play("wait 300ms", "") },
			"node": func(rt *rapid.T) {
				for _, node := range keys(m.peers) {
					if p := m.peers[node]; !p.closed {
						p.transmit(len(p.outbox))
					}
				}
				for m.answer(false) {
				}
			},
			"say": func(rt *rapid.T) {
				w.say(conn(), rapid.SampledFrom([]wire.Message{
					&wire.LaneReady{Lane: id(), Text: rapid.SampledFrom([]string{"", "no"}).Draw(rt, "text")},
					&wire.LaneStart{Lane: id()},
					&wire.LaneDone{Lane: id()},
					&wire.LaneFault{Lane: id(), Reason: wire.DropBadDescriptor, Count: word.Draw(rt, "count"), SeqLast: wire.Seq(word.Draw(rt, "last"))},
					&wire.LaneFault{Lane: id(), Text: "broken"},
					&wire.LaneHeld{Lane: id(), Region: id(), Count: 1},
					&wire.Publish{Seq: 1, Lanes: word.Draw(rt, "lanes")},
					&wire.Adopt{Lanes: []wire.AdoptLane{{Lane: id(), QueueSize: 4}}},
				}).Draw(rt, "message"))
				w.play("flush", "")
			},
			"reload": m.reload,
		})
		for conn := range ConnID(3) {
			w.play("close "+string(rune('1'+conn)), "")
		}
		w.play("wait 1s", "")
		for m.answer(false) {
		}
		c := w.core
		c.check(rt)
		if len(c.lanes)+len(c.regions)+len(c.asked) > 0 || c.busy() {
			rt.Fatalf("left over: %d lanes, %d regions, %d questions, busy %v", len(c.lanes), len(c.regions), len(c.asked), c.busy())
		}
	})
}
