package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// Dial connects to a broker and does the handshake. It tries once: a caller
// that wants to wait for a broker calls it again.
//
// Errors: ErrUnreachable if nobody listens at the address or it does not speak
// the protocol in time; *wire.Error if the broker refuses, for instance
// wire.ErrAuth; the context's.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.Addr == "" {
		cfg.Addr = DefaultAddr
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = dialTimeoutDefault
	}
	if cfg.Client == "" {
		cfg.Client = "brokerd-control"
	}
	dialing, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(dialing, "tcp", cfg.Addr)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if cfg.TLS != nil {
		if conn, err = secure(dialing, conn, cfg); err != nil {
			return nil, unreachable(ctx, err)
		}
	}
	c := &Client{
		conn:    conn,
		done:    make(chan struct{}),
		encoder: wire.NewEncoder(),
		pending: make(map[uint32]*call),
	}
	// A context that ends during the handshake unblocks its reads and writes.
	release := context.AfterFunc(dialing, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	reader := &frameReader{conn: conn, max: wire.HandshakeFrameBytesMax, decoder: wire.NewDecoder()}
	err = c.handshake(cfg, reader)
	if !release() && err == nil {
		err = context.Cause(dialing)
	}
	if err != nil {
		_ = conn.Close()
		var refusal *wire.Error
		if errors.As(err, &refusal) {
			return nil, err
		}
		return nil, unreachable(ctx, fmt.Errorf("handshake with %s: %w", cfg.Addr, err))
	}
	c.workers.Go(func() { c.read(reader) })
	c.workers.Go(c.keepAlive)
	return c, nil
}

// secure does the TLS handshake. conn is closed if it fails.
func secure(ctx context.Context, conn net.Conn, cfg Config) (net.Conn, error) {
	config := cfg.TLS
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(cfg.Addr)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		config = config.Clone()
		config.ServerName = host
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS with %s: %w", cfg.Addr, err)
	}
	return tlsConn{secured}, nil
}

// tlsConn closes at once. The farewell of TLS would wait for a peer that does not
// read.
type tlsConn struct{ *tls.Conn }

func (c tlsConn) Close() error { return c.NetConn().Close() }

// unreachable prefers the caller's own reason to stop over the network's view
// of it.
func unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

func (c *Client) handshake(cfg Config, reader *frameReader) error {
	hello := &wire.Hello{
		VersionMin: wire.VersionMin,
		VersionMax: wire.VersionMax,
		Role:       wire.RoleControl,
		Auth:       cfg.AuthToken,
		Client:     cfg.Client,
	}
	if err := c.write(hello); err != nil {
		return err
	}
	m, err := reader.next()
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *wire.Welcome:
		c.welcome = *m
	case *wire.Error:
		return &wire.Error{Code: m.Code, Text: m.Text}
	default:
		return fmt.Errorf("%w: %s instead of Welcome", wire.ErrProtocol, m.Kind())
	}
	c.heartbeat = time.Duration(c.welcome.HeartbeatMS) * time.Millisecond
	if c.heartbeat == 0 {
		c.heartbeat = heartbeatDefault
	}
	// An empty nonce: this side maps nothing.
	if err := c.write(&wire.Attach{}); err != nil {
		return err
	}
	for {
		if m, err = reader.next(); err != nil {
			return err
		}
		ping, ok := m.(*wire.Ping) // the broker had to wait for us
		if !ok {
			break
		}
		if err := c.write(&wire.Pong{Nonce: ping.Nonce}); err != nil {
			return err
		}
	}
	switch m := m.(type) {
	case *wire.Ready:
		reader.max = c.welcome.FrameMax
		return nil
	case *wire.Error:
		return &wire.Error{Code: m.Code, Text: m.Text}
	default:
		return fmt.Errorf("%w: %s instead of Ready", wire.ErrProtocol, m.Kind())
	}
}
