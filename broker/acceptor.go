package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/actors"
	"github.com/brokerd/brokerd/wire"
)

const (
	// loopStuckAfter is how long a loop may take to answer a new connection
	// before the broker gives up on itself. Its loops wait for the router at
	// times, but never that long.
	loopStuckAfter = 30 * time.Second

	// refusalsMax bounds the refused connections that are still told why, and
	// with it their file descriptors. More than that are closed without a word.
	refusalsMax = 16
	// refusalTimeout is how long one of them may take to read it, and
	// refusalInLineTimeout how long while no other can be accepted.
	refusalTimeout       = 500 * time.Millisecond
	refusalInLineTimeout = 100 * time.Millisecond

	// TCP keep-alive finds peers whose machine is gone even while no heartbeat
	// is due to them.
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3

	acceptRetryMin = 5 * time.Millisecond
	acceptRetryMax = 500 * time.Millisecond
)

// errNotWatched is why a connection failed that gnet has closed again without a
// word: its loop could not add it to its epoll.
var errNotWatched = errors.New("the event loop could not watch it")

// acceptor takes connections from the listener and gives them to the loops, as
// long as there is room. It survives the lack of file descriptors: one is kept
// in reserve, to accept and refuse with.
type acceptor struct {
	srv      *server
	addr     net.Addr
	quit     chan struct{}
	ended    chan struct{}
	failures logLimiter
	// handshakes of TLS, if there is any.
	handshakes handshakes

	enrollStart atomic.Int64 // Unix nanoseconds; 0: not enrolling

	closing  sync.Mutex   // guards the closing of listener against its replacement
	listener net.Listener // replaced by run only

	// Owned by run.
	spare *os.File // the reserve; nil: could not be had again yet

	enrolls sync.Mutex // one at a time; guards lastID
	lastID  actors.ConnID

	refusing sync.WaitGroup
	places   chan struct{} // one per refusal under way
}

func newAcceptor(srv *server, listener net.Listener) (*acceptor, error) {
	a := &acceptor{
		srv: srv, listener: listener, addr: listener.Addr(),
		quit: make(chan struct{}), ended: make(chan struct{}), places: make(chan struct{}, refusalsMax),
	}
	if err := a.keepSpare(); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *acceptor) keepSpare() error {
	if a.spare != nil {
		return nil
	}
	spare, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("file descriptor in reserve: %w", err)
	}
	a.spare = spare
	return nil
}

func (a *acceptor) dropSpare() {
	if a.spare != nil {
		_ = a.spare.Close()
		a.spare = nil
	}
}

// run accepts until stop.
func (a *acceptor) run() {
	defer close(a.ended)
	defer a.dropSpare()
	retry := acceptRetryMin
	for {
		conn, err := a.listener.Accept()
		switch {
		case err == nil:
			retry = acceptRetryMin
			a.admit(conn)
			continue
		case a.stopping():
			return
		case isOutOfFiles(err) && a.refuseWithSpare():
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, net.ErrClosed):
			if err = a.reopen(); err == nil {
				a.srv.reports.write(zap.WarnLevel, "listener was shut down from outside; listening again",
					zap.Stringer("addr", a.addr))
				continue
			}
		}
		if lines, ok := a.failures.allow(time.Now()); ok {
			a.srv.reports.write(zap.ErrorLevel, "connections cannot be accepted; trying again",
				zap.Error(err), zap.Duration("retry_s", retry), zap.Uint64("lines_suppressed", lines))
		}
		select {
		case <-time.After(retry):
		case <-a.quit:
			return
		}
		retry = min(2*retry, acceptRetryMax)
		_ = a.keepSpare() // another try is due with the next lack
	}
}

func (a *acceptor) stopping() bool {
	select {
	case <-a.quit:
		return true
	default:
		return false
	}
}

// reopen puts another listener in the place of one that does not listen any more,
// because somebody has shut its socket down (ss -K does). No connection would ever
// come from it, while brokerd and its watchdog think that all is well.
func (a *acceptor) reopen() error {
	a.closing.Lock()
	defer a.closing.Unlock()
	if a.stopping() {
		return net.ErrClosed
	}
	_ = a.listener.Close() // or the address would be in use
	again, err := net.Listen(a.addr.Network(), a.addr.String())
	if err != nil {
		return err
	}
	a.listener = again
	return nil
}

// stop closes the listener and waits for everything that run has begun.
func (a *acceptor) stop() {
	close(a.quit)
	a.closing.Lock()
	_ = a.listener.Close()
	a.closing.Unlock()
	<-a.ended
	a.handshakes.stop()
	a.refusing.Wait()
}

// enrolling is when the hand-over of a connection to a loop began that has not
// ended yet. Zero: none.
func (a *acceptor) enrolling() time.Time {
	if t := a.enrollStart.Load(); t != 0 {
		return time.Unix(0, t)
	}
	return time.Time{}
}

// admit makes a session of a connection, or refuses it.
func (a *acceptor) admit(conn net.Conn) {
	srv := a.srv
	if config := srv.tls.Load(); config != nil {
		tune(conn)
		a.secure(conn, config)
		return
	}
	if n := srv.count(); n >= srv.connectionsMax && !srv.pushOut(time.Now()) {
		a.refuse(conn, conn.RemoteAddr(), wire.Errorf(wire.CodeTooManyConnections, "there are %d connections, which is the limit", n))
		return
	}
	// The loops work on a duplicate of the descriptor. Find out here, where the
	// peer can still be told, whether there is one to be had.
	if err := canDuplicate(conn); err != nil {
		a.refuse(conn, conn.RemoteAddr(), wire.Errorf(wire.CodeTooManyConnections, "the broker has no file descriptor left"))
		return
	}
	tune(conn)
	a.enroll(conn, conn.RemoteAddr(), nil)
}

// enroll gives a connection to a loop. t is the tunnel behind it, nil for a plain
// one. false: it has failed, and conn is closed.
func (a *acceptor) enroll(conn net.Conn, remote net.Addr, t *tunnel) bool {
	srv := a.srv
	a.enrolls.Lock()
	defer a.enrolls.Unlock()
	if n := srv.count(); t != nil && n >= srv.connectionsMax && !srv.pushOut(time.Now()) {
		// What is said into this end of the pair comes out of TLS at the peer's.
		told := a.refuse(conn, remote, wire.Errorf(wire.CodeTooManyConnections, "there are %d connections, which is the limit", n))
		if told {
			t.end(refusalTimeout) // with it, the place of the refusal
		}
		return told
	}
	a.lastID++
	s := newSession(srv, a.lastID, remote)
	s.tunnel = t
	srv.add(s)
	a.enrollStart.Store(s.opened.UnixNano())
	_, err := srv.engine.EnrollContext(conn, s) // closes conn, whatever comes of it
	a.enrollStart.Store(0)
	if err == nil && !s.attached.Load() {
		err = errNotWatched
	}
	if err != nil {
		srv.remove(s)
		srv.counters.refused.Add(1)
		srv.reports.write(zap.WarnLevel, "connection refused",
			zap.String("remote_addr", s.remote), zap.Error(err))
		return false
	}
	srv.counters.accepted.Add(1)
	return true
}

// canDuplicate tries to duplicate the connection's descriptor.
func canDuplicate(conn net.Conn) error {
	owner, ok := conn.(syscall.Conn)
	if !ok {
		return nil // EnrollContext will say that it cannot use it
	}
	raw, err := owner.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var twin int
		if twin, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); failed == nil {
			_ = unix.Close(twin)
		}
	})
	return errors.Join(err, failed)
}

// tune sets the options of a socket that gnet would set on its own listener.
func tune(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	// An option that cannot be set is no reason to refuse a peer.
	_ = tcp.SetNoDelay(true)
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount,
	})
	// gnet returns the memory of the zone's name to a pool of buffers when the
	// connection ends. Of an enrolled connection that memory is not gnet's but
	// the net package's, and would be written to.
	for _, addr := range []net.Addr{tcp.LocalAddr(), tcp.RemoteAddr()} {
		if a, ok := addr.(*net.TCPAddr); ok {
			a.Zone = ""
		}
	}
}

// refuse tells a peer why it is not let in, without holding up others. false: there
// are too many of them, and conn is closed.
func (a *acceptor) refuse(conn net.Conn, remote net.Addr, reason *wire.Error) bool {
	a.noteRefusal(remote, reason)
	return a.tell(conn, reason)
}

func (a *acceptor) tell(conn net.Conn, reason *wire.Error) bool {
	select {
	case a.places <- struct{}{}:
	default:
		_ = conn.Close()
		return false
	}
	a.refusing.Go(func() {
		sayNo(conn, reason, refusalTimeout)
		<-a.places
	})
	return true
}

func (a *acceptor) noteRefusal(remote net.Addr, reason *wire.Error) {
	a.srv.counters.refused.Add(1)
	if lines, ok := a.failures.allow(time.Now()); ok {
		a.srv.reports.write(zap.WarnLevel, "connection refused",
			zap.String("remote_addr", remote.String()), zap.String("code", reason.Code.String()),
			zap.String("reason", reason.Text), zap.Uint64("lines_suppressed", lines))
	}
}

// sayNo sends the reason and closes. What the peer has sent meanwhile is read
// first: closing over unread bytes would be a reset, and the reason lost.
func sayNo(conn net.Conn, reason *wire.Error, timeout time.Duration) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := conn.Write(wire.NewEncoder().Append(nil, reason)); err != nil {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, conn, wire.HandshakeFrameBytesMax)
	}
}

// refuseWithSpare uses the descriptor in reserve to take the next connection
// from the listener and refuse it: left there, its peer would wait for an answer
// until descriptors come back, and accept would fail in a tight loop. false: no
// reserve, or somebody was faster.
func (a *acceptor) refuseWithSpare() bool {
	if a.spare == nil {
		return false
	}
	a.dropSpare()
	defer func() { _ = a.keepSpare() }()
	if tcp, ok := a.listener.(interface{ SetDeadline(time.Time) error }); ok {
		_ = tcp.SetDeadline(time.Now().Add(acceptRetryMin))
		defer func() { _ = tcp.SetDeadline(time.Time{}) }()
	}
	conn, err := a.listener.Accept()
	if err != nil {
		return false
	}
	reason := wire.Errorf(wire.CodeTooManyConnections, "the broker has no file descriptor left")
	a.noteRefusal(conn.RemoteAddr(), reason)
	if a.srv.tls.Load() != nil {
		_ = conn.Close() // it would not understand a word
		return true
	}
	sayNo(conn, reason, refusalInLineTimeout) // in line: the descriptor is needed back
	return true
}

func isOutOfFiles(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}
