package main

import (
	"bytes"
	"fmt"

	"github.com/brokerd/brokerd/broker"
)

// credentials reads the files that say who may connect. The warnings are about
// what works, and is not as safe as it looks.
func (s *settings) credentials() (c broker.Credentials, warnings []string, err error) {
	if s.AuthTokenFile == "" {
		return c, nil, nil
	}
	if c.AuthToken, warnings, err = readToken(s.AuthTokenFile); err != nil {
		return broker.Credentials{}, nil, fmt.Errorf("auth_token_file: %w", err)
	}
	return c, warnings, nil
}

const (
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
