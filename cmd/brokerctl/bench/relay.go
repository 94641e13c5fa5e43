package bench

import (
	"context"
	"errors"
	"io"
	"net"
)

// PathRelay is the name of the path with a relay.
const PathRelay = "relay"

// relayBytes is what the relay reads and writes on in one piece.
const relayBytes = 64 << 10

// Relay is TCP with a process between that reads and writes on, and does nothing
// else: what a hop through any broker costs a small message at least. Messages
// that it does not read in one piece would measure TCP's windows and nothing of
// use.
func Relay() *Path {
	return &Path{
		Name:    PathRelay,
		What:    "TCP through a process that passes bytes on and does nothing else",
		SizeMax: relayBytes,
		Between: newRelay,
		Receive: func(ctx context.Context, s Setup) (Receiver, error) { return joinRelay(ctx, s) },
		Send: func(ctx context.Context, s Setup) (Sender, error) {
			sender, err := dial(ctx, "tcp", s.Between)
			if err != nil {
				return nil, err
			}
			if _, err := sender.conn.Write([]byte{tagSender}); err != nil {
				return nil, errors.Join(err, sender.Close())
			}
			return sender, nil
		},
	}
}

// The first byte on a connection to the relay says who is at its other end.
const (
	tagSender   = 's'
	tagReceiver = 'r'
)

// relayed is a receiver that connects instead of listening.
type relayed struct{ socketReceiver }

func joinRelay(ctx context.Context, s Setup) (Receiver, error) {
	out, err := dial(ctx, "tcp", s.Between)
	if err != nil {
		return nil, err
	}
	if _, err := out.conn.Write([]byte{tagReceiver}); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	r := &relayed{}
	r.attach(ctx, out.conn)
	return r, nil
}

func (r *relayed) Addr() string { return "" }
func (r *relayed) Close() error { return r.conn.Close() }

// relay is the process between.
type relay struct {
	listener net.Listener
	ended    chan struct{}
}

func newRelay(ctx context.Context, _ Setup) (Between, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: listener, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.serve(ctx)
	}()
	return r, nil
}

func (r *relay) Addr() string { return r.listener.Addr().String() }

func (r *relay) Close() error {
	err := r.listener.Close()
	<-r.ended
	return err
}

// serve passes on until either end is gone, which the two notice themselves.
func (r *relay) serve(ctx context.Context) {
	ends := map[byte]net.Conn{}
	for len(ends) < 2 {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		var tag [1]byte
		if _, err := io.ReadFull(conn, tag[:]); err != nil {
			return
		}
		ends[tag[0]] = conn
	}
	in, out := ends[tagSender], ends[tagReceiver]
	if in == nil || out == nil {
		return
	}
	// Not io.Copy, which would splice inside the kernel: a broker has to look at
	// what it passes on.
	buf := make([]byte, relayBytes)
	for {
		n, err := in.Read(buf)
		if err == nil {
			_, err = out.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}
