package lane

import (
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/brokerd/brokerd/wire"
)

// Counters is what has become of the messages of a lane. The counts go up only,
// as long as they are read once per 2^32 messages, which takes more than an hour.
type Counters struct {
	Pushed  uint64 // on the lane, ever
	Taken   uint64 // by the consumer
	Evicted uint64 // by the producer to make room, and by Cut
	Refused uint64 // never on the lane
	Queued  uint32
	Closed  bool
}

// Drops is what a lane has lost since the log was last told. Count is exact: over
// all Drops of a lane, and after Withdrawn, the counts add up to what the lane has
// lost. The rest describes the messages, and is as good as what the producer had
// noted when it was read: zero if it was killed at the wrong moment.
type Drops struct {
	Count    uint64
	Bytes    uint64
	SeqFirst wire.Seq
	SeqLast  wire.Seq
	OldestNS int64 // Unix nanoseconds, the sender's clock: of the oldest one
}

// Withdrawn is what Cut took back from a lane.
type Withdrawn struct {
	From     uint64 // position of the first
	Count    uint32
	Bytes    uint64
	SeqFirst wire.Seq
	SeqLast  wire.Seq
	OldestNS int64
}

// countersTriesMax bounds how often the keeper looks for a moment in which the
// head does not move. A busy lane moves it every few hundred nanoseconds.
const countersTriesMax = 64

// Keeper is the router's hold of a lane. It is safe for concurrent use, because
// the log confirms from another goroutine.
type Keeper struct {
	cfg Config

	mu       sync.Mutex
	words    []uint64 // nil once released
	release  func()
	err      error    // the lane is corrupt, for good
	window   uint64   // number of the current drop window
	turned   uint64   // drops up to its start that are not told yet
	unread   bool     // the window before it is still to be read
	read     uint64   // number of the last window that was read
	noted    Drops    // of windows read, not told yet
	told     []Drops  // each of them, until it is confirmed
	late     uint64   // drops counted at the last look whose numbers were not noted
	seqLast  wire.Seq // the highest number that was told
	reported uint64   // evicted + refused as told so far
	logged   uint64   // of these, as confirmed
	last     Counters
}

// NewKeeper returns the keeper of the lane in words, which may have been in use
// for a while: what the log has of its drops lies in the lane itself. release is
// called once, by Release. If the memory is not that of the lane, the methods say
// so.
func NewKeeper(words []uint64, cfg Config, release func()) *Keeper {
	k := &Keeper{cfg: cfg, words: words, release: release}
	if k.err = check(words, cfg); k.err == nil {
		k.err = k.load()
	}
	return k
}

// load reads what only the router writes. From here on the copies count.
func (k *Keeper) load() (err error) {
	defer guardError(debug.SetPanicOnFault(true), &err)
	k.window = atomic.LoadUint64(&k.words[windowWord])
	k.logged = atomic.LoadUint64(&k.words[loggedWord])
	k.reported = k.logged
	// A router before this one may have turned the window, and gone.
	k.unread = true
	k.loadNoted()
	return nil
}

// enter is the start of every method: it returns why there is nothing to do.
func (k *Keeper) enter() error {
	if k.words == nil {
		return ErrReleased
	}
	return k.err
}

// fail makes the lane corrupt for good.
func (k *Keeper) fail(format string, args ...any) error {
	k.err = fmt.Errorf("lane: %w: lane %d: %s", ErrCorrupt, uint64(k.cfg.Lane), fmt.Sprintf(format, args...))
	return k.err
}

// Close closes the lane: no push succeeds any more, and the consumer drains what
// is queued. Errors are ErrReleased or wrap ErrCorrupt.
func (k *Keeper) Close() (err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.enter(); err != nil {
		return err
	}
	defer guardError(debug.SetPanicOnFault(true), &err)
	point(opKeep)
	atomic.OrUint64(&k.words[tailWord], closedBit)
	return nil
}

// Cut closes the lane and takes back what is queued: the consumer is gone, or
// will find the lane ended. What is withdrawn counts as told; the caller tells
// the log, and then confirms it. Errors are as Close's; then nothing is
// withdrawn.
func (k *Keeper) Cut() (w Withdrawn, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.enter(); err != nil {
		return Withdrawn{}, err
	}
	defer guardError(debug.SetPanicOnFault(true), &err)
	c := cut{}
	for !c.step(k.cfg.QueueSize, k.words) {
	}
	if !c.ok {
		return Withdrawn{}, k.fail("%d queued, the queue size is %d", c.count, k.cfg.QueueSize)
	}
	w = Withdrawn{From: c.tail - uint64(c.count), Count: c.count}
	// They are read after they were withdrawn, but nobody has overwritten them: a
	// push writes where there was room before, and one that starts now sees that the
	// head was moved by someone else.
	if k.sum(&w); w.Count > 0 {
		k.reported += uint64(w.Count)
		k.hasTold(Drops{Count: uint64(w.Count), Bytes: w.Bytes, SeqFirst: w.SeqFirst, SeqLast: w.SeqLast, OldestNS: w.OldestNS})
		k.keepNoted()
	}
	return w, nil
}

// sum reads what the withdrawn entries say of themselves.
func (k *Keeper) sum(w *Withdrawn) {
	mask := Capacity(k.cfg.QueueSize) - 1
	for i := range w.Count {
		entry := entryAt(k.words, (uint32(w.From)+i)&mask)
		seq := wire.Seq(atomic.LoadUint64(&entry[entrySeq]))
		time := int64(atomic.LoadUint64(&entry[entryTime]))
		w.Bytes += atomic.LoadUint64(&entry[entryLength])
		if i == 0 {
			w.SeqFirst, w.OldestNS = seq, time
		}
		w.SeqLast = seq
		w.OldestNS = min(w.OldestNS, time)
	}
}

// Counters returns what has become of the messages. Errors are as Close's.
func (k *Keeper) Counters() (c Counters, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.enter(); err != nil {
		return k.last, err
	}
	defer guardError(debug.SetPanicOnFault(true), &err)
	return k.count()
}

// count reads tail and head as of one moment, and makes 64 bits of 32: with the
// help of the tail, which has them, and of the drops told so far, which were less
// than 2^32 fewer.
func (k *Keeper) count() (Counters, error) {
	head := atomic.LoadUint64(&k.words[headWord])
	var tail uint64
	steady := false
	for range countersTriesMax {
		tail = atomic.LoadUint64(&k.words[tailWord])
		again := atomic.LoadUint64(&k.words[headWord])
		if steady = again == head; steady {
			break
		}
		head = again
	}
	c := Counters{
		Pushed:  tail &^ closedBit,
		Refused: atomic.LoadUint64(&k.words[refusedWord]),
		Closed:  tail&closedBit != 0,
	}
	c.Queued = uint32(c.Pushed) - headPosition(head)
	if c.Queued > k.cfg.QueueSize {
		if steady {
			return k.last, k.fail("%d queued, the queue size is %d", c.Queued, k.cfg.QueueSize)
		}
		// The head was read after the tail, and has overtaken it.
		c.Pushed += uint64(-c.Queued)
		c.Queued = 0
	}
	if uint64(c.Queued) > c.Pushed {
		return k.last, k.fail("%d queued, %d pushed", c.Queued, c.Pushed)
	}
	gone := c.Pushed - uint64(c.Queued)
	untold := headEvicted(head) + uint32(c.Refused) - uint32(k.reported)
	c.Evicted = k.reported + uint64(untold) - c.Refused
	c.Taken = gone - c.Evicted
	if c.Evicted > gone || c.Refused < k.last.Refused || c.Evicted < k.last.Evicted {
		return k.last, k.fail("impossible counters: %+v, were %+v", c, k.last)
	}
	k.last = c
	return c, nil
}
