package audit

import (
	"fmt"
	"slices"
	"sort"
	"time"
)

// faultsMax bounds how many faults of one edge are told.
const faultsMax = 20

// What a message is, as bits.
const (
	delivered uint8 = 1 << iota
	onLane
	unsure // its sender died while it sent it
	failed // its sender got no memory for it
	excused
	logged
)

// The names of gaps.
const (
	gapReceiver   = "receiver away"
	gapTaken      = "taken"
	gapBroker     = "broker"
	gapSender     = "sender"
	gapConnection = "connection"
)

// check is the state of one audit. All messages of an edge lie on one axis: those
// of the first life, then those of the next.
type check struct {
	*Edge
	result *Result
	start  []int // of each life on the axis
	of     map[uint32]int
	what   []uint8
	// extra is how many messages may be missing without a word, by the gap around.
	extra []allowance
	// twice is how many drops of a record may be of messages that were delivered, or
	// are in another record.
	twice []uint64
	// unnumbered are messages that a record counts and has no number of.
	unnumbered []span
	vague      uint64 // drops that nobody knows the numbers of
}

// span is a piece of the axis, both ends included, that a record is about; -1: none.
type span struct{ from, to, record int }

// allowance is one message that may be missing in a range.
type allowance struct {
	from, to int // both excluded
	used     bool
}

// Check audits one edge.
func Check(e *Edge) *Result {
	c := &check{
		Edge: e, of: map[uint32]int{}, twice: make([]uint64, len(e.Records)),
		result: &Result{From: e.From, To: e.To, Logged: map[string]uint64{}, Excused: map[string]uint64{}},
	}
	c.layOut()
	c.readRecords()
	for _, crash := range e.Crashes {
		c.crash(crash)
	}
	for _, m := range e.Marks {
		c.mark(m)
	}
	for i := range e.Lives {
		c.lifeEnd(i)
	}
	c.result.Vague = c.vague
	c.uncovered()
	c.sums()
	return c.result
}

func (c *check) fault(format string, args ...any) {
	r := c.result
	switch n := len(r.Faults); {
	case n < faultsMax:
		r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
	case n == faultsMax:
		r.Faults = append(r.Faults, "and more")
	}
}

// layOut puts all messages on the axis.
func (c *check) layOut() {
	for i := range c.Lives {
		l := &c.Lives[i]
		c.start = append(c.start, len(c.what))
		c.of[l.ID] = i
		for n := uint64(1); n <= l.Sent.Begun; n++ {
			var w uint8
			if l.Taken.Taken.Has(n) {
				w |= delivered
				c.result.Delivered++
				if l.Taken.OnLane.Has(n) {
					w |= onLane
					c.result.OnLane++
				}
			}
			if n > l.Sent.Done {
				w |= unsure
			}
			if l.Sent.Failed.Has(n) {
				w |= failed
				if w&delivered != 0 {
					c.fault("message %d of life %d was delivered, and not sent", n, l.ID)
				}
			}
			c.what = append(c.what, w)
		}
		if last := l.Taken.Taken.Last(); last > l.Sent.Begun {
			c.fault("message %d of life %d was delivered, and only %d were sent", last, l.ID, l.Sent.Begun)
		}
		c.result.Bytes += l.Taken.Bytes
	}
	c.start = append(c.start, len(c.what))
	c.result.Sent = uint64(len(c.what))
	c.result.Missing = c.result.Sent - c.result.Delivered
}

// place returns where a message is on the axis, -1 for one before all.
func (c *check) place(p Place) int {
	i, ok := c.of[p.Life]
	if !ok || p.Number == 0 {
		// Nothing had come, or not of any of these.
		after := sort.Search(len(c.Lives), func(i int) bool { return c.Lives[i].ID >= p.Life })
		return c.start[after] - 1
	}
	return min(c.start[i]+int(p.Number)-1, c.start[i+1]-1)
}

// lifeAt returns the place of the life that a message is of.
func (c *check) lifeAt(at int) int { return sort.SearchInts(c.start, at+1) - 1 }

func (c *check) name(at int) string {
	i := c.lifeAt(at)
	return fmt.Sprintf("message %d of life %d", at-c.start[i]+1, c.Lives[i].ID)
}

// around returns the last message that was delivered up to a place, and the first
// one behind it: -1 and the end if there are none.
func (c *check) around(at int) (before, after int) {
	for before = min(at, len(c.what)-1); before >= 0 && c.what[before]&delivered == 0; before-- {
	}
	for after = at + 1; after < len(c.what) && c.what[after]&delivered == 0; after++ {
	}
	return before, after
}

// begunBy returns a message such that all behind it were begun at t or later, or
// the last place if there is none.
func (c *check) begunBy(t time.Time) int {
	for i, l := range c.Lives {
		j := sort.Search(len(l.Begun), func(j int) bool { return !l.Begun[j].Time.Before(t) })
		if j < len(l.Begun) {
			return c.start[i] + int(min(l.Begun[j].Number, l.Sent.Begun+1)) - 2
		}
	}
	return len(c.what) - 1
}

// begunAt returns a message that was begun at t or earlier, and all before it: -1
// if there is none.
func (c *check) begunAt(t time.Time) int {
	at := -1
	for i, l := range c.Lives {
		j := sort.Search(len(l.Begun), func(j int) bool { return l.Begun[j].Time.After(t) })
		if j == 0 {
			break
		}
		at = c.start[i] + int(min(l.Begun[j-1].Number, l.Sent.Begun)) - 1
	}
	return at
}

// excuse opens a gap between two messages, both excluded.
func (c *check) excuse(from, to int, gap string, which uint8) {
	c.result.Gaps++
	for i := from + 1; i < to; i++ {
		if w := c.what[i]; w&(delivered|excused) == 0 && (which == 0 || w&which != 0) {
			c.what[i] |= excused
			c.result.Excused[gap]++
		}
	}
}

// gapEnd is where a gap ends that a new connection has closed.
func (c *check) gapEnd(joined time.Time, after int) int {
	if joined.IsZero() {
		return after
	}
	return min(after, c.begunBy(joined.Add(c.Lag))+1)
}

// mark opens the gap of another process or connection.
func (c *check) mark(m Mark) {
	at := c.place(m.At)
	before, after := c.around(at)
	end := c.gapEnd(m.Joined, after)
	if m.Kind == MarkReceiver {
		from := before
		if !m.Died.IsZero() {
			from = max(before, c.begunAt(m.Died.Add(-c.Lag)))
			c.extra = append(c.extra, allowance{from: before, to: after})
		}
		c.excuse(from, end, gapReceiver, 0)
		return
	}
	if c.flowsOn(before, after, m.Broker) {
		return
	}
	c.excuse(before, c.gapEnd(m.Joined, c.firstThrough(m.Broker, at, after)), gapConnection, 0)
}

// firstThrough returns the first message that was delivered through a broker, where
// after is the first one behind at: what was left on a lane that it has not taken over
// comes after the connection to it, and is older than the death of the one before.
func (c *check) firstThrough(broker uint64, at, after int) int {
	for _, k := range c.Crashes {
		if k.Next == broker && !k.Whole {
			_, late := c.around(max(at, c.begunAt(k.At)))
			after = max(after, late)
		}
	}
	return after
}

// flowsOn reports whether an edge was on a lane when a broker died, and on the same
// one under the next: its ends are the same processes, and have brought it.
func (c *check) flowsOn(before, after int, next uint64) bool {
	if before < 0 || after >= len(c.what) || c.what[before]&c.what[after]&onLane == 0 || c.lifeAt(before) != c.lifeAt(after) {
		return false
	}
	for _, crash := range c.Crashes {
		if crash.Next == next && !crash.Whole {
			return false
		}
	}
	return !slices.ContainsFunc(c.Marks, func(m Mark) bool {
		at := c.place(m.At)
		return (m.Broker != next || m.Kind == MarkReceiver) && at >= before && at < after
	})
}

// crash opens the gap of a broker that was killed: what it had not logged.
func (c *check) crash(k Crash) {
	from := c.place(k.From)
	from, _ = c.around(from)
	// To the first message that came through the next one.
	to, joined := len(c.what), time.Time{}
	which := uint8(0)
	for _, m := range c.Marks {
		if m.Broker != k.Next {
			continue
		}
		at := c.place(m.At)
		before, after := c.around(at)
		to = min(to, c.firstThrough(k.Next, at, after))
		if m.Joined.After(joined) {
			joined = m.Joined
		}
		if c.flowsOn(before, after, k.Next) {
			which = failed
		}
	}
	c.excuse(from, max(from+1, c.gapEnd(joined, to)), gapBroker, which)
	// A record of a lane that the next one may have written again.
	last := map[string]int{}
	for i, r := range c.Records {
		if r.Broker == k.Broker && r.OnLane && k.At.Sub(r.Time) < c.Lag {
			last[r.Reason] = i
		}
	}
	for _, i := range last {
		c.twice[i] += c.Records[i].Count
	}
}

// lifeEnd opens the gap of a sender that was killed.
func (c *check) lifeEnd(i int) {
	l := &c.Lives[i]
	if l.Killed.IsZero() {
		return
	}
	first, end := c.start[i], c.start[i+1]
	if first == end {
		return
	}
	last, _ := c.around(end - 1)
	last = max(last, first-1)
	switch {
	case last >= first && c.what[last]&onLane != 0:
		c.excuse(last, end, gapSender, unsure)
	default:
		c.excuse(max(last, c.begunAt(l.Killed.Add(-c.Lag))), end, gapSender, 0)
	}
	// It writes down what it drops on a lane, the oldest in the queue, after it has
	// dropped it.
	oldest := c.begunAt(l.Killed.Add(-c.Lag)) - c.QueueSize - 1
	c.extra = append(c.extra, allowance{from: max(first-1, oldest), to: end})
}

// readRecords finds the messages that records are about.
func (c *check) readRecords() {
	for i, r := range c.Records {
		c.result.Logged[r.Reason] += r.Count
		life, known := c.of[r.Life]
		if !known || r.First == 0 {
			c.vague += r.Count
			continue
		}
		if begun := c.Lives[life].Sent.Begun; r.Last > begun || r.First > r.Last {
			c.fault("record of %d drops (%s) from %d to %d of life %d, which sent %d", r.Count, r.Reason, r.First, r.Last, r.Life, begun)
			continue
		}
		if !r.OnLane && r.Reason != "queue_full" && r.Reason != "no_memory" {
			c.twice[i] += min(r.Count, uint64(c.QueueSize)+1)
		}
		for n := r.First; n <= r.Last; n++ {
			c.what[c.start[life]+int(n)-1] |= logged
		}
	}
}

// uncovered looks for messages that are missing without a word.
func (c *check) uncovered() {
	vague := c.vague
	run := -1
	tell := func(end int) {
		if run >= 0 && end-run <= carryMax && c.besideLane(run, end) {
			c.unnumbered = append(c.unnumbered, span{run, end - 1, -1})
		} else if run >= 0 {
			c.fault("lost without a word: %d messages, the first one %s", end-run, c.name(run))
		}
		run = -1
	}
	for i, w := range c.what {
		if w&(delivered|excused|logged) != 0 {
			tell(i)
			continue
		}
		if c.allowed(i) {
			c.result.Excused[gapTaken]++
			c.what[i] |= excused
			tell(i)
			continue
		}
		if vague > 0 {
			vague--
			tell(i)
			continue
		}
		if run < 0 {
			run = i
		}
	}
	tell(len(c.what))
}

// besideLane reports whether messages stand beside one that came on a lane.
func (c *check) besideLane(from, end int) bool {
	return from > 0 && c.what[from-1]&onLane != 0 || end < len(c.what) && c.what[end]&onLane != 0
}

// allowed uses up an allowance for one message.
func (c *check) allowed(i int) bool {
	for j := range c.extra {
		if a := &c.extra[j]; !a.used && a.from < i && i < a.to {
			a.used = true
			return true
		}
	}
	return false
}

// sums compares runs of records that overlap with the messages that are missing
// in them.
func (c *check) sums() {
	spans := c.unnumbered
	for i, r := range c.Records {
		life, known := c.of[r.Life]
		if !known || r.First == 0 || r.First > r.Last || r.Last > c.Lives[life].Sent.Begun {
			continue
		}
		spans = append(spans, span{c.start[life] + int(r.First) - 1, c.start[life] + int(r.Last) - 1, i})
	}
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	carry, age := 0, 0
	for len(spans) > 0 {
		from, to := spans[0].from, spans[0].to
		var sum, twice uint64
		n := 0
		for ; n < len(spans) && spans[n].from <= to; n++ {
			to = max(to, spans[n].to)
			if record := spans[n].record; record >= 0 {
				sum += c.Records[record].Count
				twice += c.twice[record]
			}
		}
		lanes := !slices.ContainsFunc(spans[:n], func(s span) bool { return s.record >= 0 && !c.Records[s.record].OnLane })
		carry = c.compare(from, to, sum, twice, n, carry, lanes)
		spans = spans[n:]
		if age++; carry == 0 {
			age = 0
		}
		over := age > carryAgeMax || len(spans) == 0 || c.lifeAt(spans[0].from) != c.lifeAt(to)
		switch {
		case carry < 0 && over:
			c.fault("lost without a word: %d messages up to %s", -carry, c.name(to))
		case carry > 0 && over:
			c.fault("the log has %d drops more than messages are missing, up to %s", carry, c.name(to))
		}
		if over {
			carry, age = 0, 0
		}
	}
}

// carryMax is how many drops on a lane a record may have that another one has the
// numbers of, or nobody: the sender counts a drop, and notes its number a moment
// later. The broker waits for that, but not for a sender that is stopped just then.
// The records must make up for it within carryAgeMax.
const (
	carryMax    = 3
	carryAgeMax = 3
)

// compare compares one run. carry is what the runs before have too many or, less
// than 0, too few; it returns what is to be passed on.
func (c *check) compare(from, to int, sum, twice uint64, records, carry int, lanes bool) int {
	var missing, loose uint64
	for _, w := range c.what[from : to+1] {
		if w&delivered == 0 {
			missing++
			if w&excused != 0 {
				loose++
			}
		}
	}
	least := missing - loose
	most := missing + twice
	for _, a := range c.extra {
		if a.from < to && from < a.to {
			least -= min(least, 1)
			most++
			loose++
		}
	}
	if loose+twice+c.vague > 0 {
		c.result.Loose++
	} else {
		c.result.Exact++
	}
	least -= min(least, c.vague)
	off := int(sum) + carry
	switch {
	case off < int(least):
		off -= int(least)
	case off > int(most):
		off -= int(most)
	default:
		return 0
	}
	if lanes && -carryMax <= off && off <= carryMax {
		return off
	}
	c.fault("%d records have %d drops from %s to %s, where %d are missing (%d to %d would be right)",
		records, sum, c.name(from), c.name(to), missing, least, most)
	return 0
}
