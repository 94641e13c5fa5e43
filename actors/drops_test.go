package actors

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// No record mixes two sessions of a sender, whose numbers start anew; together
// they have every drop, also if the log takes one record at a time.
func TestDropRecordsOfTwoSenders(t *testing.T) {
	e := &edge{flow: &flow{name: "flow"}, from: "source/out", to: "sink/in"}
	var l dropLedger
	start := time.Now()
	var got []wire.DropRecord
	room := 0
	write := func(r wire.DropRecord, _ func()) bool {
		if room == 0 {
			return false
		}
		room--
		got = append(got, r)
		return true
	}
	drop := func(sender ConnID, seq wire.Seq) {
		l.add(e, pathBrokered, wire.DropQueueFull, dropped{sender: sender, count: 1, bytes: 10, seqFirst: seq, seqLast: seq})
	}
	for seq := wire.Seq(90); seq <= 99; seq++ {
		drop(7, seq)
	}
	drop(8, 1)
	drop(8, 2)
	drop(9, 1)
	for i := range 3 {
		room = 1
		l.emit(start.Add(time.Duration(i)*time.Second), false, write)
	}
	want := []struct {
		sender, count, total, first, last uint64
	}{{7, 10, 10, 90, 99}, {8, 2, 12, 1, 2}, {9, 1, 13, 1, 1}}
	if len(got) != len(want) || len(l.pending) != 0 {
		t.Fatalf("%d records, %d pending: %+v", len(got), len(l.pending), got)
	}
	for i, w := range want {
		if r := got[i]; r.Sender != w.sender || r.Count != w.count || r.Total != w.total || r.SeqFirst != w.first || r.SeqLast != w.last || r.Bytes != 10*w.count {
			t.Errorf("record %d: %+v, want %+v", i, r, w)
		}
	}
}

// A record has as many numbers as drops, also if two looks at a lane overlap.
func TestDropsThatOverlap(t *testing.T) {
	d := dropped{}
	d.add(dropped{count: 10, seqFirst: 11, seqLast: 20})
	d.add(dropped{count: 5, seqFirst: 20, seqLast: 24})
	if d.count != 15 || d.seqFirst != 10 || d.seqLast != 24 {
		t.Errorf("%+v", d)
	}
	d.add(dropped{count: 100, seqFirst: 24, seqLast: 24}) // nonsense that a sender has written
	if d.seqFirst != 1 || d.seqLast != 24 {
		t.Errorf("%+v", d)
	}
	var unknown dropped
	unknown.add(dropped{count: 3})
	if unknown.seqFirst != 0 || unknown.seqLast != 0 {
		t.Errorf("%+v", unknown)
	}
}

// A line about the messages that a dead receiver left on its lane does not mark other
// drops of the lane as logged, whose own line is not due yet: if the broker dies now,
// the next one has them.
func TestLineOfOneReason(t *testing.T) {
	cfg := lane.Config{Lane: 7, QueueSize: 1, Policy: wire.PolicyDropOldest}
	words := make([]uint64, lane.Geometry(cfg.QueueSize).SlotBytes/8)
	if err := lane.Init(words, cfg); err != nil {
		t.Fatal(err)
	}
	producer, err := lane.NewProducer(words, cfg)
	if err != nil {
		t.Fatal(err)
	}
	keeper := lane.NewKeeper(words, cfg, nil)
	e := &edge{flow: &flow{name: "flow"}, from: "source/out", to: "sink/in"}
	var l dropLedger
	now := time.Now()
	var lines []string
	write := func(r wire.DropRecord, written func()) bool {
		lines = append(lines, fmt.Sprintf("%s %d: %d-%d", r.Reason, r.Count, r.SeqFirst, r.SeqLast))
		written()
		return true
	}
	seq := wire.Seq(0)
	fullDrops := func(count uint64) {
		for range count {
			seq++
			producer.Push(&lane.Descriptor{Seq: seq, TimeNS: 1, Length: 8}, uint64(seq))
		}
		var d lane.Drops
		for range 2 {
			if d, _, err = keeper.Drops(); err != nil {
				t.Fatal(err)
			}
		}
		l.add(e, pathLane, wire.DropQueueFull, dropped{count: d.Count, seqFirst: d.SeqFirst, seqLast: d.SeqLast})
		l.confirm(e, wire.DropQueueFull, keeper, d.Count)
		l.emit(now, false, write)
	}
	fullDrops(4) // all but the last one
	now = now.Add(dropInterval / 2)
	fullDrops(2)
	w, err := keeper.Cut()
	if err != nil {
		t.Fatal(err)
	}
	l.add(e, pathLane, wire.DropReceiverGone, dropped{count: uint64(w.Count), seqFirst: w.SeqFirst, seqLast: w.SeqLast})
	l.confirm(e, wire.DropReceiverGone, keeper, uint64(w.Count))
	l.emit(now, false, write)
	if want := []string{"queue_full 3: 1-3", "receiver_gone 1: 6-6"}; !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
	if d, _ := lane.NewKeeper(words, cfg, nil).Remainder(); d.Count != 2 || d.SeqFirst > 4 || d.SeqLast < 5 {
		t.Errorf("the next broker has %+v, want the drops of 4 and 5", d)
	}
}
