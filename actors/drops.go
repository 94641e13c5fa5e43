package actors

import (
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
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
	earlier    []dropped // unlogged, too: of the sender's sessions before
	total      dropped   // since the broker started, logged or not
	lastLogged time.Time
	listed     bool // in dropLedger.pending
	confirms   []laneConfirm
}

// laneConfirm is a lane whose memory is to be told once the log has its drops, so
// that after a crash of the broker the next one does not log them again.
type laneConfirm struct {
	keeper *lane.Keeper
	count  uint64
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
	path   path
	reason wire.DropReason
}

// dropped is what gets counted: count messages between two sequence numbers of
// one session of the sender.
type dropped struct {
	sender            ConnID // 0: nobody knows
	count             uint64
	bytes             uint64
	seqFirst, seqLast wire.Seq
	age               time.Duration // of the oldest
}

func (d *dropped) add(more dropped) {
	// Sequence numbers start at 1; 0 is one that nobody knows.
	if d.seqFirst == 0 || more.seqFirst != 0 && more.seqFirst < d.seqFirst {
		d.seqFirst = more.seqFirst
	}
	d.seqLast = max(d.seqLast, more.seqLast)
	d.count += more.count
	d.bytes += more.bytes
	d.age = max(d.age, more.age)
	// On a lane a drop is counted before its number is noted: what two looks at it
	// found may overlap by that one, which is the one before the first then.
	if d.seqFirst > 1 && d.count > uint64(d.seqLast-d.seqFirst)+1 {
		d.seqFirst = d.seqLast - min(d.seqLast, wire.Seq(d.count)) + 1
	}
}

func (l *dropLedger) add(e *edge, p path, reason wire.DropReason, d dropped) {
	l.total += d.count
	e.stats.dropped += d.count
	c := &e.drops[p][reason]
	if c.unlogged.count > 0 && c.unlogged.sender != d.sender {
		// A new process counts from 1 again: a record of both would name numbers of
		// neither.
		c.earlier = append(c.earlier, c.unlogged)
		c.unlogged = dropped{}
	}
	c.unlogged.sender = d.sender
	c.unlogged.add(d)
	c.total.add(d)
	if due := c.lastLogged.Add(dropInterval); due.Before(l.due) || len(l.pending) == 0 {
		l.due = due
	}
	if !c.listed {
		c.listed = true
		l.pending = append(l.pending, pendingDrop{e, p, reason})
	}
}

// confirm has keeper told once so many drops that were added are in the log.
func (l *dropLedger) confirm(e *edge, reason wire.DropReason, keeper *lane.Keeper, count uint64) {
	c := &e.drops[pathLane][reason]
	for i := range c.confirms {
		if c.confirms[i].keeper == keeper {
			c.confirms[i].count += count
			return
		}
	}
	c.confirms = append(c.confirms, laneConfirm{keeper, count})
}

// take returns what is to be called when a record of c has been written.
func (c *dropCount) take() (written func()) {
	if len(c.confirms) == 0 {
		return nil
	}
	confirms := c.confirms
	return func() {
		for _, x := range confirms {
			x.keeper.Confirm(x.count)
		}
	}
}

// emit offers a record for every count that is due to write, which returns false
// when it cannot take it now: then the count stays and grows. With all set,
// everything is due.
func (l *dropLedger) emit(now time.Time, all bool, write func(wire.DropRecord, func()) bool) {
	if len(l.pending) == 0 || !all && now.Before(l.due) {
		return
	}
	kept := l.pending[:0]
	l.due = now.Add(dropInterval)
	for _, p := range l.pending {
		c := &p.edge.drops[p.path][p.reason]
		due := c.lastLogged.Add(dropInterval)
		if !all && now.Before(due) {
			kept = append(kept, p)
			if due.Before(l.due) {
				l.due = due
			}
			continue
		}
		if !p.edge.writeDrops(p.path, p.reason, now, write) {
			kept = append(kept, p) // the log is slow; again soon
			l.due = now.Add(tickInterval)
			continue
		}
		c.lastLogged, c.listed = now, false
	}
	clear(l.pending[len(kept):])
	l.pending = kept
}

// writeDrops offers the records of what is unlogged, one for each session of the
// sender. It reports whether all of them were taken.
func (e *edge) writeDrops(p path, reason wire.DropReason, now time.Time, write func(wire.DropRecord, func()) bool) bool {
	c := &e.drops[p][reason]
	for len(c.earlier) > 0 {
		if !write(e.dropRecord(p, reason, c.earlier[0], now), nil) {
			return false
		}
		c.earlier = c.earlier[1:]
	}
	c.earlier = nil
	if !write(e.dropRecord(p, reason, c.unlogged, now), c.take()) {
		return false
	}
	c.unlogged, c.confirms = dropped{}, nil
	return true
}

// dropLogged is the drops for one reason that the log has, on all paths.
func (e *edge) dropLogged(reason wire.DropReason) (total uint64) {
	for p := range e.drops {
		c := &e.drops[p][reason]
		total += c.total.count - c.unlogged.count
		for _, d := range c.earlier {
			total -= d.count
		}
	}
	return total
}

// dropRecord puts what was dropped for one reason into the form of log and wire.
func (e *edge) dropRecord(p path, reason wire.DropReason, d dropped, now time.Time) wire.DropRecord {
	return wire.DropRecord{
		Time:      now,
		Dataflow:  e.flow.name,
		From:      e.from,
		To:        e.to,
		Reason:    reason.String(),
		Policy:    e.policy.String(),
		Count:     d.count,
		Total:     e.dropLogged(reason) + d.count,
		Bytes:     d.bytes,
		SeqFirst:  uint64(d.seqFirst),
		SeqLast:   uint64(d.seqLast),
		QueueSize: e.queueSize,
		AgeMaxMS:  float64(d.age) / float64(time.Millisecond),
		Path:      p.String(),
		Sender:    uint64(d.sender),
	}
}

// dropTotal is the drops for one reason, on all paths.
func (e *edge) dropTotal(reason wire.DropReason) (total uint64) {
	for p := range e.drops {
		total += e.drops[p][reason].total.count
	}
	return total
}
