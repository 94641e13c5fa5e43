//go:build !linux

package broker

import (
	"sync"
	"time"
)

// flushInterval is how often waiting bytes are tried again.
const flushInterval = 2 * time.Millisecond

// flusher is the plain twin of the one over epoll: while bytes wait for any
// connection, it tries all of these every flushInterval.
//
// Lock order: outbox.mu before flusher.mu.
type flusher struct {
	bell  chan struct{} // capacity 1: one is as good as many
	quit  chan struct{}
	ended chan struct{}
	once  sync.Once

	mu      sync.Mutex
	boxes   map[uint64]*outbox
	stopped bool
}

func newFlusher() (*flusher, error) {
	f := &flusher{
		bell: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}),
		boxes: map[uint64]*outbox{},
	}
	go f.run()
	return f, nil
}

func (f *flusher) run() {
	defer close(f.ended)
	var waiting []*outbox
	for {
		select {
		case <-f.bell:
		case <-f.quit:
			return
		}
		select {
		case <-time.After(flushInterval):
		case <-f.quit:
			return
		}
		f.mu.Lock()
		for id, box := range f.boxes {
			waiting = append(waiting, box)
			delete(f.boxes, id)
		}
		f.mu.Unlock()
		for _, box := range waiting {
			box.flush() // calls watch again if bytes are left
		}
		clear(waiting)
		waiting = waiting[:0]
	}
}

// watch has box.flush called once, soon. Called with box.mu held.
func (f *flusher) watch(box *outbox, _ bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return errFlusherStopped
	}
	f.boxes[box.id] = box
	select {
	case f.bell <- struct{}{}:
	default:
	}
	return nil
}

// forget ends watch. Called with box.mu held.
func (f *flusher) forget(box *outbox) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.boxes, box.id)
}

// stop ends the goroutine and waits for it. Idempotent.
func (f *flusher) stop() {
	f.mu.Lock()
	f.stopped = true
	f.mu.Unlock()
	f.once.Do(func() { close(f.quit) })
	<-f.ended
}
