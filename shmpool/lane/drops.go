package lane

import (
	"runtime/debug"
	"sync/atomic"

	"github.com/brokerd/brokerd/wire"
)

// Drops is called from time to time, and returns what the lane has lost between
// the two calls before this one; ok is false if that is nothing. It is late by
// one call so that the producer, which notes what it drops a moment after it
// counts it, is done with what is read here. Errors are as Close's.
func (k *Keeper) Drops() (d Drops, ok bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.enter(); err != nil {
		return Drops{}, false, err
	}
	defer guardError(debug.SetPanicOnFault(true), &err)
	c, err := k.count()
	if err != nil {
		return Drops{}, false, err
	}
	if k.unread {
		k.unread = false
		k.note(k.window - 1)
	}
	count := k.turned
	if count > 0 {
		// What was dropped after the count and before the turn is noted with it: told
		// with the next ones, it would be a count without numbers.
		count = max(count, min(k.noted.Count, c.Evicted+c.Refused-k.reported))
	}
	d, ok = k.tell(count)
	if k.turned = c.Evicted + c.Refused - k.reported; k.turned > 0 {
		k.window++
		k.unread = true
		point(opKeep)
		atomic.StoreUint64(&k.words[windowWord], k.window)
	}
	return d, ok, nil
}

// Remainder returns all that the lane has lost and Drops has not told, after
// Close, and when the producer has said that it is done, or is dead. ok is false
// if that is nothing. Of a lane that is corrupt or released it is what was known.
func (k *Keeper) Remainder() (d Drops, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	count := k.turned
	if k.enter() == nil {
		count = max(count, k.lastDrops())
	}
	k.turned = 0
	return k.tell(count)
}

// lastDrops reads both windows, and returns how many drops were not told.
func (k *Keeper) lastDrops() (count uint64) {
	var err error // a fault leaves what was known before
	defer guardError(debug.SetPanicOnFault(true), &err)
	if k.unread {
		k.unread = false
		k.note(k.window - 1)
	}
	k.note(k.window)
	c, err := k.count()
	if err != nil {
		return 0
	}
	return c.Evicted + c.Refused - k.reported
}

// note adds a window to what is to be told.
func (k *Keeper) note(number uint64) {
	d, ok := readWindow(k.words, number)
	if !ok {
		return
	}
	n := &k.noted
	if n.Count == 0 {
		*n = d
		return
	}
	n.Count += d.Count
	n.Bytes += d.Bytes
	n.SeqFirst = min(n.SeqFirst, d.SeqFirst)
	n.SeqLast = max(n.SeqLast, d.SeqLast)
	n.OldestNS = min(n.OldestNS, d.OldestNS)
}

// tell returns so many drops, with what is noted of them.
func (k *Keeper) tell(count uint64) (Drops, bool) {
	if count == 0 {
		return Drops{}, false
	}
	d := k.noted
	k.noted = Drops{}
	k.reported += count
	d.Count, d.Total = count, k.reported
	k.bound(&d)
	return d, true
}

// bound makes the numbers of the messages fit their count. What a broker or a
// producer that died had not told of them is gone; but messages are evicted in
// their order, so they were before the one that is the oldest now.
func (k *Keeper) bound(d *Drops) {
	if d.SeqLast == 0 && k.words != nil {
		defer guardQuiet(debug.SetPanicOnFault(true))
		at := k.last.Pushed - uint64(k.last.Queued)
		if k.last.Queued == 0 && at > 0 {
			at--
		}
		entry := entriesWord + entryWords*uint(uint32(at)&(Capacity(k.cfg.QueueSize)-1))
		next := wire.Seq(atomic.LoadUint64(&k.words[entry+entrySeq]))
		d.SeqLast = max(next, 2) - 1
		d.SeqFirst = d.SeqLast
	}
	if d.SeqLast > 0 && (d.SeqLast < d.SeqFirst || d.Count-1 > uint64(d.SeqLast-d.SeqFirst)) {
		d.SeqFirst = d.SeqLast - min(d.SeqLast-1, wire.Seq(d.Count-1))
	}
}

// Confirm says that the log has the drops up to Total: a router after this one
// goes on from there. It may be called from any goroutine, and after Release,
// when it does nothing.
func (k *Keeper) Confirm(total uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.words == nil || total <= k.logged {
		return
	}
	k.logged = total
	defer guardQuiet(debug.SetPanicOnFault(true))
	point(opKeep)
	atomic.StoreUint64(&k.words[loggedWord], total)
}

// Release gives the memory back, and calls the function that NewKeeper was given.
// Releasing again does nothing.
func (k *Keeper) Release() {
	k.mu.Lock()
	release := k.release
	k.words, k.release = nil, nil
	k.mu.Unlock()
	if release != nil {
		release()
	}
}
