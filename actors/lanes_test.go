package actors

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// laneEnds is what the two nodes of a lane do with its memory.
type laneEnds struct {
	producer *lane.Producer
	consumer *lane.Consumer
}

// lane returns the nodes' ends of a lane.
func (w *world) lane(id wire.RegionID) *laneEnds {
	if w.ends[id] == nil {
		l := w.core.lanes[id]
		if l == nil {
			w.t.Fatalf("there is no lane %d", id)
		}
		p, err := lane.NewProducer(w.words[id], l.cfg)
		if err != nil {
			w.t.Fatal(err)
		}
		c, err := lane.NewConsumer(w.words[id], l.cfg)
		if err != nil {
			w.t.Fatal(err)
		}
		w.ends[id] = &laneEnds{p, c}
	}
	return w.ends[id]
}

// answerLane is the pool giving memory for a lane or a bell, or taking over what
// it knows of.
func (w *world) answerLane(rep *poolReply, deny string) {
	if rep.kind == poolAdopt {
		if rep.words = w.words[rep.region]; rep.words == nil && rep.mapped {
			deny = "no such region"
		}
		rep.name = "new-" + rep.oldName
	} else {
		w.last++
		rep.region, rep.name = w.last, fmt.Sprintf("r%d", w.last)
		rep.words = make([]uint64, rep.geometry.SlotBytes/8)
		w.words[rep.region] = rep.words
		delete(w.ends, rep.region)
	}
	if deny != "" {
		rep.err = errors.New(deny)
	}
	if rep.kind == poolAdopt {
		w.core.takenOver(w.now, rep)
	} else {
		w.core.memoryGranted(w.now, rep)
	}
}

func (a args) id(key string) wire.RegionID { return wire.RegionID(a.num(key)) }

func init() {
	maps.Copy(handlers, map[string]func(w *world, a args, body string){
		"start": func(w *world, a args, _ string) { w.start(a[0], true) }, // start INSTANCE: a broker that grants lanes
		"answers": func(w *world, a args, _ string) { // answers: the pool answers all it was asked
			for w.asked() || len(w.core.poolOut) > 0 {
				w.pool = append(w.pool, w.core.poolOut...)
				w.core.poolOut = nil
				handlers["answer"](w, a, "")
			}
		},
		"lane": func(w *world, a args, _ string) { // lane SENDER RECEIVER id=N: all steps from grant to flow
			sender, receiver, id := a.conn(), args(a[1:]).conn(), a.id("id")
			handlers["answers"](w, a, "")
			w.say(receiver, &wire.LaneReady{Lane: id})
			w.say(sender, &wire.LaneReady{Lane: id})
			w.say(sender, &wire.LaneStart{Lane: id})
		},
		"ready": func(w *world, a args, _ string) { // ready CONN lane=N [text=WORD]
			w.say(a.conn(), &wire.LaneReady{Lane: a.id("lane"), Text: a.get("text", "")})
		},
		"begin": func(w *world, a args, _ string) { w.say(a.conn(), &wire.LaneStart{Lane: a.id("lane")}) },
		"over":  func(w *world, a args, _ string) { w.say(a.conn(), &wire.LaneDone{Lane: a.id("lane")}) },
		"fault": func(w *world, a args, _ string) { // fault CONN lane=N [count= bytes= first= last=] text=WORD
			w.say(a.conn(), &wire.LaneFault{
				Lane: a.id("lane"), Reason: wire.DropBadDescriptor, Count: a.num("count"), Bytes: a.num("bytes"),
				SeqFirst: wire.Seq(a.num("first")), SeqLast: wire.Seq(a.num("last")), Text: a.get("text", ""),
			})
		},
		"held": func(w *world, a args, _ string) { // held CONN lane=N region=N seq=N bytes=N ms=N count=N
			w.say(a.conn(), &wire.LaneHeld{
				Lane: a.id("lane"), Region: a.id("region"), Seq: wire.Seq(a.num("seq")), Bytes: a.num("bytes"),
				HeldMS: a.num("ms"), Count: uint32(a.num("count")),
			})
		},
		"push": func(w *world, a args, _ string) { // push lane=N seq=N [n=COUNT] [len=N]: straight into the memory
			for i := range max(1, a.num("n")) {
				d := lane.Descriptor{Seq: wire.Seq(a.num("seq") + i), TimeNS: w.now.UnixNano(), Region: 1, Length: a.num("len")}
				v, victim, evicted := w.lane(a.id("lane")).producer.Push(&d, uint64(d.Seq))
				if fmt.Fprintf(&w.out, "%d %v", d.Seq, v); evicted {
					fmt.Fprintf(&w.out, " for %d", victim)
				}
				w.out.WriteByte('\n')
			}
		},
		"pop": func(w *world, a args, _ string) { // pop lane=N [n=COUNT]
			for range max(1, a.num("n")) {
				var d lane.Descriptor
				v, dropped, _ := w.lane(a.id("lane")).consumer.Pop(&d)
				fmt.Fprintf(&w.out, "%v seq=%d dropped=%d\n", v, d.Seq, dropped)
			}
		},
		"scribble": func(w *world, a args, _ string) { // scribble lane=N word=N value=N
			w.words[a.id("lane")][a.num("word")] = a.num("value")
		},
		"paths": func(w *world, a args, _ string) { // paths: how every edge's messages travel
			w.core.eachEdge(func(e *edge) {
				st := w.core.edgeStatus(e)
				fmt.Fprintf(&w.out, "%s→%s %s: %s\n", st.From, st.To, st.Path, st.PathReason)
			})
		},
		"adopt": func(w *world, a args, body string) { // adopt CONN from=INSTANCE, then lines: bell, region, lane
			w.say(a.conn(), parseAdopt(w.t, a.get("from", "test"), body))
		},
	})
}

// parseAdopt reads lines like `bell 2 r2`, `region 1 r1 4096 3` (bytes and number
// of slots) and `lane 3 r3 sender o r/i bit=0 queue=4 policy=drop-oldest hold=10000 peer=4`.
func parseAdopt(t tb, instance, body string) *wire.Adopt {
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	m := &wire.Adopt{Instance: instance}
	for line := range strings.Lines(body) {
		f := strings.Fields(line)
		id := wire.RegionID(number(f[1]))
		switch f[0] {
		case "bell":
			m.BellRegion, m.BellName = id, f[2]
		case "region":
			m.Regions = append(m.Regions, wire.AdoptRegion{Region: id, Name: f[2], SlotBytes: number(f[3]), Slots: uint32(number(f[4]))})
		case "lane":
			a := args(f)
			al := wire.AdoptLane{
				Lane: id, Name: f[2], Port: f[4], Peer: f[5], Bit: uint8(a.num("bit")), QueueSize: uint32(a.num("queue")),
				HoldTimeoutMS: uint32(number(a.get("hold", "10000"))), PeerBellRegion: a.id("peer"),
			}
			if f[3] == "receiver" {
				al.Role = wire.LaneReceiver
			}
			al.Policy = map[string]wire.Policy{
				"": wire.PolicyDropOldest, "drop-newest": wire.PolicyDropNewest, "block": wire.PolicyBlock,
			}[a.get("policy", "")]
			al.SlotBytes = lane.Geometry(max(1, min(al.QueueSize, lane.QueueSizeMax))).SlotBytes
			m.Lanes = append(m.Lanes, al)
		default:
			t.Fatalf("what is %q?", line)
		}
	}
	return m
}

// checkLaneBooks holds lanes against what must always be true, and returns how
// many messages are on those of each edge.
func (c *core) checkLaneBooks(t tb) map[*edge]uint64 {
	t.Helper()
	onLanes := map[*edge]uint64{}
	bits := map[*session]uint64{}
	unlogged := map[*edge]uint64{}
	for id, l := range c.lanes {
		c.count(l)
		if b := &l.books; b.published < b.taken+b.gone || b.gone < b.logged {
			t.Errorf("lane %d: %+v", id, b)
		}
		onLanes[l.edge] += l.books.queued()
		unlogged[l.edge] += l.books.gone - l.books.logged
		if l.stage == laneDrained && (l.books.queued() > 0 || l.edge.lane == l) {
			t.Errorf("lane %d of %s is drained, and has %d messages", id, l.edge.to, l.books.queued())
		}
		if l.stage == laneDrained && !l.sender.owes && !l.receiver.owes {
			t.Errorf("lane %d of %s: nobody has it", id, l.edge.to)
		}
		if s := l.sender.sess; s != nil && !l.bitFree {
			if bits[s]&(1<<l.bit) != 0 {
				t.Errorf("two lanes of session %d have bit %d", s.id, l.bit)
			}
			bits[s] |= 1 << l.bit
		}
	}
	if len(c.laneList) != len(c.lanes) {
		t.Errorf("%d lanes, %d in order", len(c.lanes), len(c.laneList))
	}
	c.eachEdge(func(e *edge) {
		if e.stats.unlogged != unlogged[e] {
			t.Errorf("%s: %d unlogged, of its lanes are %d", e.to, e.stats.unlogged, unlogged[e])
		}
	})
	return onLanes
}
