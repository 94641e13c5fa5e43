package actors

import (
	"time"

	"github.com/brokerd/brokerd/wire"
)

// reasonCount is one more than the highest drop reason.
const reasonCount = int(wire.DropShutdown) + 1

// dropCount gathers the drops of one edge for one reason until they are logged.
// A record leaves at once for the first drop and then at most once a second, so
// that the counts in the log always add up to the drops and a flood of drops is
// no flood of lines.
type dropCount struct {
	unlogged   dropped
	total      dropped // since the broker started, logged or not
	lastLogged time.Time
	listed     bool // in dropLedger.pending
}

// dropInterval is the least time between two log lines of one edge and reason.
const dropInterval = time.Second

// dropLedger knows which counts still have to be logged.
type dropLedger struct {
	pending []pendingDrop
	due     time.Time // when the next of them may be logged
	total   uint64
}

type pendingDrop struct {
	edge   *edge
	reason wire.DropReason
}

// dropped is what gets counted: count messages between two sequence numbers.
type dropped struct {
	count             uint64
	bytes             uint64
	seqFirst, seqLast wire.Seq
	age               time.Duration // of the oldest
}

func (d *dropped) add(more dropped) {
	if d.count == 0 || more.seqFirst < d.seqFirst {
		d.seqFirst = more.seqFirst
	}
	d.seqLast = max(d.seqLast, more.seqLast)
	d.count += more.count
	d.bytes += more.bytes
	d.age = max(d.age, more.age)
}

func (l *dropLedger) add(e *edge, reason wire.DropReason, d dropped) {
	l.total += d.count
	e.stats.dropped += d.count
	c := &e.drops[reason]
	c.unlogged.add(d)
	c.total.add(d)
	if due := c.lastLogged.Add(dropInterval); due.Before(l.due) || len(l.pending) == 0 {
		l.due = due
	}
	if !c.listed {
		c.listed = true
		l.pending = append(l.pending, pendingDrop{e, reason})
	}
}

// emit offers a record for every count that is due to write, which returns false
// when it cannot take it now: then the count stays and grows. With all set,
// everything is due.
func (l *dropLedger) emit(now time.Time, all bool, write func(wire.DropRecord) bool) {
	if len(l.pending) == 0 || !all && now.Before(l.due) {
		return
	}
	kept := l.pending[:0]
	l.due = now.Add(dropInterval)
	for _, p := range l.pending {
		c := &p.edge.drops[p.reason]
		due := c.lastLogged.Add(dropInterval)
		if !all && now.Before(due) {
			kept = append(kept, p)
			if due.Before(l.due) {
				l.due = due
			}
			continue
		}
		if !write(p.edge.dropRecord(p.reason, c.unlogged, now)) {
			kept = append(kept, p) // the log is slow; again soon
			l.due = now.Add(tickInterval)
			continue
		}
		c.unlogged, c.lastLogged, c.listed = dropped{}, now, false
	}
	clear(l.pending[len(kept):])
	l.pending = kept
}

// dropRecord puts what was dropped for one reason into the form of log and wire.
func (e *edge) dropRecord(reason wire.DropReason, d dropped, now time.Time) wire.DropRecord {
	return wire.DropRecord{
		Time:      now,
		Dataflow:  e.flow.name,
		From:      e.from,
		To:        e.to,
		Reason:    reason.String(),
		Policy:    e.policy.String(),
		Count:     d.count,
		Total:     e.drops[reason].total.count,
		Bytes:     d.bytes,
		SeqFirst:  uint64(d.seqFirst),
		SeqLast:   uint64(d.seqLast),
		QueueSize: e.queueSize,
		AgeMaxMS:  float64(d.age) / float64(time.Millisecond),
		Path:      pathBrokered,
	}
}
