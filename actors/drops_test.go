package actors

import (
	"testing"
	"time"

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
