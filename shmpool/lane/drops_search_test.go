package lane

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// Every interleaving of a sender that drops, routers that look for drops and log
// them, and the deaths of routers: each drop is logged once, and with its number.

const dropsMessages = 3 // that are dropped

// dropsWorld is one state of that search.
type dropsWorld struct {
	words    []uint64
	cfg      Config
	producer Producer
	keeper   *Keeper
	begun    int // messages
	left     int // turns of the router
	looks    int // since the message under way was counted
	late     bool
	pending  []Drops // told, and not logged
	log      []Drops
	trace    string
}

func newDropsWorld(t *testing.T, policy wire.Policy, turns int) *dropsWorld {
	r := newRig(t, 2, policy)
	r.mustPush(t, 8, Pushed)
	r.mustPush(t, 8, Pushed)
	w := &dropsWorld{words: r.words, cfg: r.cfg, producer: *r.producer, keeper: r.keeper, left: turns}
	w.producer.op.phase = pushDone
	return w
}

func (w *dropsWorld) clone() *dropsWorld {
	c := *w
	c.words = slices.Clone(w.words)
	c.producer.words, c.producer.ring = c.words[:len(w.producer.words)], slices.Clone(w.producer.ring)
	c.pending, c.log = slices.Clone(w.pending), slices.Clone(w.log)
	k := w.keeper
	c.keeper = &Keeper{
		cfg: k.cfg, words: c.words, window: k.window, turned: k.turned, unread: k.unread, read: k.read, noted: k.noted,
		told: slices.Clone(k.told), late: k.late, seqLast: k.seqLast, reported: k.reported, logged: k.logged, last: k.last,
	}
	return &c
}

// send takes the sender to where another's turn makes a difference: before and
// after a drop is counted, with the window's number in its hands, and in the middle
// of what it notes.
func (w *dropsWorld) send() {
	p := &w.producer
	if p.op.phase == pushDone {
		w.begun++
		w.looks = 0
		seq := uint64(2 + w.begun)
		p.op.start(&p.state, &Descriptor{Seq: wire.Seq(seq), TimeNS: int64(seq), Length: 8})
	}
	for {
		before := p.op.phase
		done := p.op.step(&p.state, p.words, p.ring)
		if done {
			if p.op.verdict == Pushed {
				p.ring[uint32(p.state.tail-1)&p.state.mask] = sent{seq: p.op.entry[entrySeq], timeNS: 1, bytes: 8}
			}
			return
		}
		switch {
		case before == pushRefuse, before == pushEvict, before == pushLoadWindow, before == pushNote && p.op.next == 4:
			return
		}
	}
}

// counted reports whether a drop is counted and not noted.
func (w *dropsWorld) counted() bool {
	return w.producer.op.phase == pushLoadWindow || w.producer.op.phase == pushNote
}

func (w *dropsWorld) look(t *testing.T) {
	d, ok, err := w.keeper.Drops()
	if err != nil {
		t.Fatalf("%s: %v", w.trace, err)
	}
	if ok {
		w.pending = append(w.pending, d)
	}
	if w.counted() {
		w.looks++
		w.late = w.late || w.looks > 1 // it was told without its number
	}
}

func (w *dropsWorld) write() {
	for _, d := range w.pending {
		w.log = append(w.log, d)
		w.keeper.Confirm(d.Count)
	}
	w.pending = w.pending[:0]
}

func (w *dropsWorld) die() {
	w.pending = nil
	w.keeper = NewKeeper(w.words, w.cfg, nil)
}

// explore makes every move that is possible, and returns how many ends there are.
func (w *dropsWorld) explore(t *testing.T) (ends int) {
	move := func(name string, f func(c *dropsWorld)) {
		if t.Failed() {
			return
		}
		c := w.clone()
		c.trace += name
		f(c)
		ends += c.explore(t)
	}
	sending := w.begun < dropsMessages || w.producer.op.phase != pushDone
	if sending {
		move("s", func(c *dropsWorld) { c.send() })
	}
	if w.left > 0 {
		turn := func(name string, f func(c *dropsWorld)) {
			move(name, func(c *dropsWorld) { c.left--; f(c) })
		}
		turn("D", func(c *dropsWorld) { c.look(t) })
		if len(w.pending) > 0 {
			turn("L", (*dropsWorld).write)
		}
		if !strings.HasSuffix(w.trace, "X") {
			turn("X", (*dropsWorld).die)
		}
	}
	if !sending && w.left == 0 {
		w.finish(t)
		return 1
	}
	return ends
}

// finish has all drops told and logged, and compares them with what was dropped.
func (w *dropsWorld) finish(t *testing.T) {
	for range 3 {
		w.look(t)
		w.write()
	}
	if d, ok := w.keeper.Remainder(); ok {
		w.pending = append(w.pending, d)
		w.write()
	}
	first := wire.Seq(1)
	if w.cfg.Policy == wire.PolicyDropNewest {
		first = 3
	}
	slices.SortFunc(w.log, func(a, b Drops) int { return cmp.Compare(a.SeqFirst, b.SeqFirst) })
	count, next := uint64(0), first
	fault := ""
	for _, d := range w.log {
		count += d.Count
		if d.SeqFirst != next || uint64(d.SeqLast-d.SeqFirst)+1 != d.Count {
			fault = fmt.Sprintf("a record that should go on with %d is %+v", next, d)
		}
		next = d.SeqLast + 1
	}
	if count != dropsMessages || w.words[loggedWord] != dropsMessages || fault != "" && !w.late {
		t.Errorf("%s (s sender, D look, L log, X death): %d of %d drops logged; %s\n%+v", w.trace, count, dropsMessages, fault, w.log)
	}
}

// TestDropsModel takes a second or two, and a minute with BROKERD_MODEL=deep.
func TestDropsModel(t *testing.T) {
	turns, least := 5, 100_000
	switch {
	case os.Getenv("BROKERD_MODEL") == "deep":
		turns, least = 6, 1_000_000
	case raceDetector:
		turns, least = 4, 10_000
	}
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			ends := newDropsWorld(t, policy, turns).explore(t)
			t.Logf("%d ends", ends)
			if ends < least && !t.Failed() {
				t.Errorf("they are fewer than %d", least)
			}
		})
	}
}
