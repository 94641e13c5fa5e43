package node

import (
	"context"
	"sync"
)

// waiters is a set of goroutines that wait for a change of state which a mutex of
// the owner guards. It is a condition variable whose wait can end with a context,
// and which allocates nothing in steady state. All methods but wait need the
// owner's mutex.
type waiters struct {
	set []*waiter
}

type waiter struct {
	woken chan struct{} // capacity 1: a wake-up that nobody waits for is kept
}

var waiterPool = sync.Pool{New: func() any { return &waiter{woken: make(chan struct{}, 1)} }}

// add enters the caller; it must call wait next, without the mutex.
func (w *waiters) add() *waiter {
	one := waiterPool.Get().(*waiter)
	w.set = append(w.set, one)
	return one
}

// wakeAll wakes everyone who was added.
func (w *waiters) wakeAll() {
	for i, one := range w.set {
		one.woken <- struct{}{}
		w.set[i] = nil
	}
	w.set = w.set[:0]
}

// wait returns nil after a wakeAll, or the context's error. mu is the owner's
// mutex, which the caller does not hold.
func (w *waiters) wait(ctx context.Context, mu *sync.Mutex, one *waiter) error {
	var err error
	select {
	case <-one.woken:
	case <-ctx.Done():
		err = ctx.Err()
		mu.Lock()
		if !w.remove(one) {
			<-one.woken // woken meanwhile
		}
		mu.Unlock()
	}
	waiterPool.Put(one)
	return err
}

func (w *waiters) remove(one *waiter) bool {
	for i, other := range w.set {
		if other == one {
			last := len(w.set) - 1
			w.set[i], w.set[last] = w.set[last], nil
			w.set = w.set[:last]
			return true
		}
	}
	return false
}
