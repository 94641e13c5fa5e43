package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
)

// pathNATS is its name in reports.
const pathNATS = "nats"

// natsPath is one NATS server in a process of its own, core NATS without
// persistence.
func natsPath() *bench.Path {
	return &bench.Path{
		Name:    pathNATS,
		What:    "NATS " + server.VERSION + ", one server between",
		SizeMax: natsPayloadMax,
		Slow:    8,
		Between: newNATSServer,
		Receive: newNATSReceiver,
		Send:    newNATSSender,
	}
}

const (
	natsPayloadMax = 64 << 20 // bytes; it takes no more
	natsSubject    = "bench"
	natsReadyLimit = 10 * time.Second
	natsQueue      = 8192 // messages: more than any window
)

type natsServer struct{ server *server.Server }

func newNATSServer(context.Context, bench.Setup) (bench.Between, error) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		MaxPayload: natsPayloadMax,
		MaxPending: int64(bench.Window(natsPayloadMax)+1) * natsPayloadMax,
	})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(natsReadyLimit) {
		s.Shutdown()
		return nil, fmt.Errorf("the server is not ready after %v", natsReadyLimit)
	}
	return natsServer{s}, nil
}

func (s natsServer) Addr() string { return s.server.ClientURL() }

func (s natsServer) Close() error {
	s.server.Shutdown()
	s.server.WaitForShutdown()
	return nil
}

// natsConnect never reconnects: what is lost meanwhile would be missed in vain.
func natsConnect(url string) (*nats.Conn, error) {
	return nats.Connect(url, nats.NoReconnect(), nats.Timeout(natsReadyLimit))
}

type natsReceiver struct {
	conn     *nats.Conn
	window   window
	messages chan *nats.Msg
	closed   chan struct{}
}

func newNATSReceiver(_ context.Context, s bench.Setup) (bench.Receiver, error) {
	conn, err := natsConnect(s.Between)
	if err != nil {
		return nil, err
	}
	r := &natsReceiver{conn: conn, messages: make(chan *nats.Msg, natsQueue), closed: make(chan struct{})}
	conn.SetClosedHandler(func(*nats.Conn) { close(r.closed) })
	if r.window, err = newWindow(); err != nil {
		conn.Close()
		return nil, err
	}
	// A channel is a goroutine less on the way than a callback.
	_, err = conn.ChanSubscribe(natsSubject, r.messages)
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *natsReceiver) Addr() string { return r.window.m.path() }

func (r *natsReceiver) Prepare(_ context.Context, size int) error {
	r.window.prepare(size)
	return nil
}

func (r *natsReceiver) Next(ctx context.Context) ([]byte, error) {
	select {
	case m := <-r.messages:
		return m.Data, nil
	case <-r.closed:
		return nil, fmt.Errorf("the server is gone: %w", r.conn.LastError())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *natsReceiver) Release() { r.window.leave() }

func (r *natsReceiver) Close() error {
	r.conn.Close()
	return r.window.m.Close()
}

type natsSender struct {
	conn   *nats.Conn
	window window
}

func newNATSSender(_ context.Context, s bench.Setup) (bench.Sender, error) {
	if len(s.Receivers) != 1 {
		return nil, fmt.Errorf("%d receivers, not 1", len(s.Receivers))
	}
	conn, err := natsConnect(s.Between)
	if err != nil {
		return nil, err
	}
	w, err := openWindow(s.Receivers[0])
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &natsSender{conn: conn, window: w}, nil
}

func (s *natsSender) Prepare(_ context.Context, size int) error {
	s.window.prepare(size)
	return nil
}

func (s *natsSender) Send(ctx context.Context, payload []byte) error {
	if err := s.window.enter(ctx); err != nil {
		return err
	}
	return s.conn.Publish(natsSubject, payload)
}

func (s *natsSender) Close() error {
	s.conn.Close()
	return s.window.m.Close()
}
