package node

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
)

// Names of the environment variables that TLSFromEnv reads.
const (
	EnvTLSCA   = "BROKERD_TLS_CA"
	EnvTLSName = "BROKERD_TLS_NAME"
	EnvTLSCert = "BROKERD_TLS_CLIENT_CERT"
	EnvTLSKey  = "BROKERD_TLS_CLIENT_KEY"
)

// tlsCASystem stands for the certificates that the machine trusts.
const tlsCASystem = "system"

// TLSFromEnv returns how to secure connections to the broker, nil if none of these
// variables is set:
//
//	BROKERD_TLS_CA           file of the certificates that may have signed the broker's; "system": those of the machine
//	BROKERD_TLS_NAME         name in the broker's certificate, if it is not the host that is dialled
//	BROKERD_TLS_CLIENT_CERT  file of this side's own certificate, if the broker asks for one
//	BROKERD_TLS_CLIENT_KEY   and of its key
//
// Errors (ErrConfig) name the variable.
func TLSFromEnv() (*tls.Config, error) {
	ca, name, cert, key := os.Getenv(EnvTLSCA), os.Getenv(EnvTLSName), os.Getenv(EnvTLSCert), os.Getenv(EnvTLSKey)
	if ca == "" && name == "" && cert == "" && key == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: name}
	if ca != "" && ca != tlsCASystem {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrConfig, EnvTLSCA, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: %s: there is no certificate in PEM form in %s", ErrConfig, EnvTLSCA, ca)
		}
	}
	if cert == "" && key == "" {
		return config, nil
	}
	if cert == "" || key == "" {
		return nil, fmt.Errorf("%w: %s and %s belong together; one of them is not set", ErrConfig, EnvTLSCert, EnvTLSKey)
	}
	// Read with each connection: certificates are short-lived, and renewed in place.
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%w: %s, %s: %w", ErrConfig, EnvTLSCert, EnvTLSKey, err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return config, nil
}

// secure does the TLS handshake with the broker at addr. conn is closed if it fails.
func secure(ctx context.Context, conn net.Conn, addr string, config *tls.Config) (net.Conn, error) {
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		config = config.Clone()
		config.ServerName = cmp.Or(host, "localhost")
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS with the broker: %w", err)
	}
	return tlsConn{secured}, nil
}

// tlsConn closes at once. The farewell of TLS would wait for a peer that does not
// read; the protocol has its own.
type tlsConn struct{ *tls.Conn }

func (c tlsConn) Close() error { return c.NetConn().Close() }

// isDistrust reports whether the two sides do not trust each other's certificates,
// one of them asks for one that the other does not have, or only one speaks TLS.
func isDistrust(err error) bool {
	var ours *tls.CertificateVerificationError
	var theirs *net.OpError // an alert of TLS has no type that one may name
	var plain tls.RecordHeaderError
	return errors.As(err, &ours) || errors.As(err, &theirs) && theirs.Op == "remote error" || errors.As(err, &plain)
}
