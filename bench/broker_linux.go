package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/brokerd/brokerd/cmd/brokerctl/notify"
)

const (
	brokerStartTimeout = 15 * time.Second
	brokerStopTimeout  = 20 * time.Second // more than its own drain takes
	mainModule         = "github.com/brokerd/brokerd"
)

// broker is a brokerd of our own.
type broker struct {
	addr   string
	cmd    *exec.Cmd
	socket *notify.Socket
	dir    string // of the program, if we built it
	ended  chan struct{}
	err    error // how it ended
}

// startBroker starts the program at path, or one built from the source that this
// one was built from, on a free port.
func startBroker(ctx context.Context, path string, errOut io.Writer) (*broker, error) {
	b := &broker{ended: make(chan struct{})}
	if err := b.start(ctx, path, errOut); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

func (b *broker) start(ctx context.Context, path string, errOut io.Writer) (err error) {
	if path == "" {
		if b.dir, err = os.MkdirTemp("", "brokerd-bench-"); err != nil {
			return err
		}
		if path, err = build(ctx, b.dir); err != nil {
			return err
		}
	}
	if b.socket, err = notify.Listen(); err != nil {
		return err
	}
	cmd := exec.Command(path, "--listen", "127.0.0.1:0", "--log-format", "console", "--log-level", "warn")
	cmd.Env = append(os.Environ(), b.socket.Environ()...)
	cmd.Stderr = errOut
	prepare(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	b.cmd = cmd
	go func() {
		b.err = cmd.Wait()
		close(b.ended)
		b.socket.Hurry() // whoever waits for READY need not any longer
	}()
	if b.addr, err = b.socket.Await(ctx, brokerStartTimeout); err != nil {
		return fmt.Errorf("%s did not get ready: %w", path, err)
	}
	return nil
}

// build builds brokerd into dir.
func build(ctx context.Context, dir string) (string, error) {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", mainModule)
	list.Stderr = os.Stderr
	source, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("where is brokerd's source? Start this in its directory, or name a program with --brokerd: %w", err)
	}
	path := filepath.Join(dir, "brokerd")
	compile := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/brokerd")
	compile.Dir = strings.TrimSpace(string(source))
	if text, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building brokerd: %w\n%s", err, text)
	}
	return path, nil
}

// stop ends the broker, which takes down its shared memory, and removes what was
// made for it.
func (b *broker) stop() error {
	var err error
	if b.cmd != nil {
		_ = b.cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(brokerStopTimeout, func() { _ = b.cmd.Process.Kill() })
		<-b.ended
		late.Stop()
		if b.err != nil {
			err = fmt.Errorf("brokerd: %w", b.err)
		}
	}
	if b.socket != nil {
		err = cmp.Or(err, b.socket.Close())
	}
	if b.dir != "" {
		err = cmp.Or(err, os.RemoveAll(b.dir))
	}
	return err
}
