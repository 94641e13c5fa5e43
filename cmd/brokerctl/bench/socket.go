package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"time"
)

// Names of the paths over sockets.
const (
	PathTCP  = "tcp"
	PathUnix = "unix"
)

// TCP is one TCP connection from sender to receiver, nothing between: what a
// user would write by hand.
func TCP() *Path {
	return &Path{
		Name:    PathTCP,
		What:    "one TCP connection from sender to receiver",
		Receive: func(ctx context.Context, _ Setup) (Receiver, error) { return listen(ctx, "tcp", "127.0.0.1:0") },
		Send:    func(ctx context.Context, s Setup) (Sender, error) { return dialFirst(ctx, "tcp", s) },
	}
}

// Unix is the same over a unix socket.
func Unix() *Path {
	return &Path{
		Name:    PathUnix,
		What:    "one unix socket from sender to receiver",
		Receive: func(ctx context.Context, _ Setup) (Receiver, error) { return listen(ctx, "unix", SocketName("unix")) },
		Send:    func(ctx context.Context, s Setup) (Sender, error) { return dialFirst(ctx, "unix", s) },
	}
}

// SocketName is an address for a unix socket of this process: where there are
// names apart from files, one of these, so that nothing is left behind.
func SocketName(what string) string {
	name := fmt.Sprintf("brokerd-bench-%s-%d", what, os.Getpid())
	if runtime.GOOS == "linux" {
		return "@" + name
	}
	return os.TempDir() + "/" + name
}

const (
	lengthBytes  = 8
	readAhead    = 64 << 10 // bytes
	wholeBytes   = 64 << 10 // a smaller message is written in one piece, with its length
	setupTimeout = 10 * time.Second
)

// socketReceiver accepts one connection and reads messages with their length
// before them.
type socketReceiver struct {
	listener net.Listener
	conn     net.Conn
	in       *bufio.Reader
	accepted chan accepted
	head     [lengthBytes]byte
	buf      []byte // stays warm
}

type accepted struct {
	conn net.Conn
	err  error
}

func listen(ctx context.Context, network, addr string) (Receiver, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	r := &socketReceiver{listener: listener, accepted: make(chan accepted, 1)}
	go func() {
		conn, err := listener.Accept()
		r.accepted <- accepted{conn, err}
	}()
	return r, nil
}

func (r *socketReceiver) attach(ctx context.Context, conn net.Conn) {
	r.conn, r.in = conn, bufio.NewReaderSize(conn, readAhead)
	context.AfterFunc(ctx, func() { _ = conn.Close() })
}

func (r *socketReceiver) Addr() string { return r.listener.Addr().String() }

func (r *socketReceiver) Prepare(ctx context.Context, size int) error {
	if r.in == nil {
		select {
		case a := <-r.accepted:
			if a.err != nil {
				return a.err
			}
			r.attach(ctx, a.conn)
		case <-time.After(setupTimeout):
			return fmt.Errorf("the sender did not connect within %v", setupTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.buf = slices.Grow(r.buf[:0], size)
	return nil
}

func (r *socketReceiver) Next(context.Context) ([]byte, error) {
	if _, err := io.ReadFull(r.in, r.head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(r.head[:])
	if n > SizeMax {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	r.buf = slices.Grow(r.buf[:0], int(n))[:n]
	// bufio hands large reads through to the socket once it is empty.
	_, err := io.ReadFull(r.in, r.buf)
	return r.buf, err
}

func (r *socketReceiver) Release() {}

func (r *socketReceiver) Close() error {
	_ = r.listener.Close()
	if r.conn != nil {
		return r.conn.Close()
	}
	return nil
}

// socketSender writes messages with their length before them.
type socketSender struct {
	conn  net.Conn
	frame []byte // length and payload of small messages
	parts [2][]byte
}

func dialFirst(ctx context.Context, network string, s Setup) (Sender, error) {
	if len(s.Receivers) != 1 {
		return nil, fmt.Errorf("%d receivers, not 1", len(s.Receivers))
	}
	return dial(ctx, network, s.Receivers[0])
}

func dial(ctx context.Context, network, addr string) (*socketSender, error) {
	conn, err := (&net.Dialer{Timeout: setupTimeout}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	return &socketSender{conn: conn, frame: make([]byte, lengthBytes, lengthBytes+wholeBytes)}, nil
}

func (s *socketSender) Prepare(context.Context, int) error { return nil }

func (s *socketSender) Send(_ context.Context, payload []byte) error {
	s.frame = s.frame[:lengthBytes]
	binary.LittleEndian.PutUint64(s.frame, uint64(len(payload)))
	if len(payload) <= wholeBytes {
		s.frame = append(s.frame, payload...)
		_, err := s.conn.Write(s.frame)
		return err
	}
	// The kernel copies both in one call; another copy here would not be fair.
	s.parts = [2][]byte{s.frame, payload}
	buffers := net.Buffers(s.parts[:])
	_, err := buffers.WriteTo(s.conn)
	return err
}

func (s *socketSender) Close() error { return s.conn.Close() }
