package audit

import (
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/bench/soak/books"
)

// The clock of these tests: message n of a life is begun at its start + n seconds.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

// life is a sender that has sent so many messages, of which all but the missing ones
// have come on a lane, or else through the broker.
func life(id uint32, start int, sent uint64, lanes bool, missing ...uint64) Life {
	l := Life{ID: id, Sent: books.SentAccount{Begun: sent, Done: sent, Failed: books.NewBits(sent)}}
	l.Taken = books.TakenAccount{Taken: books.NewBits(sent), OnLane: books.NewBits(sent)}
	gone := map[uint64]bool{}
	for _, n := range missing {
		gone[n] = true
	}
	for n := uint64(1); n <= sent; n++ {
		l.Begun = append(l.Begun, Tick{at(start + int(n)), n})
		if gone[n] {
			continue
		}
		l.Taken.Taken.Add(n)
		if lanes {
			l.Taken.OnLane.Add(n)
		}
	}
	return l
}

// to lists numbers.
func to(first, last uint64) (all []uint64) {
	for n := first; n <= last; n++ {
		all = append(all, n)
	}
	return all
}

func full(life uint32, first, last, count uint64, lane bool) Record {
	return Record{Time: at(int(last) + 1), Broker: 1, Life: life, First: first, Last: last, Count: count, Reason: "queue_full", OnLane: lane}
}

func edge(lives ...Life) *Edge {
	return &Edge{From: "a/out", To: "b/in", QueueSize: 4, Lag: time.Second, Lives: lives}
}

func TestCheck(t *testing.T) {
	gone := func(n uint64) Record {
		return Record{Time: at(100), Broker: 1, Life: 1, First: n, Last: n, Count: 1, Reason: "receiver_gone"}
	}
	tests := map[string]struct {
		edge  *Edge
		fault string // empty: none
	}{
		"all delivered":     {edge: edge(life(1, 0, 100, true))},
		"logged":            {edge: with(edge(life(1, 0, 100, true, 10, 11, 13)), full(1, 10, 13, 3, true))},
		"logged in two":     {edge: with(edge(life(1, 0, 100, true, 10, 11, 13)), full(1, 10, 11, 2, true), full(1, 13, 13, 1, true))},
		"lost":              {edge: edge(life(1, 0, 100, true, 10, 11)), fault: "lost without a word: 2 messages up to message 11 of life 1"},
		"lost at the end":   {edge: edge(life(1, 0, 100, true, 100)), fault: "lost without a word"},
		"one is not logged": {edge: with(edge(life(1, 0, 100, false, 10, 11, 13)), full(1, 10, 13, 2, false)), fault: "2 drops"},
		"one too many":      {edge: with(edge(life(1, 0, 100, false, 10, 11)), full(1, 10, 12, 3, false)), fault: "3 drops"},
		"a drop that the next record has the number of": {
			edge: with(edge(life(1, 0, 100, true, 10, 11, 20)), full(1, 10, 11, 3, true), Record{Time: at(21), Broker: 1, Life: 1, First: 20, Last: 20, Reason: "queue_full", OnLane: true}),
		},
		"a drop whose number nobody has noted": {
			edge: with(edge(life(1, 0, 100, true, 10, 11, 13, 20)), full(1, 10, 11, 3, true), full(1, 20, 20, 1, true)),
		},
		"a message that nobody has counted": {
			edge: with(edge(life(1, 0, 100, true, 10, 11, 13, 20)), full(1, 10, 11, 2, true), full(1, 20, 20, 1, true)), fault: "lost without a word: 1 messages",
		},
		"a drop too many that no record makes up for": {
			edge: with(edge(life(1, 0, 100, true, 10, 11)), full(1, 10, 11, 3, true)), fault: "1 drops more",
		},
		"numbers that were not sent":     {edge: with(edge(life(1, 0, 9, true, 9)), full(1, 9, 12, 1, true)), fault: "which sent 9"},
		"another life's record":          {edge: with(edge(life(1, 0, 50, true, 10), life(2, 60, 50, true)), full(2, 10, 10, 1, true)), fault: "lost without a word"},
		"delivered and failed":           {edge: failedOne(false), fault: "delivered, and not sent"},
		"failed, and logged":             {edge: with(failedOne(true), Record{Life: 1, First: 10, Last: 10, Count: 1, Reason: "no_memory"})},
		"failed, and not logged":         {edge: failedOne(true), fault: "lost without a word"},
		"logged and taken by who died":   {edge: with(edge(life(1, 0, 100, false)), gone(20))},
		"logged and taken, queue's full": {edge: with(edge(life(1, 0, 100, false)), full(1, 20, 20, 1, false)), fault: "1 drops"},
		"gone records of a lane":         {edge: with(edge(life(1, 0, 100, true)), Record{Life: 1, First: 9, Last: 9, Count: 1, Reason: "receiver_gone", OnLane: true}), fault: "1 drops"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { expect(t, Check(test.edge), test.fault) })
	}
}

func expect(t *testing.T, r *Result, fault string) {
	t.Helper()
	text := strings.Join(r.Faults, "\n")
	if fault == "" && text != "" || fault != "" && !strings.Contains(text, fault) {
		t.Errorf("faults %q, want %q\n%+v", text, fault, r)
	}
	if r.Sent != r.Delivered+r.Missing {
		t.Errorf("%d sent, %d delivered, %d missing", r.Sent, r.Delivered, r.Missing)
	}
}

func with(e *Edge, records ...Record) *Edge {
	e.Records = append(e.Records, records...)
	return e
}

func failedOne(missing bool) *Edge {
	e := edge(life(1, 0, 100, true))
	if missing {
		e = edge(life(1, 0, 100, true, 10))
	}
	e.Lives[0].Sent.Failed.Add(10)
	return e
}

// A receiver was killed at 50 and its next process had joined at 60. Messages are
// begun one a second.
func TestReceiverAway(t *testing.T) {
	mark := Mark{Kind: MarkReceiver, At: Place{1, 49}, Died: at(50), Joined: at(60), Broker: 1}
	for name, test := range map[string]struct {
		missing []uint64
		records []Record
		fault   string
	}{
		"nobody was there":            {missing: to(50, 60)},
		"what was queued is logged":   {missing: to(50, 60), records: []Record{{Life: 1, First: 50, Last: 51, Count: 2, Reason: "receiver_gone", OnLane: true}}},
		"one was taken before":        {missing: append(to(45, 45), to(50, 60)...), fault: "message 45"},
		"joined, and still nothing":   {missing: to(50, 70), fault: "9 messages, the first one message 62"},
		"lost much later":             {missing: append(to(50, 60), 90), fault: "message 90"},
		"more in the log than missed": {missing: to(50, 52), records: []Record{{Life: 1, First: 50, Last: 52, Count: 19, Reason: "receiver_gone", OnLane: true}}, fault: "19 drops"},
	} {
		t.Run(name, func(t *testing.T) {
			e := with(edge(life(1, 0, 100, true, test.missing...)), test.records...)
			e.Marks = []Mark{mark}
			expect(t, Check(e), test.fault)
		})
	}
	// The one message that it had taken may be older than its death by much, if
	// it came late.
	e := edge(life(1, 0, 100, true, append(to(40, 40), to(50, 60)...)...))
	e.Marks = []Mark{mark}
	e.Marks[0].At.Number = 39
	for n := uint64(41); n < 50; n++ {
		e.Lives[0].Taken.Taken[0] &^= 1 << n
	}
	e.Records = []Record{{Life: 1, First: 41, Last: 49, Count: 9, Reason: "receiver_gone", OnLane: true}}
	r := Check(e)
	expect(t, r, "")
	if r.Excused[gapTaken] != 1 {
		t.Errorf("excused %v", r.Excused)
	}
}

// A broker was killed at 50, and both ends had joined the next one at 60.
func TestBrokerKilled(t *testing.T) {
	for name, test := range map[string]struct {
		lanes   bool
		whole   bool
		missing []uint64
		records []Record
		fault   string
	}{
		"lanes lose nothing":              {lanes: true, whole: true},
		"lanes that lose something":       {lanes: true, whole: true, missing: to(50, 50), fault: "message 50"},
		"a lane that was not taken over":  {lanes: true, missing: to(50, 59)},
		"what was in the broker is gone":  {missing: to(45, 59)},
		"and what it had not logged":      {missing: append(to(48, 48), to(50, 59)...)},
		"it had time to log that":         {missing: append(to(40, 40), to(50, 59)...), fault: "message 40"},
		"the next one must not lose more": {missing: append(to(50, 59), to(70, 70)...), fault: "message 70"},
		"the next one logs what the first has not": {
			lanes: true, whole: true, missing: []uint64{30, 48, 49, 62},
			records: []Record{
				{Time: at(31), Broker: 1, Life: 1, First: 30, Last: 30, Count: 1, Reason: "queue_full", OnLane: true},
				{Time: at(63), Broker: 2, Life: 1, First: 48, Last: 62, Count: 3, Reason: "queue_full", OnLane: true},
			},
		},
		"and has to have all": {
			lanes: true, whole: true, missing: []uint64{30, 40, 41, 42, 48, 49, 62},
			records: []Record{
				{Time: at(31), Broker: 1, Life: 1, First: 30, Last: 30, Count: 1, Reason: "queue_full", OnLane: true},
				{Time: at(63), Broker: 2, Life: 1, First: 40, Last: 62, Count: 2, Reason: "queue_full", OnLane: true},
			},
			fault: "2 drops from message 40 of life 1 to message 62 of life 1, where 6 are missing",
		},
		"and their numbers": {
			lanes: true, whole: true, missing: []uint64{30, 40, 41, 42, 43, 48, 49, 62},
			records: []Record{
				{Time: at(31), Broker: 1, Life: 1, First: 30, Last: 30, Count: 1, Reason: "queue_full", OnLane: true},
				{Time: at(63), Broker: 2, Life: 1, First: 48, Last: 62, Count: 7, Reason: "queue_full", OnLane: true},
			},
			fault: "lost without a word: 4 messages",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := with(edge(life(1, 0, 100, test.lanes, test.missing...)), test.records...)
			e.Marks = []Mark{
				{Kind: MarkConnection, At: Place{1, 55}, Joined: at(60), Broker: 2},
				{Kind: MarkConnection, At: Place{1, 58}, Joined: at(60), Broker: 2},
			}
			e.Crashes = []Crash{{At: at(50), Broker: 1, Next: 2, From: Place{1, 47}, Whole: test.whole}}
			expect(t, Check(e), test.fault)
		})
	}
}

// What was left on a lane that the next broker has not taken over comes after the
// connection to it: messages 46 and 48, of those before the broker's death at 50.
func TestLeftOnLane(t *testing.T) {
	for name, test := range map[string]struct {
		missing []uint64
		fault   string
	}{
		"nobody had it meanwhile": {missing: append(to(47, 47), to(49, 60)...)},
		"lost later":              {missing: append(to(47, 47), append(to(49, 60), 70)...), fault: "message 70"},
	} {
		t.Run(name, func(t *testing.T) {
			e := edge(life(1, 0, 100, true, test.missing...))
			e.Marks = []Mark{
				{Kind: MarkConnection, At: Place{1, 45}, Joined: at(60), Broker: 2}, // the receiver
				{Kind: MarkConnection, At: Place{1, 51}, Joined: at(52), Broker: 2},
			}
			e.Crashes = []Crash{{At: at(50), Broker: 1, Next: 2, From: Place{1, 45}}}
			expect(t, Check(e), test.fault)
		})
	}
}

// The sender was another process when the broker died, whose edge had no lane yet.
func TestBrokerAndSenderKilled(t *testing.T) {
	first := life(1, 0, 40, true)
	first.Killed = at(41)
	e := edge(first, life(2, 45, 50, true, to(1, 15)...))
	e.Marks = []Mark{{Kind: MarkConnection, At: Place{1, 40}, Joined: at(60), Broker: 2}}
	e.Crashes = []Crash{{At: at(50), Broker: 1, Next: 2, From: Place{1, 40}, Whole: true}}
	expect(t, Check(e), "")
}

// A sender was killed at 50, while it sent message 50.
func TestSenderKilled(t *testing.T) {
	for name, test := range map[string]struct {
		lanes   bool
		missing []uint64
		fault   string
	}{
		"nothing is lost":           {lanes: true},
		"a lane: the last one":      {lanes: true, missing: to(50, 50)},
		"a lane: two more":          {lanes: true, missing: to(48, 50), fault: "message 49"},
		"the broker: the last few":  {missing: to(49, 50)},
		"the broker: long ones ago": {missing: to(40, 50), fault: "5 messages, the first one message 40"},
	} {
		t.Run(name, func(t *testing.T) {
			first := life(1, 0, 50, test.lanes, test.missing...)
			first.Killed, first.Sent.Done = at(50), 49
			expect(t, Check(edge(first, life(2, 60, 50, test.lanes))), test.fault)
		})
	}
}
