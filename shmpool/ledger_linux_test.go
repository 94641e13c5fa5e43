package shmpool

import (
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// TestLedgerWords: what a receiver clears in the ledger, the sender sees; payloads
// it cannot write to.
func TestLedgerWords(t *testing.T) {
	for _, g := range []Geometry{{128, 3}, {8192, SlotsMax}} {
		name := makeRegion(t, "ledger", 5, g)
		sender := mustMap(t, name, 5, g, ReadWrite)
		receiver := mustMap(t, name, 5, g, ReadLedger)
		reader := mustMap(t, name, 5, g, ReadOnly)
		if reader.LedgerWords() != nil {
			t.Error("a reader has a ledger")
		}
		words, theirs := sender.LedgerWords(), receiver.LedgerWords()
		if len(words) != int(g.Slots) || len(theirs) != int(g.Slots) {
			t.Fatalf("%d and %d words for %d slots", len(words), len(theirs), g.Slots)
		}
		last := g.Slots - 1
		atomic.StoreUint64(&words[last], 0b11)
		atomic.AndUint64(&theirs[last], ^uint64(1))
		if got := atomic.LoadUint64(&words[last]); got != 0b10 {
			t.Errorf("ledger %#b", got)
		}
		if err := CheckHeader(sender.data, 5, g); err != nil {
			t.Error(err)
		}
		if words, err := sender.SlotWords(last); err != nil || uint64(len(words)) != g.SlotBytes/8 {
			t.Errorf("%d words, %v", len(words), err)
		} else if words[0] != 0 {
			t.Error("the ledger lies in a slot")
		}
		if _, err := sender.SlotWords(g.Slots); !errors.Is(err, ErrBounds) {
			t.Error(err)
		}
		b, err := receiver.Slice(HeaderBytes, 8)
		if err != nil {
			t.Fatal(err)
		}
		if !faults(func() { b[0] = 1 }) {
			t.Error("a receiver writes to payloads")
		}
		if !faults(func() { receiver.data[headerWordsOffset] = 1 }) {
			t.Error("the header is writable where the payload is mapped")
		}
		if receiver.Writable() || !sender.Writable() || receiver.Access() != ReadLedger {
			t.Error("access")
		}
		for _, m := range []*Mapping{sender, receiver, reader} {
			if err := errors.Join(m.Prefault(), m.Close(), m.Close()); err != nil {
				t.Error(err)
			}
			if m.LedgerWords() != nil {
				t.Error("a ledger without a mapping")
			}
			if _, err := m.SlotWords(0); !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
			if err := m.Prefault(); !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
		}
		if err := os.Remove(Dir + "/" + name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLedgerNeedsPermission: a region that may only be read has no ledger.
func TestLedgerNeedsPermission(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write to every file")
	}
	name := makeRegion(t, "readonly", 5, smallGeometry)
	if err := os.Chmod(Dir+"/"+name, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := Map(name, 5, smallGeometry, ReadLedger); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
	mustMap(t, name, 5, smallGeometry, ReadOnly)
}

// TestPrefaultBesideClose: a region that goes while it is prefaulted is no fault.
func TestPrefaultBesideClose(t *testing.T) {
	g := Geometry{SlotBytes: 8 << 20, Slots: 3}
	name := makeRegion(t, "beside", 5, g)
	for range 20 {
		m := mustMap(t, name, 5, g, ReadOnly)
		done := make(chan error)
		go func() { done <- m.Prefault() }()
		err := m.Close()
		if prefaulted := <-done; err != nil || prefaulted != nil && !errors.Is(prefaulted, os.ErrClosed) {
			t.Fatal(err, prefaulted)
		}
	}
}

// TestCacheLedger: a view knows its slot and the ledger of its region, also after
// the region was closed.
func TestCacheLedger(t *testing.T) {
	g := Geometry{256, 4}
	name := makeRegion(t, "views", 7, g)
	sender := mustMap(t, name, 7, g, ReadWrite)
	c := NewCache()
	if err := c.Open(7, name, g, ReadLedger); err != nil {
		t.Fatal(err)
	}
	// Another broker renames the region; less access than there is does as well.
	for _, access := range []Access{ReadLedger, ReadOnly} {
		if err := c.Open(7, "renamed", g, access); err != nil {
			t.Error(err)
		}
	}
	if err := c.Open(7, name, g, ReadWrite); !errors.Is(err, ErrRegionExists) {
		t.Error(err)
	}
	if ids := c.Regions(); !slices.Equal(ids, []wire.RegionID{7}) || c.Mapping(7).Region() != 7 || c.Mapping(8) != nil {
		t.Error(ids)
	}
	_, ref, err := c.View(7, g.SlotOffset(2)+255, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(7); err != nil {
		t.Fatal(err)
	}
	if ref.SlotIndex() != 2 || len(ref.Ledger()) != 4 {
		t.Fatalf("slot %d, %d words", ref.SlotIndex(), len(ref.Ledger()))
	}
	sender.LedgerWords()[2] = 1 << 9
	atomic.AndUint64(&ref.Ledger()[ref.SlotIndex()], 0)
	if sender.LedgerWords()[2] != 0 {
		t.Error("another ledger")
	}
	if err := c.Release(ref); err != nil {
		t.Fatal(err)
	}
	if (Ref{}).Ledger() != nil {
		t.Error("a ledger of nothing")
	}
}
