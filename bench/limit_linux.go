package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
)

// limitPath is a warm ring of shared memory and a futex, and nothing else: no
// tokens, no checks, nothing survives a crash. Its sender copies into a slot that
// exists already and wakes its peer each time. What a safe path can reach is
// measured against it.
func limitPath() *bench.Path {
	return &bench.Path{
		Name: bench.PathLimit,
		What: "one warm ring in shared memory and a futex, no safety at all",
		Receive: func(context.Context, bench.Setup) (bench.Receiver, error) {
			m, err := newShared("limit", limitBytes())
			if err != nil {
				return nil, err
			}
			return &limitReceiver{limitRing: limitRing{m: m}}, nil
		},
		Send: func(_ context.Context, s bench.Setup) (bench.Sender, error) {
			if len(s.Receivers) != 1 {
				return nil, fmt.Errorf("%d receivers, not 1", len(s.Receivers))
			}
			m, err := openShared(s.Receivers[0])
			if err != nil {
				return nil, err
			}
			return &limitSender{limitRing: limitRing{m: m}}, nil
		},
	}
}

// Layout of the memory, in words: tail, head and the sender's wish on cache lines
// of their own, then the ring of slot numbers, then, from limitHeadBytes on, the
// slots of whatever size is measured.
const (
	wordTail    = 8  // entries pushed
	wordHead    = 16 // entries taken and no longer read
	wordWaiting = 24 // 1: the sender sleeps until the ring is half empty
	wordRing    = 32

	limitHeadBytes = 64 << 10
	limitAlign     = 64                     // bytes
	limitPoll      = 500 * time.Millisecond // how late the end of the context is noticed
)

// limitBytes is what the largest messages need; memory is only taken by sizes
// that are measured.
func limitBytes() int { return limitHeadBytes + bench.Window(bench.SizeMax)*bench.SizeMax }

// limitRing is what both ends have.
type limitRing struct {
	m        *sharedMemory
	capacity uint64
	stride   int // bytes from slot to slot
	size     int
}

func (r *limitRing) Prepare(_ context.Context, size int) error {
	r.capacity, r.size = uint64(bench.Window(size)), size
	r.stride = max(limitAlign, (size+limitAlign-1)/limitAlign*limitAlign)
	return prefault(r.m.bytes[:limitHeadBytes+int(r.capacity)*r.stride])
}

func (r *limitRing) slot(i uint64) []byte {
	from := limitHeadBytes + int(i)*r.stride
	return r.m.bytes[from : from+r.size]
}

func (r *limitRing) entry(position uint64) *atomic.Uint64 {
	return r.m.word(wordRing + int(position%r.capacity))
}

func (r *limitRing) Close() error { return r.m.Close() }

// limitSender is the only one who pushes.
type limitSender struct {
	limitRing
	tail uint64
	next uint64 // slot
}

func (s *limitSender) Prepare(ctx context.Context, size int) error {
	s.next = 0
	return s.limitRing.Prepare(ctx, size)
}

func (s *limitSender) Send(ctx context.Context, payload []byte) error {
	head := s.m.word(wordHead)
	for {
		h := head.Load()
		if h == s.tail {
			s.next = 0 // all are free: the warmest
		}
		if s.tail-h < s.capacity {
			break
		}
		if err := s.wait(ctx, h); err != nil {
			return err
		}
	}
	copy(s.slot(s.next), payload)
	s.entry(s.tail).Store(s.next)
	s.next = (s.next + 1) % s.capacity
	s.tail++
	s.m.word(wordTail).Store(s.tail)
	futexWake(s.m, wordTail)
	return nil
}

// wait sleeps until the receiver has emptied half of the ring.
func (s *limitSender) wait(ctx context.Context, head uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	waiting := s.m.word(wordWaiting)
	waiting.Store(1)
	if s.m.word(wordHead).Load() == head {
		futexWait(s.m, wordWaiting, 1, limitPoll)
	}
	waiting.Store(0)
	return nil
}

// limitReceiver is the only one who takes.
type limitReceiver struct {
	limitRing
	head uint64
}

func (r *limitReceiver) Addr() string { return r.m.path() }

func (r *limitReceiver) Next(ctx context.Context) ([]byte, error) {
	tail := r.m.word(wordTail)
	for {
		t := tail.Load()
		if t != r.head {
			return r.slot(r.entry(r.head).Load()), nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		futexWait(r.m, wordTail, uint32(t), limitPoll)
	}
}

func (r *limitReceiver) Release() {
	r.head++
	r.m.word(wordHead).Store(r.head)
	waiting := r.m.word(wordWaiting)
	if waiting.Load() == 1 && r.m.word(wordTail).Load()-r.head <= r.capacity/2 && waiting.Swap(0) == 1 {
		futexWake(r.m, wordWaiting)
	}
}
