package lane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// TestProcesses sends between two processes as fast as they can, and looks at
// every word of every message.
func TestProcesses(t *testing.T) {
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest, wire.PolicyBlock} {
		for _, limit := range []uint32{1, 3, 64} {
			t.Run(fmt.Sprintf("%v/%d", policy, limit), func(t *testing.T) {
				s := setup{role: "producer", limit: limit, policy: policy, slots: limit + 3, messages: 20_000}
				sh := create(t, s)
				keeper := NewKeeper(sh.lane.Words(), sh.config(), nil)
				r, err := newReceiveSide(sh)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				c := child(t, sh.setup)
				drained := r.drain()
				numbers, err := c.wait(t)
				if err != nil || drained != nil {
					t.Fatal(err, drained)
				}
				t.Logf("%v a message, %d of %d dropped", time.Since(start)/time.Duration(s.messages), r.dropped, s.messages)
				counters, err := keeper.Counters()
				if err != nil {
					t.Fatal(err)
				}
				evicted, refused := numbers[0], numbers[1]
				want := Counters{Pushed: uint64(s.messages) - refused, Taken: r.got, Evicted: evicted, Refused: refused, Closed: true}
				if counters != want || r.got+evicted+refused != uint64(s.messages) || r.dropped != evicted+refused {
					t.Errorf("%+v, want %+v; %d dropped", counters, want, r.dropped)
				}
				if policy == wire.PolicyBlock && r.dropped != 0 {
					t.Errorf("%d dropped", r.dropped)
				}
				checkFree(t, sh)
			})
		}
	}
}

// checkFree finds slots that are held by nobody who is alive.
func checkFree(t *testing.T, sh *shared) {
	t.Helper()
	for i, word := range sh.region.LedgerWords() {
		if word != 0 {
			t.Errorf("slot %d is leaked: %#x", i, word)
		}
	}
}

// TestCutWhileItRuns takes a running lane away from a consumer: it finds the end,
// and nothing is lost without being counted.
func TestCutWhileItRuns(t *testing.T) {
	for i := range 10 {
		s := setup{role: "consumer", limit: 8, policy: wire.Policy(i % 3), slots: 12, messages: 1 << 30}
		sh := create(t, s)
		keeper := NewKeeper(sh.lane.Words(), sh.config(), nil)
		p, err := newSendSide(sh)
		if err != nil {
			t.Fatal(err)
		}
		c := child(t, sh.setup)
		cut := make(chan Withdrawn)
		go func() {
			time.Sleep(time.Duration(5+i) * time.Millisecond) // any moment will do
			w, err := keeper.Cut()
			if err != nil {
				t.Error(err)
			}
			NewBell(sh.producerBell.Words()).Ring()
			NewBell(sh.consumerBell.Words()).Ring()
			cut <- w
		}()
		pushed := uint64(0)
		for seq := uint64(1); ; seq++ {
			v, err := p.send(seq)
			if err != nil {
				t.Fatal(err)
			}
			if v == Closed {
				break
			}
			if v == Pushed {
				pushed++
			}
		}
		w := <-cut
		p.producer.Since(w.From, func(cookie uint64) { sh.ledger.Clear(uint32(cookie), peerBit) })
		got, err := c.wait(t)
		if err != nil {
			t.Fatal(err)
		}
		counters, err := keeper.Counters()
		want := Counters{
			Pushed: pushed, Taken: uint64(len(got)), Evicted: p.evictions + uint64(w.Count), Refused: p.refused, Closed: true,
		}
		if err != nil || counters != want {
			t.Errorf("%+v, %v, want %+v", counters, err, want)
		}
		d, _ := keeper.Remainder()
		if d.Count != p.evictions+p.refused {
			t.Errorf("%+v; %d evicted, %d refused", d, p.evictions, p.refused)
		}
		checkFree(t, sh)
	}
}

// TestTruncated: a peer that cuts the file short is a corrupt lane, no crash.
func TestTruncated(t *testing.T) {
	sh := create(t, setup{limit: 256, policy: wire.PolicyBlock, slots: 4})
	p, err := newSendSide(sh)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newReceiveSide(sh)
	if err != nil {
		t.Fatal(err)
	}
	keeper := NewKeeper(sh.lane.Words(), sh.config(), nil)
	if v, err := p.send(1); v != Pushed || err != nil {
		t.Fatal(v, err)
	}
	for _, id := range []wire.RegionID{laneID, payloadID, bellsID, otherBell} {
		if err := os.Truncate(filepath.Join(shmpool.Dir, sh.name(id)), 0); err != nil {
			t.Fatal(err)
		}
	}
	if !r.consumer.Ready() {
		t.Error("a fault is nothing to notice")
	}
	if v, _, _ := r.consumer.Pop(new(Descriptor)); v != Corrupt || r.consumer.Ready() {
		t.Error(v)
	}
	if closed := p.producer.Closed(); !closed {
		t.Error("open")
	}
	p.producer.Want(1)
	p.producer.Unwant()
	p.producer.Failed(1)
	p.producer.CloseByOwner()
	if _, v := p.producer.Room(); v != Corrupt {
		t.Error(v)
	}
	if v, _, _ := p.producer.Push(new(Descriptor), 0); v != Corrupt {
		t.Error(v)
	}
	_, errCounters := keeper.Counters()
	_, errCut := keeper.Cut()
	_, _, errDrops := keeper.Drops()
	_, errProducer := NewProducer(sh.lane.Words(), sh.config())
	errInit := Init(sh.lane.Words(), sh.config())
	for i, err := range []error{errCounters, errCut, errDrops, keeper.Close(), errProducer, errInit} {
		if !errors.Is(err, ErrCorrupt) || !errors.Is(err, shmpool.ErrRegionFile) {
			t.Errorf("%d: %v", i, err)
		}
	}
	keeper.Confirm(1)
	if d, ok := keeper.Remainder(); ok {
		t.Errorf("%+v", d)
	}
	sh.ledger.Lend(0, 1)
	sh.ledger.Clear(0, 0)
	if !sh.ledger.Held(0, 1) {
		t.Error("memory that is gone is free")
	}
	r.bell.Arm()
	r.bell.Disarm()
	r.bell.WantMemory()
	if r.bell.GiveMemory() || r.bell.Ring() || r.bell.Sleep(time.Hour) {
		t.Error("a bell that is gone rings")
	}
}

// TestSleepWakes: a sleeper in one goroutine, the ringer in another.
func TestSleepWakes(t *testing.T) {
	sh := create(t, setup{limit: 1, slots: 1})
	bell := NewBell(sh.consumerBell.Words())
	peer, err := Map(sh.name(otherBell), otherBell, BellSlotBytes) // as another process would
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	turns, done := make(chan struct{}), make(chan struct{})
	ringer := NewBell(peer.Words())
	go func() {
		defer close(done)
		for range turns {
			for !ringer.Ring() {
			}
		}
	}()
	for range 200 {
		bell.Arm()
		turns <- struct{}{}
		start := time.Now()
		for !bell.Sleep(testPatience) {
			if time.Since(start) > testPatience {
				t.Fatal("nobody rang")
			}
		}
	}
	close(turns)
	<-done
	bell.Arm()
	start := time.Now()
	for time.Since(start) < 20*time.Millisecond {
		if bell.Sleep(5 * time.Millisecond) {
			t.Fatal("somebody rang")
		}
	}
}

// TestMapNames: regions that are not what they should be.
func TestMapNames(t *testing.T) {
	sh := create(t, setup{limit: 1, slots: 2})
	for _, c := range []struct {
		name  string
		id    wire.RegionID
		bytes uint64
		want  error
	}{
		{sh.name(laneID), laneID + 1, Geometry(1).SlotBytes, shmpool.ErrHeader},
		{sh.name(payloadID), payloadID, slotBytes, shmpool.ErrHeader},
		{"../" + sh.name(laneID), laneID, Geometry(1).SlotBytes, shmpool.ErrName},
		{sh.name(laneID), laneID, 100, shmpool.ErrGeometry},
		{sh.name(99), laneID, 128, os.ErrNotExist},
	} {
		if m, err := Map(c.name, c.id, c.bytes); m != nil || !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if w := sh.producerBell.Words(); len(w) != BellSlotBytes/8 || !slices.Equal(w, make([]uint64, len(w))) {
		t.Errorf("words %v", w)
	}
}
