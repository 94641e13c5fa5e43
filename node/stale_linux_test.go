package node

import (
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// TestStaleViews: regions that no broker announces again are unmapped a while after
// the first of those died, not after the last, so that brokers which die one after
// the other do not make their nodes grow.
func TestStaleViews(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	e := n.currentEstate()
	mapped := func(id wire.RegionID) bool {
		e.views.Lock()
		defer e.views.Unlock()
		return e.views.cache.Mapping(id) != nil
	}
	since := func(id wire.RegionID) time.Time {
		e.views.Lock()
		defer e.views.Unlock()
		return e.views.stale[id]
	}
	old, young, known := p.newRegion(4096, 1), p.newRegion(4096, 1), p.newRegion(4096, 1)
	c.send(old.open(), known.open())
	eventually(t, "two regions are mapped", func() bool { return mapped(old.id) && mapped(known.id) })
	e.staleViews() // the first broker dies
	died := since(old.id)
	c.send(young.open(), known.open())
	eventually(t, "the next one announces them", func() bool { return mapped(young.id) && since(known.id).IsZero() })
	e.staleViews() // and dies
	if got := since(old.id); !got.Equal(died) {
		t.Errorf("stale since %v, it was %v", got, died)
	}
	c.send(known.open())
	eventually(t, "the third announces one of them", func() bool { return since(known.id).IsZero() })
	left, oldest := e.closeStale(died)
	if left != 1 || !oldest.Equal(since(young.id)) || mapped(old.id) || !mapped(young.id) || !mapped(known.id) {
		t.Errorf("%d left, the oldest since %v; mapped: old %v, young %v, known %v", left, oldest, mapped(old.id), mapped(young.id), mapped(known.id))
	}
	if left, _ := e.closeStale(oldest); left != 0 || mapped(young.id) || !mapped(known.id) {
		t.Errorf("%d left; mapped: young %v, known %v", left, mapped(young.id), mapped(known.id))
	}
}
