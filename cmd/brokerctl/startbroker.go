package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/brokerd/brokerd/cmd/brokerctl/notify"
	"github.com/brokerd/brokerd/cmd/internal/cli"
)

// brokerName is how a broker of our own is called beside its nodes.
const brokerName = "brokerd"

const (
	brokerStartTimeout = 15 * time.Second
	// brokerStopTimeout is more than brokerd's own drain takes.
	brokerStopTimeout = 20 * time.Second
)

// ownBroker is a brokerd that was started for one run.
type ownBroker struct {
	child  *child
	socket *notify.Socket // what it says to a service manager
}

// startBroker starts brokerd on a free port and makes it the broker of this
// run. It waits for its READY the way a service manager does, which also brings
// the address.
func (r *runner) startBroker(ctx context.Context) (*ownBroker, error) {
	path, err := findBroker()
	if err != nil {
		return nil, &cli.Exit{Code: exitUnreachable, Err: err}
	}
	own := &ownBroker{}
	if own.socket, err = notify.Listen(); err != nil {
		return nil, err
	}
	addr, err := own.start(ctx, r, path)
	if err != nil {
		return nil, errors.Join(err, own.socket.Close())
	}
	r.addr = addr
	return own, nil
}

// start starts the process and waits until it listens.
func (b *ownBroker) start(ctx context.Context, r *runner, path string) (addr string, err error) {
	cmd := exec.Command(path, "--listen", "127.0.0.1:0", "--log-format", "console", "--log-level", "warn")
	cmd.Env = append(os.Environ(), b.socket.Environ()...)
	token, err := r.tokenPath()
	if err != nil {
		return "", cli.Config(err)
	}
	if token != "" {
		cmd.Args = append(cmd.Args, "--auth-token-file", token)
	}
	b.child, err = startChild(brokerName, cmd, r.printer.line, func(*child) {
		b.socket.Hurry() // whoever waits for READY need not any longer
	})
	if err != nil {
		return "", fmt.Errorf("%s cannot be started: %w", path, err)
	}
	if addr, err = b.socket.Await(ctx, brokerStartTimeout); err != nil {
		b.stop(r.printer)
		words, _ := b.child.result()
		return "", &cli.Exit{Code: exitUnreachable, Err: fmt.Errorf("%s did not get ready: %w (it %s)", path, err, words)}
	}
	r.printer.event(eventStarted, brokerName, cmd.Process.Pid, fmt.Sprintf("listens on %s (pid %d)", addr, cmd.Process.Pid))
	return addr, nil
}

// findBroker prefers the brokerd that lies beside us: it has our version.
func findBroker() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "brokerd")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	path, err := exec.LookPath("brokerd")
	if err != nil {
		return "", errors.New("brokerd is neither beside brokerctl nor in $PATH: go install github.com/brokerd/brokerd/cmd/brokerd@latest")
	}
	return path, nil
}

// stop ends the broker: it drains on SIGTERM.
func (b *ownBroker) stop(p *printer) {
	defer b.socket.Close()
	b.child.signal(syscall.SIGTERM)
	select {
	case <-b.child.done:
	case <-time.After(brokerStopTimeout):
		p.event(eventFailed, brokerName, 0, "does not end: SIGKILL")
		b.child.signal(syscall.SIGKILL)
		<-b.child.done
	}
	if words, ok := b.child.result(); !ok {
		p.event(eventFailed, brokerName, 0, words)
	}
}
