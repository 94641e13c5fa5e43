package node

import (
	"math"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// A message that its user keeps for longer than the hold timeout of its input is
// evacuated: its bytes go to memory of this process, under the same addresses, and
// its slot goes back to the sender. So is one that waits here for a user who does
// not ask for it. Nobody is asked about that: it works while the broker is away,
// and while the user's code is stuck.

const (
	// evacuateParts: what is held is looked at this often during its timeout. It is
	// evacuated when that is over, or one part later.
	evacuateParts     = 8
	evacuatePeriodMin = 5 * time.Millisecond
	// evacuateShare: looks take one part in so many of the time.
	evacuateShare = 32
	// evacuateAgain is the time to the next try with a message that could not be
	// evacuated.
	evacuateAgain = time.Second

	never time.Duration = math.MaxInt64
)

// evacuator is what the receiver knows of messages that it may have to evacuate.
// It has a timer and no goroutine. The timer runs while there are any, so a node
// that holds nothing pays nothing. Guarded by receiver.mu.
type evacuator struct {
	max     uint64 // bytes that may be evacuated at a time; 0: nothing is
	begun   time.Time
	timer   *time.Timer
	armed   bool
	running bool          // a look is under way; it arms the timer at its end
	period  time.Duration // of the armed timer; while a look is under way, what is wanted of it

	numbers uint64    // of messages: the last one
	fresh   freshList // handed out, with a hold timeout, and not evacuated
	moved   uint64    // evacuated and not released
	heap    uint64    // bytes of those that were evacuated from the queue

	stuck   uint64    // could not be evacuated, as of the last look
	why     string    // the last of them could not
	toldLog time.Time // about them

	reports reports
}

// watched is what the evacuator keeps in the record of a held message.
type watched struct {
	number     uint64 // which message it is: records are used again. 0: it is not in fresh
	prev, next *record
	since      int64 // nanoseconds from evacuator.begun to the first look that found it; 0: none has
	again      int64 // not to be tried before; 0: it was not tried
	moved      bool
	heap       uint64 // bytes, if it was evacuated from the queue
}

// freshList is a list of records, oldest first.
type freshList struct {
	first, last *record
}

func (l *freshList) insert(rec *record) {
	rec.watched.prev = l.last
	if l.last != nil {
		l.last.watched.next = rec
	} else {
		l.first = rec
	}
	l.last = rec
}

func (l *freshList) remove(rec *record) {
	w := &rec.watched
	if w.prev != nil {
		w.prev.watched.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.watched.prev = w.prev
	} else {
		l.last = w.prev
	}
	w.prev, w.next, w.number = nil, nil, 0
}

// holdTimeout is how long the user may keep a message; 0: for ever.
func (rec *record) holdTimeout() time.Duration {
	if rec.lane != nil {
		return rec.lane.hold
	}
	return rec.input.info.HoldTimeout
}

// watch begins to look after a message that is handed out, with r.mu held.
func (r *receiver) watch(rec *record) {
	v := &r.evac
	if rec.region == 0 || v.max == 0 {
		return
	}
	hold := rec.holdTimeout()
	if hold == 0 {
		return
	}
	v.numbers++
	rec.watched.number = v.numbers
	v.fresh.insert(rec)
	v.arm(r, hold/evacuateParts)
}

// unwatch ends that, with r.mu held.
func (r *receiver) unwatch(rec *record) {
	w := &rec.watched
	if w.number != 0 {
		r.evac.fresh.remove(rec)
	}
	if w.moved {
		r.evac.unkeep(w.heap)
		r.evac.arm(r, evacuateAgain) // the broker is told
	}
}

// unkeep counts a message that was evacuated and is not held any more.
func (v *evacuator) unkeep(heap uint64) {
	v.moved--
	v.heap -= heap
}

// attach takes over what the broker of a new session says.
func (v *evacuator) attach(r *receiver, s *session) {
	v.max = 0
	if s.evacuates {
		v.max = s.welcome.HeldMax
	}
	v.reports.kept = wire.Kept{}
	if v.moved > 0 || len(v.reports.all) > 0 || v.fresh.first != nil {
		v.arm(r, evacuatePeriodMin)
	}
}

// arm sees to it that there is a look after d at the latest.
func (v *evacuator) arm(r *receiver, d time.Duration) {
	if (v.armed || v.running) && d >= v.period {
		return
	}
	v.period = max(d, evacuatePeriodMin)
	if v.running {
		return
	}
	v.armed = true
	if v.timer == nil {
		v.begun = time.Now()
		v.timer = time.AfterFunc(v.period, r.evacuate)
		return
	}
	v.timer.Reset(v.period)
}

// evacuate is the timer's function. It is a goroutine for as long as the copying
// takes.
func (r *receiver) evacuate() {
	v := &r.evac
	r.mu.Lock()
	if v.running { // the timer was set anew when it was about to end
		r.mu.Unlock()
		return
	}
	v.armed, v.running, v.period = false, true, never
	started := time.Now()
	now := int64(started.Sub(v.begun))
	found := r.lookAtHeld(now)
	looked := time.Since(started)
	r.mu.Unlock()

	for _, d := range found.due {
		err := r.evacuateOne(d, now)
		if err != nil {
			found.stuck++
			found.why = err.Error()
		}
	}
	r.mu.Lock()
	v.stuck, v.why = found.stuck, found.why
	wait := min(v.period, r.report(time.Now()))
	if found.shortest > 0 {
		wait = min(wait, max(found.shortest/evacuateParts, evacuateShare*looked))
	}
	v.running, v.period = false, never
	if wait < never {
		v.arm(r, wait)
	}
	tell := r.stuckLine()
	r.mu.Unlock()
	if tell != nil {
		tell()
	}
}

// look is what a look has found.
type look struct {
	due      []due
	shortest time.Duration // hold timeout of what is there; 0: nothing is
	stuck    uint64        // messages that wait for the next try
	why      string
}

// due is one message that is to be evacuated. It may be gone when its turn comes.
type due struct {
	rec    *record // nil: it waits in the queue
	number uint64  // of the record, or its position in the queue
}

// lookAtHeld finds what has been held for too long, with r.mu held. When a message
// was handed out is not known, only which look was the first to find it: that
// costs no clock for each message, and none is evacuated too early.
func (r *receiver) lookAtHeld(now int64) (found look) {
	v := &r.evac
	if v.max == 0 {
		return found
	}
	found.why = v.why
	for rec := v.fresh.first; rec != nil; rec = rec.watched.next {
		w := &rec.watched
		found.at(rec.holdTimeout(), &w.since, w.again, now, due{rec, w.number})
	}
	for i := range r.queue.count {
		q := r.queue.at(i)
		if q.lane != nil || q.event != nil || q.item.Token == 0 || q.input.info.HoldTimeout == 0 {
			continue
		}
		found.at(q.input.info.HoldTimeout, &q.since, q.again, now, due{nil, r.queue.popped + uint64(i)})
	}
	if found.stuck == 0 {
		found.why = ""
	}
	return found
}

func (l *look) at(hold time.Duration, since *int64, again, now int64, d due) {
	if l.shortest == 0 || hold < l.shortest {
		l.shortest = hold
	}
	switch {
	case *since == 0:
		*since = now
	case now-*since < int64(hold):
	case now < again:
		l.stuck++
	default:
		l.due = append(l.due, d)
	}
}
