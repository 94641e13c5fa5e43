package broker

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// tunnelBytes is what each direction of a TLS connection is copied in: no more
	// than a TLS record, so that nothing waits for more to come.
	tunnelBytes = 16 << 10
	// tunnelFiles are the descriptors of a TLS connection: the peer's socket, and
	// both ends of the pair. A plain one takes one.
	tunnelFiles = 3
)

// tunnel joins a TLS connection to the event loops, which know sockets only: the
// loop has one end of a pair of them, and two goroutines copy between the other end
// and TLS. Sockets and copies are bounded and blocking, so that a peer who does not
// read, and a router that is busy, are felt at the other side as ever. Plain
// connections have nothing of this.
type tunnel struct {
	// Immutable.
	peer *tls.Conn
	pair net.Conn // our end
	done func()   // called once, when all is closed

	left  atomic.Int32 // directions that are still copied
	ended sync.Once
}

// newTunnel makes the pair. The loop's end is the caller's.
func newTunnel(peer *tls.Conn, done func()) (t *tunnel, loop net.Conn, err error) {
	fds, err := socketPair()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ends := [2]net.Conn{}
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "tls")
		if err == nil {
			ends[i], err = net.FileConn(file) // a duplicate
		}
		_ = file.Close()
	}
	if err != nil {
		if ends[0] != nil {
			_ = ends[0].Close()
		}
		return nil, nil, fmt.Errorf("socket pair of a TLS connection: %w", err)
	}
	return &tunnel{peer: peer, pair: ends[0], done: done}, ends[1], nil
}

// run copies until both directions have ended.
func (t *tunnel) run() {
	t.left.Store(2)
	go func() {
		copyAll(t.pair, t.peer)
		// The peer has ended its side; the loop sees that as the end of the stream.
		if half, ok := t.pair.(*net.UnixConn); ok {
			_ = half.CloseWrite()
		}
		t.leave()
	}()
	go func() {
		copyAll(t.peer, t.pair)
		_ = t.peer.CloseWrite() // close_notify: what the peer has got is all there was
		t.leave()
	}()
}

// copyAll copies until the end of either side. What became of it shows there.
func copyAll(to, from net.Conn) {
	buffer := make([]byte, tunnelBytes)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (t *tunnel) leave() {
	if t.left.Add(-1) == 0 {
		_ = t.peer.NetConn().Close()
		_ = t.pair.Close()
		t.done()
	}
}

// end is called when the loop has closed its end. What it has written still goes
// out, if the peer takes it within patience. A deadline would not do: tls.Conn moves
// it to say its last word.
func (t *tunnel) end(patience time.Duration) {
	t.ended.Do(func() { time.AfterFunc(patience, func() { _ = t.peer.NetConn().Close() }) })
}

// abandon closes a tunnel that no loop has taken.
func (t *tunnel) abandon() {
	_ = t.peer.NetConn().Close()
	_ = t.pair.Close()
	t.done()
}
