package actors

import (
	"errors"
	"testing"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// heapSlot is a slot that is mapped nowhere.
type heapSlot struct {
	words  []uint64
	closes *int
}

func (s heapSlot) Words() []uint64 { return s.words }
func (s heapSlot) Close() error {
	*s.closes++
	return nil
}

// TestPoolLaneNotMapped: a region that the broker cannot map is nobody's.
func TestPoolLaneNotMapped(t *testing.T) {
	m := &memory{}
	p, err := NewPoolActor(testLimits, 0, m, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	failure, closes := errors.New("no address space"), 0
	fail := false // read by a worker between request and reply only
	p.mapSlot = func(_ string, _ wire.RegionID, slotBytes uint64) (slotMemory, error) {
		if fail {
			return nil, failure
		}
		return heapSlot{make([]uint64, slotBytes/8), &closes}, nil
	}
	go p.Run()
	ask := func(r poolRequest) poolReply {
		p.requests <- r
		return <-p.replies
	}
	request := poolRequest{kind: poolLane, owner: 1, geometry: shmpool.Geometry{SlotBytes: 4096, Slots: 1}}
	refused := func(what string) {
		t.Helper()
		fail = true
		if rep := ask(request); !errors.Is(rep.err, failure) || rep.code != wire.CodeNoMemory || rep.words != nil {
			t.Errorf("%s: %v, %v", what, rep.code, rep.err)
		}
		fail = false
		if st := ask(poolRequest{kind: poolStats}).stats; st.Regions != 0 || st.UsedBytes != 0 {
			t.Errorf("%s: the books have %+v", what, st)
		}
	}
	refused("a new region")
	first := ask(request)
	p.requests <- poolRequest{kind: poolReturn, region: first.region}
	if st := ask(poolRequest{kind: poolStats}).stats; st.CachedRegions != 1 || closes != 1 {
		t.Fatalf("%+v, unmapped %d times", st, closes)
	}
	refused("a region from the cache")

	// What is mapped at the end is unmapped, once.
	if rep := ask(request); rep.err != nil {
		t.Fatal(rep.err)
	}
	p.Stop()
	if closes != 2 || m.count() != 0 {
		t.Errorf("unmapped %d times, %d regions are left", closes, m.count())
	}
}
