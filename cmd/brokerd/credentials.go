package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/brokerd/brokerd/broker"
)

// credentials reads the files that say who may connect, and how. The warnings are
// about what works, and is not as safe as it looks.
func (s *settings) credentials() (c broker.Credentials, warnings []string, err error) {
	if s.AuthTokenFile != "" {
		if c.AuthToken, warnings, err = readToken(s.AuthTokenFile); err != nil {
			return broker.Credentials{}, nil, fmt.Errorf("auth_token_file: %w", err)
		}
	}
	var more []string
	if c.TLS, more, err = s.readTLS(time.Now()); err != nil {
		return broker.Credentials{}, nil, err
	}
	return c, append(warnings, more...), nil
}

// expiresSoon is how long before its end a certificate is warned of.
const expiresSoon = 7 * 24 * time.Hour

// readTLS reads certificate and key, and whose certificates clients must have. nil:
// no TLS.
func (s *settings) readTLS(now time.Time) (config *tls.Config, warnings []string, err error) {
	switch {
	case s.TLSCert == "" && s.TLSKey == "" && s.TLSClientCA == "":
		return nil, nil, nil
	case s.TLSCert == "":
		return nil, nil, errors.New("tls_cert: it is not set, and without it there is no TLS")
	case s.TLSKey == "":
		return nil, nil, errors.New("tls_key: it is not set, and the certificate is nothing without it")
	}
	cert, _, err := readBounded(s.TLSCert, pemFileBytesMax)
	if err != nil {
		return nil, nil, fmt.Errorf("tls_cert: %w", err)
	}
	key, mode, err := readBounded(s.TLSKey, pemFileBytesMax)
	if err != nil {
		return nil, nil, fmt.Errorf("tls_key: %w", err)
	}
	if mode&(othersRead|othersWrite) != 0 {
		warnings = append(warnings, fmt.Sprintf("tls_key: %s has mode %04o: others on this machine can use the key; chmod o-rw", s.TLSKey, mode.Perm()))
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, nil, fmt.Errorf("tls_cert, tls_key: %w", err)
	}
	if left := pair.Leaf.NotAfter.Sub(now); left < expiresSoon {
		warnings = append(warnings, fmt.Sprintf("tls_cert: %s ends at %s", s.TLSCert, pair.Leaf.NotAfter.UTC().Format(time.RFC3339)))
	}
	config = &tls.Config{Certificates: []tls.Certificate{pair}}
	if s.TLSClientCA != "" {
		authorities, _, err := readBounded(s.TLSClientCA, pemFileBytesMax)
		if err != nil {
			return nil, nil, fmt.Errorf("tls_client_ca: %w", err)
		}
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !config.ClientCAs.AppendCertsFromPEM(authorities) {
			return nil, nil, fmt.Errorf("tls_client_ca: there is no certificate in PEM form in %s", s.TLSClientCA)
		}
	}
	return config, warnings, nil
}

const (
	// pemFileBytesMax is more than a file of certificates has.
	pemFileBytesMax = 1 << 20
	// tokenFileBytesMax is more than a token may have, so that a file which is too
	// long is told from one that is not.
	tokenFileBytesMax = 64 << 10
	// tokenBytesGood is what a token needs to be safe from guessing: 16 bytes are
	// 64 bits and more, also if they are hex digits.
	tokenBytesGood = 16

	othersRead  = 0o004
	othersWrite = 0o002
)

// readToken reads a token file. White space around the token does not belong to
// it: editors and echo end a file with a newline. A file that anybody may write to
// is refused, because it is no secret of the operator's. One that anybody may read
// is not: that is how containers get their secrets.
func readToken(path string) (token []byte, warnings []string, err error) {
	data, mode, err := readBounded(path, tokenFileBytesMax)
	if err != nil {
		return nil, nil, err
	}
	if mode&othersWrite != 0 {
		return nil, nil, fmt.Errorf("%s has mode %04o: anybody can replace the token; chmod o-rw", path, mode.Perm())
	}
	token = bytes.TrimSpace(data)
	if len(token) == 0 {
		return nil, nil, fmt.Errorf("%s is empty", path)
	}
	if mode&othersRead != 0 {
		warnings = append(warnings, fmt.Sprintf("auth_token_file: %s has mode %04o: everybody on this machine can read the token; chmod o-rw", path, mode.Perm()))
	}
	if len(token) < tokenBytesGood {
		warnings = append(warnings, fmt.Sprintf("auth_token_file: the token has %d bytes and can be guessed; make one with `openssl rand -hex 32`", len(token)))
	}
	return token, warnings, nil
}
