package node

import (
	"errors"
	"fmt"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
)

// reportBytes: so many evacuated bytes are reported at once and not at the end of
// a look, so that their senders need not wait for the rest.
const reportBytes = 1 << 20

// evacuateOne evacuates one message if it is still held. The error says that it
// could not.
func (r *receiver) evacuateOne(d due, now int64) error {
	if d.rec == nil {
		return r.evacuateQueued(d.number, now)
	}
	r.mu.Lock()
	if d.rec.watched.number != d.number {
		r.mu.Unlock()
		return nil // released
	}
	rec := d.rec
	e, view := rec.estate, rec.view
	move, err := e.startMove(rec, r.evac.room(r.n))
	if err != nil {
		err = r.evac.explain(err)
		rec.watched.again = now + int64(evacuateAgain)
		r.mu.Unlock()
		return err
	}
	e.hold()
	r.mu.Unlock()

	err = move.Run() // the user reads, and may release it meanwhile

	r.mu.Lock()
	held := rec.watched.number == d.number
	switch {
	case held && err == nil:
		l, ledger := r.moved(rec, move, now)
		r.mu.Unlock()
		// Now that nothing of it is read there any more. The view keeps the ledger
		// mapped.
		if l != nil {
			l.done(ledger, view.SlotIndex())
			l.unref()
		}
		e.endMove(move, view, true)
		r.reportMuch()
		e.drop() // what the record had of it
	case held:
		rec.watched.again = now + int64(evacuateAgain)
		r.mu.Unlock()
		e.endMove(move, shmpool.Ref{}, false)
	default: // who released it has done everything else
		err = nil
		r.mu.Unlock()
		e.endMove(move, shmpool.Ref{}, false)
	}
	e.drop()
	return err
}

// moved makes of a held message one that needs nothing of its sender's memory,
// with r.mu held: its release will have nothing to give back but its own memory. It
// returns the lane, if there is one, whose bit the caller clears: exactly one of
// release and this does.
func (r *receiver) moved(rec *record, move *shmpool.Move, now int64) (*laneIn, lane.Ledger) {
	v := &r.evac
	rep := r.evac.reports.of(rec.input, rec.session, rec.lane != nil)
	rep.add(rec.region, rec.seq, uint64(len(rec.payload)), now-rec.watched.since, rec.token)
	l, ledger := rec.lane, rec.ledger
	rec.lane, rec.ledger, rec.token = nil, lane.Ledger{}, 0
	rec.view = move.Kept()
	v.fresh.remove(rec)
	rec.watched.moved = true
	v.moved++
	r.n.stats.evacuated.Add(1)
	r.n.stats.evacuatedBytes.Add(uint64(len(rec.payload)))
	return l, ledger
}

// reportMuch tells the broker at once of a lot that was evacuated.
func (r *receiver) reportMuch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := uint64(0)
	for _, x := range r.evac.reports.all {
		sum += x.bytes
	}
	if sum >= reportBytes {
		r.report(time.Now())
	}
}

// room is how many more bytes may be evacuated.
func (v *evacuator) room(n *Node) uint64 {
	used := n.privateBytes.Load() + v.heap
	return v.max - min(used, v.max)
}

// explain says which setting a limit is, with r.mu held.
func (v *evacuator) explain(err error) error {
	if errors.Is(err, shmpool.ErrMoveLimit) {
		return fmt.Errorf("%w (held_max is %s)", err, shmpool.FormatBytes(v.max))
	}
	return err
}

// startMove begins to move what a record's view shows. A fresh mapping of the
// region may have taken the place of the view's: ledgers that lanes remember are
// those of the one before.
func (e *estate) startMove(rec *record, room uint64) (*shmpool.Move, error) {
	v := &e.views
	v.Lock()
	defer v.Unlock()
	before := v.cache.Mapping(rec.region)
	length := uint64(len(rec.payload))
	if rec.guard != nil && rec.guard.payload != nil {
		length = 0 // the user has a copy already
	}
	move, err := v.cache.StartMove(rec.view, rec.offset, length, room)
	if err != nil {
		return nil, err
	}
	if fresh := v.cache.Mapping(rec.region); fresh != before {
		v.version++
		if e.lanes {
			v.faults.Go(func() { _ = fresh.Prefault() }) // slower, not wrong
		}
	}
	return move, nil
}

// endMove enters what was moved. old is the view that it took the place of, if
// it did.
func (e *estate) endMove(move *shmpool.Move, old shmpool.Ref, used bool) {
	v := &e.views
	v.Lock()
	err := v.cache.EndMove(move, used)
	err = errors.Join(err, v.cache.Release(old))
	e.countPrivate()
	v.Unlock()
	if err != nil {
		e.n.log.Warn("memory of an evacuated message", "error", err)
	}
}

// countPrivate keeps the node's sum, with the views locked.
func (e *estate) countPrivate() {
	if now := e.views.cache.PrivateBytes(); now != e.views.private {
		e.n.privateBytes.Add(now - e.views.private)
		e.views.private = now
	}
}

// evacuateQueued copies the payload of a message that waits in the queue. Nobody
// has a pointer into it yet, so it becomes one that has come inline.
func (r *receiver) evacuateQueued(position uint64, now int64) error {
	r.mu.Lock()
	q := r.queue.find(position)
	if q == nil || q.item.Token == 0 {
		r.mu.Unlock()
		return nil // handed out
	}
	s, it := q.session, q.item
	e := s.estate
	payload, view, err := e.view(it.Region, it.Offset, it.Length)
	if err != nil {
		r.mu.Unlock()
		return nil // the user's call finds out, and rejects it
	}
	if room := r.evac.room(r.n); it.Length > room {
		q.again = now + int64(evacuateAgain)
		err = r.evac.explain(fmt.Errorf("%w: %d bytes more, %d are left", shmpool.ErrMoveLimit, it.Length, room))
		r.mu.Unlock()
		e.unview(view)
		return err
	}
	e.hold()
	r.mu.Unlock()

	// Go aligns what is as long as this to 64 bytes.
	own, err := shmpool.AppendShared(make([]byte, 0, max(it.Length, 1024)), payload)
	e.unview(view)

	r.mu.Lock()
	q = r.queue.find(position)
	switch taken := q == nil || q.session != s || q.item.Token != it.Token; {
	case taken:
		r.mu.Unlock()
		err = nil
	case err != nil:
		q.again = now + int64(evacuateAgain)
		r.mu.Unlock()
	default:
		r.queuedMoved(q, own[:len(own):len(own)], now)
		r.mu.Unlock()
		r.reportMuch()
		e.drop() // what the token had of it
	}
	e.drop()
	return err
}

func (r *receiver) queuedMoved(q *queued, own []byte, now int64) {
	v := &r.evac
	rep := v.reports.of(q.input, q.session, false)
	rep.add(q.item.Region, q.item.Seq, q.item.Length, now-q.since, q.item.Token)
	q.item.Payload, q.item.Region, q.item.Offset, q.item.Token = own, 0, 0, 0
	q.moved, q.heap = true, uint64(cap(own))
	v.moved++
	v.heap += q.heap
	r.n.stats.evacuated.Add(1)
	r.n.stats.evacuatedBytes.Add(q.item.Length)
}
