package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	shmipc "github.com/cloudwego/shmipc-go"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
)

// shmipcPath is shmipc-go: one session and one stream for each size, with slices
// cut for that size and all of its memory used before the measuring begins.
func shmipcPath() *bench.Path {
	// It writes to the standard output, which is ours.
	shmipc.SetLogLevel(shmipcNoLog)
	return &bench.Path{
		Name:    bench.PathShmipc,
		What:    "shmipc-go v0.2.0, one stream, zero-copy reads",
		SizeMin: 1, // it flushes nothing else
		Receive: newShmipcReceiver,
		Send:    newShmipcSender,
	}
}

const (
	shmipcNoLog      = 5
	shmipcHeader     = 20      // bytes before each slice
	shmipcMemoryMin  = 2 << 20 // bytes; it refuses half as much
	shmipcLists      = 1 << 10 // bytes that its lists need besides
	shmipcFiller     = 64 << 10
	shmipcSetupLimit = 10 * time.Second
)

// shmipcConfig makes one list of slices that fit the size, as many as may be on
// their way and a few, since the last ones cannot be taken. It hands out the slice
// that was free for longest: more of them would only cool the caches.
func shmipcConfig(size int) *shmipc.Config {
	c := shmipc.DefaultConfig()
	c.MemMapType = shmipc.MemMapTypeMemFd // no names that a kill leaves behind
	c.LogOutput = io.Discard
	// It finds memory by name, also that of the session before.
	c.ShareMemoryPathPrefix = fmt.Sprintf("shmipc-%d-%d", os.Getpid(), size)
	c.QueuePath = c.ShareMemoryPathPrefix + "-queue"
	c.InitializeTimeout = shmipcSetupLimit
	slice := (size+shmipcHeader+63)/64*64 - shmipcHeader
	need := (bench.Window(size) + 4) * (slice + shmipcHeader)
	capacity := max(shmipcMemoryMin, need+need/99+2*shmipcFiller+shmipcLists)
	percent := min(99, need*100/capacity+1)
	c.ShareMemoryBufferCap = uint32(capacity)
	// Sorted by size; what is not needed has to go somewhere.
	filler := &shmipc.SizePercentPair{Size: shmipcFiller, Percent: uint32(100 - percent)}
	fit := &shmipc.SizePercentPair{Size: uint32(slice), Percent: uint32(percent)}
	if filler.Size >= fit.Size {
		c.BufferSliceSizes = []*shmipc.SizePercentPair{fit, filler}
	} else {
		filler.Size = 4 << 10
		c.BufferSliceSizes = []*shmipc.SizePercentPair{filler, fit}
	}
	return c
}

// shmipcReceiver accepts a session for each size.
type shmipcReceiver struct {
	listener net.Listener
	window   window
	size     int
	sessions chan shmipcAccepted
	sizes    chan int // of the sessions to accept
	stream   *shmipc.Stream
	session  *shmipc.Session
}

type shmipcAccepted struct {
	session *shmipc.Session
	err     error
}

func newShmipcReceiver(ctx context.Context, _ bench.Setup) (bench.Receiver, error) {
	w, err := newWindow()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", bench.SocketName("shmipc"))
	if err != nil {
		return nil, errors.Join(err, w.m.Close())
	}
	r := &shmipcReceiver{listener: listener, window: w, sessions: make(chan shmipcAccepted, 1), sizes: make(chan int, 1)}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	go r.accept()
	return r, nil
}

// accept makes a session of every connection: the other end waits for that in its
// Prepare, and so cannot we in ours.
func (r *shmipcReceiver) accept() {
	for size := range r.sizes {
		conn, err := r.listener.Accept()
		if err != nil {
			r.sessions <- shmipcAccepted{err: err}
			return
		}
		session, err := shmipc.Server(conn, shmipcConfig(size))
		r.sessions <- shmipcAccepted{session, err}
	}
}

// Addr is that of the socket and, behind a comma, the window.
func (r *shmipcReceiver) Addr() string {
	return joinAddr(r.listener.Addr().String(), r.window.m.path())
}

func (r *shmipcReceiver) Prepare(ctx context.Context, size int) error {
	r.window.prepare(size)
	if size == r.size {
		return nil
	}
	r.size = size
	r.leave()
	r.sizes <- size
	select {
	case a := <-r.sessions:
		r.session = a.session
		return a.err
	case <-time.After(shmipcSetupLimit):
		return fmt.Errorf("no session within %v", shmipcSetupLimit)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *shmipcReceiver) leave() {
	if r.stream != nil {
		_ = r.stream.Close()
	}
	if r.session != nil {
		_ = r.session.Close()
	}
	r.stream, r.session = nil, nil
}

func (r *shmipcReceiver) Next(ctx context.Context) ([]byte, error) {
	if r.stream == nil {
		// A stream is there with its first message.
		var err error
		if r.stream, err = r.session.AcceptStream(); err != nil {
			return nil, err
		}
		stream := r.stream
		context.AfterFunc(ctx, func() { _ = stream.Close() })
	}
	return r.stream.BufferReader().ReadBytes(r.size)
}

func (r *shmipcReceiver) Release() {
	r.stream.BufferReader().ReleasePreviousRead()
	r.window.leave()
}

func (r *shmipcReceiver) Close() error {
	r.leave()
	close(r.sizes)
	return errors.Join(r.listener.Close(), r.window.m.Close())
}

// shmipcSender connects anew for each size.
type shmipcSender struct {
	addr    string
	window  window
	size    int
	manager *shmipc.SessionManager
	stream  *shmipc.Stream
}

func newShmipcSender(_ context.Context, s bench.Setup) (bench.Sender, error) {
	if len(s.Receivers) != 1 {
		return nil, fmt.Errorf("%d receivers, not 1", len(s.Receivers))
	}
	addr, path := splitAddr(s.Receivers[0])
	w, err := openWindow(path)
	if err != nil {
		return nil, err
	}
	return &shmipcSender{addr: addr, window: w}, nil
}

func (s *shmipcSender) Prepare(_ context.Context, size int) (err error) {
	s.window.prepare(size)
	if size == s.size {
		return nil
	}
	s.leave()
	config := shmipc.DefaultSessionManagerConfig()
	config.Config = shmipcConfig(size)
	config.Network, config.Address = "unix", s.addr
	if s.manager, err = shmipc.NewSessionManager(config); err != nil {
		s.manager = nil
		return err
	}
	s.size = size
	s.stream, err = s.manager.GetStream()
	return err
}

func (s *shmipcSender) leave() {
	if s.manager != nil {
		_ = s.manager.Close()
	}
	s.manager, s.stream = nil, nil
}

func (s *shmipcSender) Send(ctx context.Context, payload []byte) error {
	if err := s.window.enter(ctx); err != nil {
		return err
	}
	if _, err := s.stream.BufferWriter().WriteBytes(payload); err != nil {
		return err
	}
	return s.stream.Flush(false)
}

// Check finds messages that went through the socket because no slice was free.
func (s *shmipcSender) Check(int) error {
	if _, stability, _ := s.stream.Session().GetMetrics(); stability.FallbackWriteCount > 0 {
		return fmt.Errorf("%d messages went through the socket: no memory was free", stability.FallbackWriteCount)
	}
	return nil
}

func (s *shmipcSender) Close() error {
	s.leave()
	return s.window.m.Close()
}
