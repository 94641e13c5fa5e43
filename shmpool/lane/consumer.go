package lane

import (
	"runtime/debug"
	"sync/atomic"

	"github.com/brokerd/brokerd/wire"
)

// Consumer is the receiving end of a lane. It is not safe for concurrent use; its
// owner guards it.
type Consumer struct {
	words   []uint64
	state   receiver
	op      pop
	corrupt bool
}

// NewConsumer takes the receiving end of the lane in words. It must be the first
// to do so: errors are as NewProducer's.
func NewConsumer(words []uint64, cfg Config) (*Consumer, error) {
	if err := check(words, cfg); err != nil {
		return nil, err
	}
	if err := checkUnused(words, cfg.Lane, false); err != nil {
		return nil, err
	}
	capacity := Capacity(cfg.QueueSize)
	return &Consumer{
		words: words[:Bytes(capacity)/8],
		state: receiver{limit: cfg.QueueSize, mask: capacity - 1},
	}, nil
}

// Pop takes the oldest message off the lane: Got, Empty, Ended (closed, and
// nothing will come) or Corrupt. What the descriptor says of memory is the peer's
// word: the caller checks it against what it has mapped. dropped is how many
// messages this input has lost on this lane since the last one it got.
// ringProducer asks the caller to ring the producer's bell: it waits for room, and
// there is some.
func (c *Consumer) Pop(d *Descriptor) (v Verdict, dropped uint64, ringProducer bool) {
	if c.corrupt {
		return Corrupt, 0, false
	}
	v = c.run()
	c.corrupt = v == Corrupt
	if v != Got {
		if v == Ended {
			dropped = c.op.dropped
		}
		return v, dropped, false
	}
	e := &c.op.entry
	*d = Descriptor{
		Seq:        wire.Seq(e[entrySeq]),
		TimeNS:     int64(e[entryTime]),
		Region:     wire.RegionID(e[entryRegion]),
		Offset:     e[entryOffset],
		Length:     e[entryLength],
		MetaRegion: wire.RegionID(e[entryMetaRegion]),
		MetaOffset: e[entryMetaOffset],
		MetaLength: e[entryMetaLength],
	}
	return Got, c.op.dropped, c.op.ring
}

func (c *Consumer) run() (v Verdict) {
	defer guardVerdict(debug.SetPanicOnFault(true), &v)
	c.op.start()
	c.op.run(&c.state, c.words)
	return c.op.verdict
}

// Ready reports whether a Pop would do something else than what it did last: get
// a message, or notice that the lane has ended or is corrupt. A consumer that
// wants to sleep arms its bell first, and asks then.
func (c *Consumer) Ready() (ready bool) {
	if c.corrupt || c.state.ended {
		return false
	}
	// A fault is something to notice.
	defer guardFlag(debug.SetPanicOnFault(true), &ready, true)
	head := atomic.LoadUint64(&c.words[headWord])
	// The closed bit makes the halves differ, too.
	return atomic.LoadUint64(&c.words[tailWord]) != c.tailAt(head)
}

// tailAt returns the tail of an open lane that is empty at that head.
func (c *Consumer) tailAt(head uint64) uint64 {
	return c.state.tail + uint64(headPosition(head)-uint32(c.state.tail))
}
