package broker

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// flusher writes what an outbox could not write at once, as soon as the socket
// takes more. It has an epoll instance and a goroutine of its own; only
// connections with waiting bytes are in it. gnet could do the same writing, but
// tells nobody when bytes leave its buffer, so that neither a limit in bytes nor
// one in time can be kept exactly.
//
// Lock order: outbox.mu before flusher.mu.
type flusher struct {
	epoll, bell int // file descriptors
	ended       chan struct{}

	mu      sync.Mutex
	boxes   map[uint64]*outbox
	stopped bool
}

func newFlusher() (*flusher, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	f := &flusher{epoll: epoll, bell: bell, ended: make(chan struct{}), boxes: map[uint64]*outbox{}}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, bell, eventOf(unix.EPOLLIN, 0)); err != nil {
		_ = unix.Close(bell)
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("epoll_ctl: %w", err)
	}
	go f.run()
	return f, nil
}

// eventOf makes an event with a box's id as its 64 bits of user data.
func eventOf(events uint32, id uint64) *unix.EpollEvent {
	return &unix.EpollEvent{Events: events, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
}

func (f *flusher) run() {
	defer close(f.ended)
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := unix.EpollWait(f.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			panic(fmt.Sprintf("broker: epoll_wait: %v", err)) // only a broken invariant leads here
		}
		for _, ev := range events[:n] {
			id := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
			if id == 0 {
				return
			}
			f.mu.Lock()
			box := f.boxes[id]
			f.mu.Unlock()
			if box != nil {
				box.flush()
			}
		}
	}
}

// watch has box.flush called once, when its socket takes bytes or is broken.
// Called with box.mu held. again: it was watched before and not forgotten since.
func (f *flusher) watch(box *outbox, again bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return errFlusherStopped
	}
	op := unix.EPOLL_CTL_ADD
	if again {
		op = unix.EPOLL_CTL_MOD
	}
	if err := unix.EpollCtl(f.epoll, op, box.fd, eventOf(unix.EPOLLOUT|unix.EPOLLONESHOT, box.id)); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	f.boxes[box.id] = box
	return nil
}

// forget ends watch. Called with box.mu held, before the socket is closed.
func (f *flusher) forget(box *outbox) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.boxes[box.id] == nil {
		return
	}
	delete(f.boxes, box.id)
	if !f.stopped {
		_ = unix.EpollCtl(f.epoll, unix.EPOLL_CTL_DEL, box.fd, nil)
	}
}

// stop ends the goroutine and waits for it. Idempotent.
func (f *flusher) stop() {
	f.mu.Lock()
	before := f.stopped
	f.stopped = true
	f.mu.Unlock()
	if before {
		<-f.ended
		return
	}
	_, _ = unix.Write(f.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-f.ended
	_ = unix.Close(f.bell)
	_ = unix.Close(f.epoll)
}
