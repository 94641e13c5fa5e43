//go:build linux

package main

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/brokerd/brokerd/bench/soak/books"
	"github.com/brokerd/brokerd/node"
)

// tickInterval is how often a diary says how far an output or input has come.
const tickInterval = 100 * time.Millisecond

// run sends until ctx ends.
func (s *sender) run(ctx context.Context) {
	pause := time.Second / time.Duration(s.spec.rate)
	next := time.Now()
	for {
		// From nothing to twice the pause, so that messages also come in bursts.
		next = next.Add(time.Duration(s.random.Int64N(int64(2 * pause))))
		if late := time.Since(next); late > time.Second {
			next = next.Add(late) // it was held up: no burst to make up for it
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		if !s.send(ctx) {
			return
		}
	}
}

// size draws the bytes of a payload, now and then the smallest or the largest.
func (s *sender) size() int {
	switch s.random.IntN(50) {
	case 0:
		return s.spec.min
	case 1:
		return s.spec.max
	}
	low, high := math.Log(float64(s.spec.min)), math.Log(float64(s.spec.max))
	return min(s.spec.max, int(math.Exp(low+s.random.Float64()*(high-low))))
}

// send sends one message, and enters what becomes of it.
func (s *sender) send(ctx context.Context) bool {
	n := s.number + 1
	if now := time.Now(); now.Sub(s.ticked) >= tickInterval {
		s.ticked = now
		s.p.note(books.Entry{Kind: books.EntryBegun, Port: uint8(s.place), Life: s.p.Life, Number: n})
	}
	if err := s.book.Begin(n); err != nil {
		s.p.fault("%s: %v", s.spec.id, err)
		return false
	}
	var metadata []node.Attr
	if s.random.IntN(4) == 0 {
		metadata = append(metadata, node.Int("number", int64(n)))
	}
	err := s.publish(ctx, s.size(), n, metadata)
	switch {
	case err == nil:
		s.book.End(n)
		s.number = n
	case errors.Is(err, node.ErrNoMemory):
		s.book.Fail(n)
		s.number = n
	case ctx.Err() != nil || errors.Is(err, node.ErrClosed):
		s.book.Cancel(n)
		return false
	default:
		s.book.Cancel(n)
		s.p.fault("%s: message %d: %v", s.spec.id, n, err)
		return false
	}
	return true
}

// publish copies or, every other time, writes in place. Some loans are given up.
func (s *sender) publish(ctx context.Context, size int, n uint64, metadata []node.Attr) error {
	if s.random.IntN(2) == 0 {
		p := s.buffer[:size]
		s.stamps.stamp(p, n)
		return s.output.Send(ctx, p, metadata...)
	}
	if s.random.IntN(16) == 0 {
		loan, err := s.output.Loan(ctx, size)
		if err != nil {
			return err
		}
		clear(loan.Bytes())
		loan.Discard()
	}
	loan, err := s.output.Loan(ctx, size)
	if err != nil {
		return err
	}
	defer loan.Discard()
	s.stamps.stamp(loan.Bytes(), n)
	return loan.Publish(ctx, metadata...)
}
