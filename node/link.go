package node

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/brokerd/brokerd/wire"
)

const (
	// pendingBytesMax is how much may wait for the socket before senders wait.
	// It bounds the memory of a connection and the age of what is in it.
	pendingBytesMax = 256 << 10
	// bufferBytesKept: larger buffers, grown for one long inline payload, are
	// left to the garbage collector.
	bufferBytesKept = 4 << 20
	// directWriteIdle: after so long without a write the next frame is written
	// by its sender, which is the fastest for a single message. Frames that come
	// faster are left to the writer goroutine: while it is in one system call
	// the next frames gather, so that the call's cost is shared.
	directWriteIdle = 20 * time.Microsecond
)

// errLinkDown means that the connection is over; a new one may come.
var errLinkDown = errors.New("node: connection lost")

// link is the sending side of one connection: one buffer that frames are
// appended to, and at most one goroutine at a time that writes it out.
type link struct {
	// inlineMax is the session's, see there. Immutable after the handshake.
	inlineMax uint64

	// Immutable.
	conn  net.Conn
	raw   syscall.RawConn // nil if there is none: then only the writer goroutine writes
	start time.Time       // zero of wroteAt
	stats *counters

	wake chan struct{} // capacity 1: the writer goroutine has to take over
	down chan struct{} // closed by fail

	// Owned by whoever made writing true.
	rest  []byte // what is left of the buffer being written
	whole []byte // that buffer, from its start
	try   func(fd uintptr) bool
	wrote int
	tried error

	mu      sync.Mutex // guards what follows
	encoder *wire.Encoder
	pending []byte
	spare   []byte
	writing bool
	wroteAt time.Duration // end of the last write, since start
	err     error         // not nil: the link is down
	room    waiters       // for pending to be written
	idle    waiters       // for everything to be written
}

func newLink(conn net.Conn, stats *counters) *link {
	l := &link{
		conn: conn, start: time.Now(), stats: stats,
		wake: make(chan struct{}, 1), down: make(chan struct{}),
		encoder: wire.NewEncoder(), wroteAt: -directWriteIdle,
	}
	if sc, ok := conn.(syscall.Conn); ok && directWrites {
		if raw, err := sc.SyscallConn(); err == nil {
			l.raw = raw
		}
	}
	l.try = func(fd uintptr) bool {
		l.wrote, l.tried = writeOnce(fd, l.rest)
		return true // never wait for the socket here: the writer goroutine does
	}
	return l
}

// appended says what became of a message given to append.
type appended uint8

const (
	appendDown  appended = iota // not sent: the connection is over
	appendFull                  // not sent: wait for room first
	appendDone                  // will be written
	appendWrite                 // will be written once the caller has called flush, without its locks
)

// append adds one message. It never waits. now is the time of the call. Only
// bounded messages are refused when the buffer is full: payloads. The others are
// few and small.
func (l *link) append(m wire.Message, now time.Time, bounded bool) appended {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return appendDown
	}
	if bounded && len(l.pending) >= pendingBytesMax {
		return appendFull
	}
	l.pending = l.encoder.Append(l.pending, m)
	if l.writing {
		return appendDone
	}
	l.writing = true
	if l.raw != nil && now.Sub(l.start)-l.wroteAt > directWriteIdle {
		return appendWrite
	}
	l.wakeWriter()
	return appendDone
}

// send is append and flush for messages outside the hot paths.
func (l *link) send(m wire.Message) bool {
	verdict := l.append(m, time.Now(), false)
	if verdict == appendWrite {
		l.flush()
	}
	return verdict >= appendDone
}

func (l *link) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// hasRoom reports whether a bounded message would be appended now.
func (l *link) hasRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != nil || len(l.pending) < pendingBytesMax
}

// waitRoom waits until a bounded message may be appended again.
func (l *link) waitRoom(ctx context.Context) error {
	l.mu.Lock()
	if l.err != nil || len(l.pending) < pendingBytesMax {
		l.mu.Unlock()
		return nil
	}
	one := l.room.add()
	l.mu.Unlock()
	return l.room.wait(ctx, &l.mu, one)
}

// waitIdle waits until all that was appended has been handed to the kernel.
func (l *link) waitIdle(ctx context.Context) error {
	l.mu.Lock()
	if l.err != nil || !l.writing {
		l.mu.Unlock()
		return nil
	}
	one := l.idle.add()
	l.mu.Unlock()
	return l.idle.wait(ctx, &l.mu, one)
}

// flush writes what is pending, as far as the socket takes it at once. Whatever
// is left is the writer goroutine's.
func (l *link) flush() {
	l.mu.Lock()
	l.swap()
	l.mu.Unlock()

	err := l.raw.Write(l.try)
	if err == nil {
		err = l.tried
	}
	l.stats.socketWrites.Add(1)
	now := time.Since(l.start)

	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failLocked(err)
		return
	}
	l.rest = l.rest[l.wrote:]
	if len(l.rest) > 0 {
		l.wakeWriter()
		return
	}
	l.finish(now)
	if l.writing {
		l.wakeWriter()
	}
}

// swap takes the pending bytes for writing.
func (l *link) swap() {
	l.whole, l.pending, l.spare = l.pending, l.spare[:0], nil
	l.rest = l.whole
	l.room.wakeAll()
}

// finish ends the writing of one buffer. writing stays true if more is pending.
func (l *link) finish(now time.Duration) {
	if cap(l.whole) <= bufferBytesKept {
		l.spare = l.whole[:0]
	}
	l.whole, l.rest = nil, nil
	l.wroteAt = now
	if len(l.pending) == 0 {
		l.writing = false
		l.idle.wakeAll()
	}
}

// writer is the goroutine that writes whatever flush did not.
func (l *link) writer() {
	for {
		select {
		case <-l.wake:
		case <-l.down:
			return
		}
		for l.writeBuffer() {
		}
	}
}

// writeBuffer writes one buffer and tells whether there is another.
func (l *link) writeBuffer() bool {
	l.mu.Lock()
	if l.err != nil || !l.writing {
		l.mu.Unlock()
		return false
	}
	if len(l.rest) == 0 {
		l.swap()
	}
	rest := l.rest
	l.mu.Unlock()

	_, err := l.conn.Write(rest)
	l.stats.socketWrites.Add(1)
	now := time.Since(l.start)

	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failLocked(err)
		return false
	}
	l.finish(now)
	return l.writing
}

// fail ends the link. The first cause counts. It closes the socket, which ends
// the reader too.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failLocked(err)
}

func (l *link) failLocked(err error) {
	if l.err != nil {
		return
	}
	l.err = err
	close(l.down)
	_ = l.conn.Close() // nothing is to be saved: whoever still writes or reads fails
	l.pending, l.spare = nil, nil
	l.room.wakeAll()
	l.idle.wakeAll()
}

// cause returns why the link is down, nil while it is up.
func (l *link) cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
