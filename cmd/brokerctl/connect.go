package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/node/control"
	"github.com/brokerd/brokerd/wire"
)

// answerTimeout bounds the wait for one answer of the broker.
const answerTimeout = 10 * time.Second

// tokenFileBytesMax is more than any token has.
const tokenFileBytesMax = 64 << 10

// address is where the broker is expected.
func (t *tool) address() string {
	return cmp.Or(t.addr, os.Getenv(node.EnvAddr), control.DefaultAddr)
}

// tokenPath is the token file as an absolute path, so that it means the same to
// a child in another directory; empty if there is none.
func (t *tool) tokenPath() (string, error) {
	path := cmp.Or(t.tokenFile, os.Getenv(node.EnvAuthTokenFile))
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

func (t *tool) token() ([]byte, error) {
	path, err := t.tokenPath()
	if path == "" || err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, cli.Config(fmt.Errorf("auth token file: %w", err))
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, tokenFileBytesMax))
	if err != nil {
		return nil, cli.Config(fmt.Errorf("auth token file: %w", err))
	}
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return nil, cli.Config(fmt.Errorf("auth token file: %s is empty", path))
	}
	return data, nil
}

// dial connects to the broker.
func (t *tool) dial(ctx context.Context) (*control.Client, error) {
	token, err := t.token()
	if err != nil {
		return nil, err
	}
	secured, err := node.TLSFromEnv()
	if err != nil {
		return nil, cli.Config(err)
	}
	client, err := control.Dial(ctx, control.Config{
		TLS:       secured,
		Addr:      t.address(),
		AuthToken: token,
		Client:    "brokerctl/" + versionText(),
	})
	if err != nil {
		return nil, t.explain(err)
	}
	return client, nil
}

// call dials, asks once and hangs up.
func (t *tool) call(ctx context.Context, verb string, request, response any) error {
	ctx, release := untilSignal(ctx, t.signals)
	defer release()
	client, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return t.explain(client.Call(ctx, verb, request, response))
}

// explain adds to an error of the control connection what to do about it, and
// the exit status.
func (t *tool) explain(err error) error {
	var status *cli.Exit
	switch {
	case err == nil || errors.As(err, &status):
		return err
	case errors.Is(err, control.ErrUnreachable):
		return &cli.Exit{Code: exitUnreachable, Err: fmt.Errorf("%w\n"+
			"No broker answers at %s. Start one:\n"+
			"    brokerd                    here, in the foreground\n"+
			"    systemctl start brokerd    as a service\n"+
			"or name another address: --addr HOST:PORT, or %s", err, t.address(), node.EnvAddr)}
	case errors.Is(err, control.ErrClosed):
		return &cli.Exit{Code: exitUnreachable, Err: fmt.Errorf("the broker at %s is gone: %w", t.address(), err)}
	case errors.Is(err, wire.ErrAuth):
		return &cli.Exit{Code: cli.ExitFailed, Err: fmt.Errorf("%w\n"+
			"The broker wants a token: --auth-token-file FILE, or %s", err, node.EnvAuthTokenFile)}
	case errors.Is(err, wire.ErrBadDataflow):
		return cli.Config(err)
	}
	return err
}
