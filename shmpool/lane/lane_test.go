package lane

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// rig is a lane on the heap, with all that can be at it.
type rig struct {
	cfg      Config
	words    []uint64
	producer *Producer
	consumer *Consumer
	keeper   *Keeper
	seq      wire.Seq
}

func newRig(tb testing.TB, queueSize uint32, policy wire.Policy) *rig {
	tb.Helper()
	r := &rig{cfg: Config{Lane: 0x1_0000_0007, QueueSize: queueSize, Policy: policy}}
	r.words = make([]uint64, Bytes(Capacity(queueSize))/8)
	for i := range r.words {
		r.words[i] = 0xDEAD // a recycled region
	}
	if err := Init(r.words, r.cfg); err != nil {
		tb.Fatal(err)
	}
	var err error
	if r.consumer, err = NewConsumer(r.words, r.cfg); err != nil {
		tb.Fatal(err)
	}
	if r.producer, err = NewProducer(r.words, r.cfg); err != nil {
		tb.Fatal(err)
	}
	r.keeper = NewKeeper(r.words, r.cfg, nil)
	return r
}

// push pushes the next message: n bytes, sent at 1000 + its seq, cookie its seq.
func (r *rig) push(n uint64) (v Verdict, victim uint64, evicted bool) {
	r.seq++
	d := Descriptor{Seq: r.seq, TimeNS: 1000 + int64(r.seq), Region: 3, Offset: 4096, Length: n, MetaRegion: 4, MetaOffset: 5, MetaLength: 6}
	return r.producer.Push(&d, uint64(r.seq))
}

func (r *rig) mustPush(tb testing.TB, n uint64, want Verdict) {
	tb.Helper()
	if v, _, _ := r.push(n); v != want {
		tb.Fatalf("push of message %d: %v, want %v", r.seq, v, want)
	}
}

// mustPop pops the message of that seq.
func (r *rig) mustPop(tb testing.TB, seq wire.Seq, wantDropped uint64) {
	tb.Helper()
	var d Descriptor
	v, dropped, _ := r.consumer.Pop(&d)
	if v != Got || d.Seq != seq || dropped != wantDropped {
		tb.Fatalf("%v, message %d, %d dropped; want message %d, %d dropped", v, d.Seq, dropped, seq, wantDropped)
	}
	if d.TimeNS != 1000+int64(seq) || d.Region != 3 || d.Offset != 4096 || d.MetaRegion != 4 || d.MetaOffset != 5 || d.MetaLength != 6 {
		tb.Fatalf("descriptor %+v", d)
	}
}

func TestCapacity(t *testing.T) {
	for _, c := range []struct{ queueSize, capacity uint32 }{{1, 1}, {2, 2}, {3, 4}, {4, 4}, {5, 8}, {1000, 1024}, {QueueSizeMax, QueueSizeMax}} {
		if got := Capacity(c.queueSize); got != c.capacity {
			t.Errorf("Capacity(%d) = %d, want %d", c.queueSize, got, c.capacity)
		}
		g := Geometry(c.queueSize)
		if err := g.Validate(); err != nil || g.SlotBytes < 1024+64*uint64(c.capacity) || g.Slots != 1 {
			t.Errorf("Geometry(%d) = %v, %v", c.queueSize, g, err)
		}
	}
}

func TestDropOldest(t *testing.T) {
	r := newRig(t, 3, wire.PolicyDropOldest) // 3 of 4 entries
	if r.consumer.Ready() {
		t.Error("ready while empty")
	}
	for range 3 {
		r.mustPush(t, 10, Pushed)
	}
	if n, v := r.producer.Room(); n != 0 || v != Full {
		t.Errorf("room %d, %v", n, v)
	}
	for want := range uint64(2) {
		if v, victim, evicted := r.push(10); v != Pushed || !evicted || victim != want+1 {
			t.Fatalf("%v, victim %d, %v", v, victim, evicted)
		}
	}
	if !r.consumer.Ready() {
		t.Error("not ready")
	}
	r.mustPop(t, 3, 2)
	if !r.consumer.Ready() {
		t.Error("not ready, but two are left")
	}
	r.producer.Failed(4)
	r.mustPop(t, 4, 4)
	r.mustPop(t, 5, 0)
	if v, _, _ := r.consumer.Pop(new(Descriptor)); v != Empty || r.consumer.Ready() {
		t.Error(v)
	}
	if n, v := r.producer.Room(); n != 3 || v != Pushed {
		t.Errorf("room %d, %v", n, v)
	}
	c, err := r.keeper.Counters()
	if want := (Counters{Pushed: 5, Taken: 3, Evicted: 2}); c != want || err != nil {
		t.Errorf("%+v, %v, want %+v", c, err, want)
	}
}

func TestDropNewest(t *testing.T) {
	r := newRig(t, 1, wire.PolicyDropNewest)
	r.mustPush(t, 10, Pushed)
	r.mustPush(t, 20, Refused)
	r.mustPush(t, 30, Refused)
	r.mustPop(t, 1, 2)
	r.mustPush(t, 40, Pushed)
	c, err := r.keeper.Counters()
	if want := (Counters{Pushed: 2, Taken: 1, Refused: 2, Queued: 1}); c != want || err != nil {
		t.Errorf("%+v, %v, want %+v", c, err, want)
	}
	if err := r.keeper.Close(); err != nil {
		t.Fatal(err)
	}
	r.mustPush(t, 50, Closed) // not refused: nothing can be on a closed lane
	r.mustPop(t, 4, 0)
	if v, dropped, _ := r.consumer.Pop(new(Descriptor)); v != Ended || dropped != 0 || r.consumer.Ready() {
		t.Error(v, dropped)
	}
}

func TestBlock(t *testing.T) {
	r := newRig(t, 4, wire.PolicyBlock)
	for range 4 {
		r.mustPush(t, 10, Pushed)
	}
	r.mustPush(t, 10, Full)
	r.seq-- // again later
	r.producer.Want(2)
	for _, want := range []bool{false, true, false} { // two places; told once
		if v, _, ring := r.consumer.Pop(new(Descriptor)); v != Got || ring != want {
			t.Fatal(v, ring, want)
		}
	}
	r.producer.Want(99) // more than the queue has: all of it
	if _, _, ring := r.consumer.Pop(new(Descriptor)); !ring {
		t.Error("an empty queue is not room enough")
	}
	r.mustPush(t, 10, Pushed)
	r.producer.Want(1)
	r.producer.Unwant()
	if _, _, ring := r.consumer.Pop(new(Descriptor)); ring {
		t.Error("rings for nobody")
	}
	r.producer.CloseByOwner()
	if _, v := r.producer.Room(); v != Closed || !r.producer.Closed() {
		t.Error(v)
	}
	if !r.consumer.Ready() {
		t.Error("the end is nothing to notice")
	}
}

func TestCut(t *testing.T) {
	r := newRig(t, 5, wire.PolicyDropOldest)
	for i := range uint64(7) {
		r.mustPush(t, 10+i, Pushed) // two are evicted
	}
	r.mustPop(t, 3, 2)
	w, err := r.keeper.Cut()
	want := Withdrawn{From: 3, Count: 4, Bytes: 13 + 14 + 15 + 16, SeqFirst: 4, SeqLast: 7, OldestNS: 1004}
	if err != nil || w != want {
		t.Fatalf("%+v, %v, want %+v", w, err, want)
	}
	var cookies []uint64
	r.producer.Since(w.From, func(cookie uint64) { cookies = append(cookies, cookie) })
	if !slices.Equal(cookies, []uint64{4, 5, 6, 7}) {
		t.Errorf("cookies %v", cookies)
	}
	r.mustPush(t, 10, Closed)
	if _, v := r.producer.Room(); v != Closed {
		t.Error(v)
	}
	if v, dropped, _ := r.consumer.Pop(new(Descriptor)); v != Ended || dropped != 4 {
		t.Error(v, dropped)
	}
	// What was withdrawn is told; the two evicted before are not.
	d, ok := r.keeper.Remainder()
	if !ok || d != (Drops{Count: 2, Bytes: 10 + 11, SeqFirst: 1, SeqLast: 2, OldestNS: 1001}) {
		t.Errorf("%+v, %v", d, ok)
	}
	if w, err := r.keeper.Cut(); err != nil || w.Count != 0 {
		t.Errorf("%+v, %v", w, err)
	}
}

// TestSinceLap: of positions that were overwritten the producer knows nothing.
func TestSinceLap(t *testing.T) {
	r := newRig(t, 3, wire.PolicyDropOldest)
	for range 9 {
		r.mustPush(t, 1, Pushed)
	}
	for from, want := range map[uint64][]uint64{
		0: {6, 7, 8, 9}, 4: {6, 7, 8, 9}, 5: {6, 7, 8, 9}, 7: {8, 9}, 9: nil, 7 + 1<<32: {8, 9},
		1 << 31: {6, 7, 8, 9}, // in the future, or long ago
	} {
		var cookies []uint64
		r.producer.Since(from, func(cookie uint64) { cookies = append(cookies, cookie) })
		if !slices.Equal(cookies, want) {
			t.Errorf("since %d: %v, want %v", from, cookies, want)
		}
	}
}

func TestDrops(t *testing.T) {
	r := newRig(t, 1, wire.PolicyDropOldest)
	expect := func(want Drops) {
		t.Helper()
		d, ok, err := r.keeper.Drops()
		if err != nil || d != want || ok != (want.Count > 0) {
			t.Fatalf("%+v, %v, %v, want %+v", d, ok, err, want)
		}
	}
	expect(Drops{})
	r.mustPush(t, 10, Pushed)
	r.mustPush(t, 11, Pushed) // drops 1
	r.mustPush(t, 12, Pushed) // drops 2
	expect(Drops{})           // turns
	r.mustPush(t, 13, Pushed) // drops 3
	expect(Drops{Count: 2, Bytes: 21, SeqFirst: 1, SeqLast: 2, OldestNS: 1001})
	expect(Drops{Count: 1, Bytes: 12, SeqFirst: 3, SeqLast: 3, OldestNS: 1003})
	expect(Drops{})
	r.keeper.Confirm(2)
	r.mustPush(t, 14, Pushed) // drops 4
	expect(Drops{})

	// Another router finds what was not confirmed, with its numbers.
	r.keeper = NewKeeper(r.words, r.cfg, nil)
	r.mustPush(t, 15, Pushed) // drops 5
	expect(Drops{})
	expect(Drops{Count: 3, Bytes: 12 + 13 + 14, SeqFirst: 3, SeqLast: 5, OldestNS: 1003})
	r.keeper.Confirm(3)
	r.mustPush(t, 16, Pushed) // drops 6
	expect(Drops{})           // turns, and dies before it has told
	r.keeper = NewKeeper(r.words, r.cfg, nil)
	expect(Drops{}) // reads, and dies before it has told
	r.keeper = NewKeeper(r.words, r.cfg, nil)
	expect(Drops{})
	expect(Drops{Count: 1, Bytes: 15, SeqFirst: 6, SeqLast: 6, OldestNS: 1006})
	r.keeper.Confirm(7) // no more than was told
	r.keeper.Confirm(1)
	r.keeper = NewKeeper(r.words, r.cfg, nil)
	expect(Drops{})
	if d, ok := r.keeper.Remainder(); ok {
		t.Errorf("%+v", d)
	}
}

// TestDropsOfRoutersThatDie: two routers die in a row, the first one with drops in
// its hands that the log does not have. Whoever tells them has their numbers, and not
// those of later drops.
func TestDropsOfRoutersThatDie(t *testing.T) {
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest} {
		t.Run(policy.String(), func(t *testing.T) {
			r := newRig(t, 2, policy)
			lost := Pushed
			first := wire.Seq(1)
			if policy == wire.PolicyDropNewest {
				lost, first = Refused, 3
			}
			look := func(want Drops) {
				t.Helper()
				d, _, err := r.keeper.Drops()
				if want.Count > 0 {
					want.OldestNS = 1000 + int64(want.SeqFirst)
				}
				if err != nil || d != want {
					t.Errorf("%+v, %v, want %+v", d, err, want)
				}
			}
			drop := func(n int) {
				for range n {
					r.mustPush(t, 10, lost)
				}
			}
			r.mustPush(t, 10, Pushed)
			r.mustPush(t, 10, Pushed)
			drop(5)
			look(Drops{})
			look(Drops{Count: 5, Bytes: 50, SeqFirst: first, SeqLast: first + 4}) // and dies before they are in the log

			// As if it had been about to give the window back.
			r.words[windowAt(1)+windowNumber] = 1
			r.words[windowWord] = 2
			r.keeper = NewKeeper(r.words, r.cfg, nil)
			look(Drops{})
			drop(125)
			look(Drops{Count: 5, Bytes: 50, SeqFirst: first, SeqLast: first + 4})
			r.keeper.Confirm(5) // dies with 125 counted

			// As if it had been about to write what it has read.
			r.words[notedWord+windowNumber], r.words[notedWord+windowCount] = 0, 1<<40
			r.keeper = NewKeeper(r.words, r.cfg, nil)
			look(Drops{})
			drop(57)
			look(Drops{Count: 125, Bytes: 1250, SeqFirst: first + 5, SeqLast: first + 129})
			look(Drops{Count: 57, Bytes: 570, SeqFirst: first + 130, SeqLast: first + 186})
			r.keeper.Confirm(125)
			r.keeper.Confirm(57)
			if got := r.words[loggedWord]; got != 187 {
				t.Errorf("%d logged", got)
			}
		})
	}
}

// TestDropsNotNoted: a producer that is stopped after it has counted a drop and
// before it has noted its number has until the next look. Then the number is the
// one that it must have.
func TestDropsNotNoted(t *testing.T) {
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest} {
		t.Run(policy.String(), func(t *testing.T) {
			r := newRig(t, 2, policy)
			for range 4 { // drops two
				_, _, _ = r.push(10)
			}
			r.seq++
			p := r.producer
			p.op.start(&p.state, &Descriptor{Seq: r.seq, TimeNS: 1000 + int64(r.seq), Length: 10})
			for p.op.phase != pushLoadWindow { // drops another
				p.op.step(&p.state, p.words, p.ring)
			}
			first := wire.Seq(1)
			if policy == wire.PolicyDropNewest {
				first = 3
			}
			for _, want := range []Drops{
				{},
				{Count: 2, Bytes: 20, SeqFirst: first, SeqLast: first + 1, OldestNS: 1000 + int64(first)},
				{Count: 1, SeqFirst: first + 2, SeqLast: first + 2},
				{},
			} {
				if d, _, err := r.keeper.Drops(); err != nil || d != want {
					t.Errorf("%+v, %v, want %+v", d, err, want)
				}
			}
		})
	}
}

// TestKilledWhileConfirming: a router dies before each store with which it says that
// the log has the drops. Those that come later are told with their own numbers, also
// if another router has been there, and died, meanwhile.
func TestKilledWhileConfirming(t *testing.T) {
	order := []uint{
		notedWord + windowSeqLast, loggedWord, notedWord + windowNumber, notedWord + windowCount, notedWord + windowBytes,
		notedWord + windowOldest, notedWord + windowSeqFirst, notedWord + windowSeqLast, notedWord + windowNumber,
	}
	for stores := 2; stores <= len(order); stores++ {
		for _, again := range []bool{false, true} {
			r := newRig(t, 2, wire.PolicyDropOldest)
			look := func() Drops {
				d, _, err := r.keeper.Drops()
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			for range 7 { // drops five
				_, _, _ = r.push(10)
			}
			look()
			look()
			before := slices.Clone(r.words[:entriesWord])
			r.keeper.Confirm(5)
			for _, at := range order[stores:] {
				r.words[at] = before[at]
			}
			if stores < 8 {
				r.words[notedWord+windowSeqLast] = 0
			}
			if stores > 2 && stores < len(order) {
				r.words[notedWord+windowNumber] = 0
			}
			if again {
				r.keeper = NewKeeper(r.words, r.cfg, nil)
				look()
			}
			r.mustPush(t, 10, Pushed)
			r.mustPush(t, 10, Pushed)
			r.keeper = NewKeeper(r.words, r.cfg, nil)
			look()
			if d := look(); d != (Drops{Count: 2, Bytes: 20, SeqFirst: 6, SeqLast: 7, OldestNS: 1006}) {
				t.Errorf("again %v, after %d stores: %+v", again, stores, d)
			}
		}
	}
}

// TestLogBehind: the log never has the last drops when there are others already. A
// router after this one tells of those that it does not have, not of all there were.
func TestLogBehind(t *testing.T) {
	r := newRig(t, 2, wire.PolicyDropOldest)
	r.mustPush(t, 10, Pushed)
	r.mustPush(t, 10, Pushed)
	last := uint64(0)
	for range 100 {
		r.mustPush(t, 10, Pushed)
		d, _, err := r.keeper.Drops()
		if err != nil {
			t.Fatal(err)
		}
		r.keeper.Confirm(last)
		last = d.Count
	}
	r.keeper = NewKeeper(r.words, r.cfg, nil)
	if d, _ := r.keeper.Remainder(); d != (Drops{Count: 2, Bytes: 20, SeqFirst: 99, SeqLast: 100, OldestNS: 1099}) {
		t.Errorf("%+v", d)
	}
}

// TestLogOutOfOrder: the log has lines of two reasons in any order, and now and then
// more or less than what was told at a time.
func TestLogOutOfOrder(t *testing.T) {
	for name, test := range map[string]struct {
		confirm []uint64
		want    Drops
	}{
		"the first":                 {[]uint64{2}, Drops{Count: 5, Bytes: 50, SeqFirst: 3, SeqLast: 7, OldestNS: 1003}},
		"the first two":             {[]uint64{5}, Drops{Count: 2, Bytes: 20, SeqFirst: 6, SeqLast: 7, OldestNS: 1006}},
		"the second":                {[]uint64{3}, Drops{Count: 4, Bytes: 40, SeqFirst: 1, SeqLast: 7, OldestNS: 1001}},
		"part of the first":         {[]uint64{1}, Drops{Count: 6, Bytes: 70, SeqFirst: 1, SeqLast: 7, OldestNS: 1001}},
		"all":                       {[]uint64{2, 3, 2}, Drops{}},
		"more than there were":      {[]uint64{100}, Drops{}},
		"part, and then the rest":   {[]uint64{4, 3}, Drops{}},
		"the second, and the first": {[]uint64{3, 2}, Drops{Count: 2, Bytes: 20, SeqFirst: 6, SeqLast: 7, OldestNS: 1006}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 2, wire.PolicyDropOldest)
			r.mustPush(t, 10, Pushed)
			r.mustPush(t, 10, Pushed)
			for _, n := range []int{2, 3, 2} {
				for range n {
					r.mustPush(t, 10, Pushed)
				}
				for range 2 {
					if _, _, err := r.keeper.Drops(); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, n := range test.confirm {
				r.keeper.Confirm(n)
			}
			r.keeper = NewKeeper(r.words, r.cfg, nil)
			if d, _ := r.keeper.Remainder(); d != test.want {
				t.Errorf("%+v, want %+v", d, test.want)
			}
		})
	}
}

// TestRoutersThatDieAtRandom: the log is behind by some lines, and goes with its
// router. Whoever comes next tells exactly what the log does not have.
func TestRoutersThatDieAtRandom(t *testing.T) {
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 0))
		r := newRig(t, 2, wire.PolicyDropOldest)
		var log, behind []Drops
		for range 200 {
			switch n := random.IntN(40); {
			case n < 24:
				r.mustPush(t, 1, Pushed)
			case n < 32:
				d, ok, err := r.keeper.Drops()
				if err != nil {
					t.Fatal(err)
				}
				if ok {
					behind = append(behind, d)
				}
			case n < 38:
				lines := random.IntN(len(behind) + 1)
				count := uint64(0)
				for _, d := range behind[:lines] {
					count += d.Count
				}
				log, behind = append(log, behind[:lines]...), slices.Clone(behind[lines:])
				r.keeper.Confirm(count)
			default:
				r.keeper, behind = NewKeeper(r.words, r.cfg, nil), nil
			}
		}
		log = append(log, behind...)
		if d, ok := r.keeper.Remainder(); ok {
			log = append(log, d)
		}
		next := wire.Seq(1)
		for _, d := range log {
			if d.SeqFirst != next || uint64(d.SeqLast-d.SeqFirst) != d.Count-1 || d.Bytes != d.Count || d.OldestNS != 1000+int64(d.SeqFirst) {
				t.Fatalf("seed %d: %+v, where %d is next", seed, d, next)
			}
			next = d.SeqLast + 1
		}
		if last := max(r.seq, 2) - 2; next != last+1 {
			t.Fatalf("seed %d: the log ends with %d, want %d", seed, next-1, last)
		}
	}
}

// TestDropsBetweenCountAndTurn: what is dropped while the keeper stands between the
// two is told with its numbers, once.
func TestDropsBetweenCountAndTurn(t *testing.T) {
	r := newRig(t, 1, wire.PolicyDropOldest)
	for range 4 {
		r.mustPush(t, 10, Pushed) // drops 1 to 3
	}
	if _, ok, err := r.keeper.Drops(); ok || err != nil { // counts three, turns
		t.Fatal(ok, err)
	}
	r.keeper.turned -= 2 // as if it had counted before 2 was dropped
	r.mustPush(t, 10, Pushed)
	d, ok, err := r.keeper.Drops()
	if want := (Drops{Count: 3, Bytes: 30, SeqFirst: 1, SeqLast: 3, OldestNS: d.OldestNS}); !ok || err != nil || d != want {
		t.Errorf("%+v, %v, %v, want %+v", d, ok, err, want)
	}
	d, ok, err = r.keeper.Drops()
	if want := (Drops{Count: 1, Bytes: 10, SeqFirst: 4, SeqLast: 4, OldestNS: d.OldestNS}); !ok || err != nil || d != want {
		t.Errorf("%+v, %v, %v, want %+v", d, ok, err, want)
	}
	// A producer that notes more than it has dropped is not believed.
	r.mustPush(t, 10, Pushed) // drops 5
	if _, ok, err := r.keeper.Drops(); ok || err != nil {
		t.Fatal(ok, err)
	}
	r.words[windowAt(r.keeper.window-1)+windowCount] = 1 << 40
	if d, ok, err := r.keeper.Drops(); d.Count != 1 || !ok || err != nil {
		t.Errorf("%+v, %v, %v", d, ok, err)
	}
}

// TestCountersWrap: the counters of 32 bits run over, and nobody notices.
func TestCountersWrap(t *testing.T) {
	r := newRig(t, 4, wire.PolicyDropOldest)
	const taken, evicted = 1<<32 - 3, 1<<32 - 2
	r.words[headWord] = headEvict(taken, evicted)
	r.words[tailWord] = taken + evicted
	r.words[loggedWord] = evicted
	r.producer.state.tail, r.producer.state.evicted = taken+evicted, evicted
	r.producer.state.position = uint32(r.producer.state.tail)
	r.consumer.state.taken, r.consumer.state.evicted = taken, evicted
	r.keeper = NewKeeper(r.words, r.cfg, nil)
	for range 3 {
		for range 4 + 2 { // two evictions
			r.mustPush(t, 1, Pushed)
		}
		for i := range wire.Seq(4) {
			r.mustPop(t, r.seq-3+i, uint64(2*(1-min(i, 1))))
		}
	}
	c, err := r.keeper.Counters()
	want := Counters{Pushed: taken + evicted + 18, Taken: taken + 12, Evicted: evicted + 6}
	if err != nil || c != want {
		t.Fatalf("%+v, %v, want %+v", c, err, want)
	}
}

func TestWrongMemory(t *testing.T) {
	r := newRig(t, 4, wire.PolicyBlock)
	for _, cfg := range []Config{
		{r.cfg.Lane + 1, 4, wire.PolicyBlock}, {r.cfg.Lane, 3, wire.PolicyBlock}, {r.cfg.Lane, 4, wire.PolicyDropOldest},
	} {
		if _, err := NewProducer(r.words, cfg); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%+v: %v", cfg, err)
		}
		if _, err := NewConsumer(r.words, cfg); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%+v: %v", cfg, err)
		}
		if err := NewKeeper(r.words, cfg, nil).Close(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	for _, cfg := range []Config{{1, 0, 0}, {1, QueueSizeMax + 1, 0}, {1, 1, 3}, {1, 5, 0}} { // the last needs more words
		if err := Init(r.words, cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	r.mustPush(t, 1, Pushed)
	if _, err := NewProducer(r.words, r.cfg); !errors.Is(err, ErrCorrupt) {
		t.Errorf("second producer: %v", err)
	}
	if _, err := NewConsumer(r.words, r.cfg); err != nil {
		t.Errorf("consumer that comes late: %v", err)
	}
	r.mustPop(t, 1, 0)
	if _, err := NewConsumer(r.words, r.cfg); !errors.Is(err, ErrCorrupt) {
		t.Errorf("second consumer: %v", err)
	}
}

// TestCorruptStays: once corrupt, an end does not trust the lane again.
func TestCorruptStays(t *testing.T) {
	r := newRig(t, 4, wire.PolicyBlock)
	head := r.words[headWord]
	r.words[headWord] = headTake(head) // taken from an empty queue
	for range r.cfg.QueueSize {        // the producer knows of so much room
		r.words[headWord] = headTake(r.words[headWord])
		r.mustPush(t, 1, Pushed)
	}
	r.mustPush(t, 1, Corrupt)
	if v, _, _ := r.consumer.Pop(new(Descriptor)); v != Corrupt || r.consumer.Ready() {
		t.Error(v)
	}
	if _, err := r.keeper.Counters(); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	r.words[headWord] = head
	r.mustPush(t, 1, Corrupt)
	if _, v := r.producer.Room(); v != Corrupt || !r.producer.Closed() {
		t.Error(v)
	}
	if v, _, _ := r.consumer.Pop(new(Descriptor)); v != Corrupt {
		t.Error(v)
	}
	if _, err := r.keeper.Cut(); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func TestKeeperRelease(t *testing.T) {
	r := newRig(t, 4, wire.PolicyBlock)
	times := 0
	k := NewKeeper(r.words, r.cfg, func() { times++ })
	k.Release()
	k.Release()
	k.Confirm(7)
	_, errCut := k.Cut()
	_, errCounters := k.Counters()
	_, _, errDrops := k.Drops()
	for _, err := range []error{k.Close(), errCut, errCounters, errDrops} {
		if !errors.Is(err, ErrReleased) {
			t.Error(err)
		}
	}
	if _, ok := k.Remainder(); ok || times != 1 || r.words[loggedWord] != 0 {
		t.Error(ok, times, r.words[loggedWord])
	}
}

func TestLedger(t *testing.T) {
	words := make([]uint64, 3)
	l := NewLedger(words)
	l.Lend(1, 1<<3|1<<BrokerBit)
	if !l.Held(1, 1<<3) || !l.Held(1, 1<<BrokerBit) || l.Held(1, 1<<4) || l.Held(0, ^uint64(0)) || l.Held(2, ^uint64(0)) {
		t.Errorf("%x", words)
	}
	l.Clear(1, 3)
	l.Clear(1, 3)
	if l.Held(1, 1<<3) || !l.Held(1, 1<<BrokerBit) {
		t.Errorf("%x", words)
	}
	words[1] |= 1 << 20 // by somebody who has no business there
	l.Clear(1, BrokerBit)
	if l.Held(1, 1<<3|1<<BrokerBit) {
		t.Error("a stray bit holds the slot")
	}
}

func TestBellFlags(t *testing.T) {
	words := make([]uint64, BellSlotBytes/8)
	b := NewBell(words)
	if b.Ring() {
		t.Error("woke somebody who is awake")
	}
	b.Arm()
	if !b.Ring() || b.Ring() || !b.Sleep(0) {
		t.Error("ring once")
	}
	b.Arm()
	b.Disarm()
	if b.Ring() {
		t.Error("woke somebody who is awake")
	}
	b.Arm()
	if b.Wake(); words[bellWord] != 0 {
		t.Error("still asleep")
	}
	b.Arm()
	if b.GiveMemory() {
		t.Error("memory was not wanted")
	}
	b.WantMemory()
	if !b.GiveMemory() || b.GiveMemory() {
		t.Error("give once")
	}
	b.WantMemory()
	if b.GiveMemory() || words[memoryWantedWord] != 0 {
		t.Error("awake")
	}
}

// TestRunIsSteps: a push and a pop in one go do what they do step by step, which
// is what the model looks at.
func TestRunIsSteps(t *testing.T) {
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest, wire.PolicyBlock} {
		fast, slow := newRig(t, 3, policy), newRig(t, 3, policy)
		random := rand.New(rand.NewPCG(1, uint64(policy)))
		for i := range 5000 {
			if random.IntN(2) == 0 {
				d := descriptor(uint8(i), uint8(i>>8))
				for _, r := range []*rig{fast, slow} {
					r.producer.op.start(&r.producer.state, &d)
				}
				fast.producer.op.run(&fast.producer.state, fast.words, fast.producer.ring)
				for p := slow.producer; !p.op.step(&p.state, p.words, p.ring); {
				}
			} else {
				for _, r := range []*rig{fast, slow} {
					r.consumer.op.start()
				}
				fast.consumer.op.run(&fast.consumer.state, fast.words)
				for c := slow.consumer; !c.op.step(&c.state, c.words); {
				}
			}
			if fast.producer.op != slow.producer.op || fast.producer.state != slow.producer.state ||
				fast.consumer.op != slow.consumer.op || fast.consumer.state != slow.consumer.state ||
				!slices.Equal(fast.words, slow.words) {
				t.Fatalf("after %d: %+v %+v, step by step %+v %+v", i, fast.producer.op, fast.consumer.op, slow.producer.op, slow.consumer.op)
			}
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	r := newRig(t, 2, wire.PolicyDropOldest)
	l := NewLedger(make([]uint64, 1))
	b := NewBell(make([]uint64, BellSlotBytes/8))
	d := new(Descriptor)
	n := testing.AllocsPerRun(1000, func() {
		l.Lend(0, 1)
		for range 4 {
			r.mustPush(t, 1, Pushed)
		}
		r.producer.Room()
		r.consumer.Ready()
		r.consumer.Pop(d)
		l.Clear(0, 0)
		l.Held(0, 1)
		b.Arm()
		b.Sleep(1)
		b.Ring()
		_, _ = r.keeper.Counters()
		_, _, _ = r.keeper.Drops()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
