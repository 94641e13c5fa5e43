package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/brokerd/brokerd/wire"
)

// denialOf returns what a denial means to a sender; nil if it may wait.
func (m *memory) denialOf(cause error, o *Output, size int) error {
	switch {
	case errors.Is(cause, wire.ErrTooLarge): // waiting does not help
		return fmt.Errorf("%w: output %q: %d bytes: %w", ErrTooLarge, o.id, size, cause)
	case o.blocks():
		return nil
	}
	if holders := m.holders(); holders != "" {
		return fmt.Errorf("%w: output %q: %d bytes: %w; %s", ErrNoMemory, o.id, size, cause, holders)
	}
	return fmt.Errorf("%w: output %q: %d bytes: %w", ErrNoMemory, o.id, size, cause)
}

// waitUnlock gives up m.mu and waits for a change, after a denial no longer than
// denialPause.
func (m *memory) waitUnlock(ctx context.Context, denied bool) error {
	w := memoryWaitPool.Get().(*memoryWait)
	*w = memoryWait{m: m, seen: m.changes}
	m.waiting++
	m.unlock(false)
	var err error
	if denied {
		pause, cancel := context.WithTimeout(ctx, denialPause)
		_ = m.e.n.sleeper.wait(pause, w)
		cancel()
		err = ctx.Err()
	} else {
		err = m.e.n.sleeper.wait(ctx, w)
	}
	m.mu.Lock()
	m.waiting--
	m.mu.Unlock()
	*w = memoryWait{}
	memoryWaitPool.Put(w)
	return err
}

// memoryWait is what one caller of take waits for.
type memoryWait struct {
	m    *memory
	seen uint64
}

var memoryWaitPool = sync.Pool{New: func() any { return new(memoryWait) }}

// ready announces to the receivers that slots are wanted, and looks after that:
// whoever clears a bit later rings.
func (w *memoryWait) ready() bool {
	m := w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return true
	}
	if m.bell != nil {
		m.bell.WantMemory()
	}
	return m.changes != w.seen || m.lent.first != nil && m.poll(pollAll) > 0
}
