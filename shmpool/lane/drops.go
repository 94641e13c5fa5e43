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
	d, ok = k.tell(k.due(c.Evicted + c.Refused - k.reported))
	if k.turned = c.Evicted + c.Refused - k.reported; k.turned > 0 {
		k.window++
		k.unread = true
		k.keep(windowWord, k.window)
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

// due returns how many of the drops that were not told are to be told now.
func (k *Keeper) due(untold uint64) uint64 {
	due := k.turned
	if due == 0 {
		return 0
	}
	// What was dropped after the count and before the turn is noted with it: told
	// with the next ones, it would be a count without numbers.
	due = max(due, min(k.noted.Count, untold))
	// And what was counted and not noted yet would have the numbers of others. Its
	// producer has until the next look; if it is stopped or dead, it goes without. What is
	// noted by now are those of the last look first.
	late, stale := due-min(due, k.noted.Count), k.late-min(k.late, k.noted.Count)
	k.late = late - min(late, stale)
	return due - k.late
}

// tell returns so many drops, with what is noted of them.
func (k *Keeper) tell(count uint64) (Drops, bool) {
	if count == 0 {
		return Drops{}, false
	}
	d := k.noted
	k.noted = Drops{}
	k.reported += count
	d.Count = count
	k.bound(&d)
	k.seqLast = max(k.seqLast, d.SeqLast)
	k.hasTold(d)
	return d, true
}

// bound makes the numbers of the messages fit their count.
func (k *Keeper) bound(d *Drops) {
	if d.SeqLast == 0 && k.words != nil {
		d.SeqLast = k.guess(d.Count)
		d.SeqFirst = d.SeqLast
	}
	if d.SeqLast > 0 && (d.SeqLast < d.SeqFirst || d.Count-1 > uint64(d.SeqLast-d.SeqFirst)) {
		d.SeqFirst = d.SeqLast - min(d.SeqLast-1, wire.Seq(d.Count-1))
	}
}

// guess returns the number of the last of so many drops that nobody has noted,
// because their producer is dead or was stopped: 0 if there is nothing to go by.
func (k *Keeper) guess(count uint64) (last wire.Seq) {
	defer guardQuiet(debug.SetPanicOnFault(true))
	if d, ok := readWindow(k.words, k.window); ok && d.SeqFirst > 0 {
		return d.SeqFirst - 1 // a lane drops in the order of numbers
	}
	seqAt := func(position uint64) wire.Seq {
		entry := entryAt(k.words, uint32(position)&(Capacity(k.cfg.QueueSize)-1))
		return wire.Seq(atomic.LoadUint64(&entry[entrySeq]))
	}
	switch c := &k.last; {
	case k.cfg.Policy == wire.PolicyDropNewest && c.Pushed == 0:
		return k.seqLast + wire.Seq(count)
	case k.cfg.Policy == wire.PolicyDropNewest:
		return max(seqAt(c.Pushed-1), k.seqLast) + wire.Seq(count)
	case c.Queued > 0:
		return max(seqAt(c.Pushed-uint64(c.Queued)), 2) - 1
	case c.Pushed > 0:
		return max(seqAt(c.Pushed-1), 2) - 1
	}
	return 0
}

// Confirm says that the log has so many of the drops that were told: a router
// after this one goes on from there. It may be called from any goroutine, and after
// Release, when it does nothing.
func (k *Keeper) Confirm(count uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	count = min(count, k.reported-k.logged)
	if k.words == nil || count == 0 {
		return
	}
	k.logged += count
	if k.untell(count); k.logged == k.reported {
		k.told = k.told[:0]
	}
	defer guardQuiet(debug.SetPanicOnFault(true))
	// Before LOGGED: what the log has must not be told as a part of later drops.
	k.keep(notedWord+windowSeqLast, 0)
	k.keep(loggedWord, k.logged)
	k.keepNoted()
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
