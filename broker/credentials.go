package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/brokerd/brokerd/wire"
)

// Credentials are the part of a Config that may be renewed while the broker runs.
type Credentials struct {
	// AuthToken is what every Hello must carry. Empty: anyone who can connect
	// is let in; Validate then wants a loopback address, client certificates or
	// Insecure.
	AuthToken []byte
	// TLS is how connections are secured; it has at least a certificate. nil: they
	// are in the clear, as they may be on loopback. It is not changed any more. What
	// it says of versions counts, but for those before 1.3.
	TLS *tls.Config
}

// withDefaults is what is in force of c.
func (c Credentials) withDefaults() Credentials {
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
		c.TLS.MinVersion = max(c.TLS.MinVersion, tls.VersionTLS13)
		// Connections last: resuming one saves nothing, and would carry an old decision
		// about a certificate over to a new time.
		c.TLS.SessionTicketsDisabled = true
	}
	return c
}

// asksForCertificates reports whether only peers with a certificate come in.
func (c *Credentials) asksForCertificates() bool {
	return c.TLS != nil && c.TLS.ClientAuth == tls.RequireAndVerifyClientCert
}

// validateCredentials finds what would let in somebody who should not be.
func (c *Config) validateCredentials(bad func(string, ...any)) {
	if !c.Insecure && !isLoopback(c.listenAddr()) {
		if c.TLS == nil {
			bad("listen: %s can be reached from other machines: TLS is needed, or insecure", c.listenAddr())
		}
		if len(c.AuthToken) == 0 && !c.asksForCertificates() {
			bad("listen: %s can be reached from other machines: an auth token or client certificates are needed, or insecure", c.listenAddr())
		}
	}
	if c.TLS != nil && len(c.TLS.Certificates) == 0 && c.TLS.GetCertificate == nil && c.TLS.GetConfigForClient == nil {
		bad("tls: there is no certificate")
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
	checked.Credentials = c.withDefaults()
	var wrong []error
	if (c.TLS == nil) != (b.cfg.TLS == nil) {
		wrong = append(wrong, errors.New("tls: it cannot be switched on or off while the broker runs"))
	}
	checked.validateCredentials(func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) })
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %w", ErrBadConfig, errors.Join(wrong...))
	}
	p.srv.auth.Store(newAuthenticator(c.AuthToken))
	p.srv.tls.Store(checked.TLS)
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
