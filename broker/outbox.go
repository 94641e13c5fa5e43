package broker

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/wire"
)

var errFlusherStopped = errors.New("flusher has ended")

// flushBytesMax is what one slow connection may write before the flusher looks
// after the next one.
const flushBytesMax = 1 << 20

// outbox is the sending half of a connection. send writes to the socket at once,
// on the caller's goroutine, as long as nothing waits; what does not fit is
// copied and waits for the flusher, and until that is gone everything new
// queues behind it. One mutex covers both, so that bytes never overtake.
//
// The file descriptor belongs to gnet, which calls OnClose before it closes it.
// OnClose calls detach, which takes the mutex: so nobody is in a system call on
// the descriptor when it is closed, and nobody comes after that.
type outbox struct {
	// Immutable.
	id       uint64
	bytesMax uint64
	flusher  *flusher
	buffers  *buffers // nil: not counted

	mu        sync.Mutex
	fd        int    // -1 while there is no socket: before attach, after detach
	abort     func() // has the connection closed, soon; must not block
	broken    bool   // nothing more will be written: write error or cut off
	finishing bool   // nothing more is accepted; when all is written, we close
	reason    error  // why we end the connection; nil: we do not, or in good order
	waiting   chunkQueue
	queued    uint64    // bytes in waiting
	watched   bool      // known to the flusher
	progress  time.Time // when the socket last took a byte, or waiting became non-empty
	deadline  time.Time // finishing: when patience ends
}

// attach gives the outbox its socket. abort has to lead to detach.
func (o *outbox) attach(fd int, abort func()) {
	o.mu.Lock()
	o.fd, o.abort = fd, abort
	o.mu.Unlock()
}

// send writes or queues whole frames. It never blocks. If more than bytesMax
// would wait, the connection is cut off: send then returns the number of bytes
// that were waiting and false. b is the caller's again.
func (o *outbox) send(b []byte) (waiting uint64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fd < 0 || o.broken || o.finishing {
		return 0, true // it is ending; ConnClosed is under way
	}
	if o.queued > 0 && o.queued+uint64(len(b)) > o.bytesMax {
		waiting = o.queued
		o.giveUp(fmt.Errorf("%w: %d bytes waited, the limit is %d", wire.ErrSlowConnection, waiting, o.bytesMax))
		return waiting, false
	}
	o.put(b)
	return 0, true
}

// put writes what fits and queues the rest. Called with mu held.
func (o *outbox) put(b []byte) {
	if o.queued == 0 {
		n, err := sendNow(o.fd, b)
		if err != nil {
			o.giveUp(fmt.Errorf("write: %w", err))
			return
		}
		if b = b[n:]; len(b) == 0 {
			return
		}
		o.progress = time.Now()
	}
	o.waiting.append(b)
	o.weigh(int64(len(b)))
	o.watch()
}

// weigh notes bytes that have come to what waits, or are gone. Called with mu held.
func (o *outbox) weigh(n int64) {
	o.queued = uint64(int64(o.queued) + n)
	o.buffers.add(n)
}

func (o *outbox) watch() {
	if err := o.flusher.watch(o, o.watched); err != nil {
		o.giveUp(fmt.Errorf("waiting for the socket: %w", err))
		return
	}
	o.watched = true
}

// giveUp drops what waits and has the connection closed. Called with mu held.
func (o *outbox) giveUp(reason error) {
	if o.broken {
		return
	}
	o.broken = true
	if o.reason == nil {
		o.reason = reason
	}
	o.waiting.reset()
	o.weigh(-int64(o.queued))
	if o.fd >= 0 {
		o.abort()
	}
}

// flush is the flusher's call: the socket takes bytes again.
func (o *outbox) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fd < 0 || o.broken {
		return
	}
	if !o.drain(flushBytesMax) {
		return
	}
	switch {
	case o.queued > 0:
		o.watch()
	case o.finishing:
		o.shutdown()
	}
}

// drain writes waiting bytes until none are left, the socket is full or budget
// is used up. false: the socket is broken. Called with mu held.
func (o *outbox) drain(budget int) bool {
	for o.queued > 0 && budget > 0 {
		n, err := sendNow(o.fd, o.waiting.front())
		if err != nil {
			o.giveUp(fmt.Errorf("write: %w", err))
			return false
		}
		if n == 0 {
			return true
		}
		o.waiting.discard(n)
		o.weigh(-int64(n))
		budget -= n
		o.progress = time.Now()
	}
	return true
}

// finish sends a last frame (or none), lets what waits go out until deadline,
// and then ends our direction of the stream. false: it was ending already.
func (o *outbox) finish(last []byte, reason error, deadline time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fd < 0 || o.broken || o.finishing {
		return false
	}
	o.reason, o.deadline = reason, deadline
	if len(last) > 0 {
		o.put(last)
	}
	o.finishing = true
	if o.queued == 0 && !o.broken {
		o.shutdown()
	}
	return true
}

// shutdown tells the peer that nothing more comes. The socket is not closed yet:
// closing it with unread input would make the kernel send a reset, which can
// destroy our last frame on its way. The peer's own end, or the deadline, closes
// it. Called with mu held.
func (o *outbox) shutdown() {
	if err := unix.Shutdown(o.fd, unix.SHUT_WR); err != nil {
		o.giveUp(fmt.Errorf("shutdown: %w", err))
	}
}

// cut drops what waits and closes now.
func (o *outbox) cut(reason error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.giveUp(reason)
}

// detach ends the use of the socket. It returns why we ended the connection;
// ours is false if that was not us.
func (o *outbox) detach() (reason error, ours bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fd < 0 {
		return o.reason, o.broken || o.finishing
	}
	if o.watched {
		o.flusher.forget(o)
	}
	if !o.broken && o.queued > 0 {
		o.abort = func() {} // drain may give up: the connection is closing anyway
		o.drain(flushBytesMax)
	}
	o.waiting.reset()
	o.weigh(-int64(o.queued))
	o.fd = -1
	return o.reason, o.broken || o.finishing
}

// outboxState is what the minder wants to know.
type outboxState struct {
	queued    uint64
	progress  time.Time
	finishing bool
	ended     bool
	deadline  time.Time
	unread    bool // the peer's bytes wait in the socket for us
}

// look returns the state. unread is looked up only if asked for: it costs a
// system call.
func (o *outbox) look(askUnread bool) outboxState {
	o.mu.Lock()
	defer o.mu.Unlock()
	st := outboxState{
		queued: o.queued, progress: o.progress, finishing: o.finishing,
		ended: o.fd < 0 || o.broken, deadline: o.deadline,
	}
	if askUnread && o.fd >= 0 {
		st.unread = hasUnread(o.fd)
	}
	return st
}

// ending reports whether messages of the peer are to be ignored.
func (o *outbox) ending() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.fd < 0 || o.broken || o.finishing
}
