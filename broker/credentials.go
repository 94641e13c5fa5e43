package broker

import (
	"errors"
	"fmt"
	"net"

	"github.com/brokerd/brokerd/wire"
)

// Credentials are the part of a Config that may be renewed while the broker runs.
type Credentials struct {
	// AuthToken is what every Hello must carry. Empty: anyone who can connect
	// is let in; Validate then wants a loopback address, or Insecure.
	AuthToken []byte
}

// validateCredentials finds what would let in somebody who should not be.
func (c *Config) validateCredentials(bad func(string, ...any)) {
	if len(c.AuthToken) == 0 && !c.Insecure && !isLoopback(c.listenAddr()) {
		bad("listen: %s can be reached from other machines: an auth token is needed, or insecure", c.listenAddr())
	}
	if len(c.AuthToken) > wire.AuthBytesMax {
		bad("auth token: %d bytes, the limit is %d", len(c.AuthToken), wire.AuthBytesMax)
	}
}

// Renew puts other credentials in force for connections that come from now on.
// Those that are there stay. Errors wrap ErrBadConfig and leave all as it was.
func (b *Broker) Renew(c Credentials) error {
	p := b.running()
	if p == nil {
		return ErrNotRunning
	}
	checked := b.cfg
	checked.Credentials = c
	var wrong []error
	checked.validateCredentials(func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) })
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %w", ErrBadConfig, errors.Join(wrong...))
	}
	p.srv.auth.Store(newAuthenticator(c.AuthToken))
	return nil
}

func (c *Config) listenAddr() string {
	if c.Listener != nil {
		return c.Listener.Addr().String()
	}
	return c.Listen
}

// isLoopback reports whether only this machine can reach the address. Of names
// only localhost is trusted: others may resolve to anything later.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
