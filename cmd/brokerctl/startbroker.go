package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

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
	socket *net.UnixConn // what it says to a service manager
	dir    string        // of the socket
}

// startBroker starts brokerd on a free port and makes it the broker of this
// run. It waits for its READY the way a service manager does, which also brings
// the address.
func (r *runner) startBroker(ctx context.Context) (*ownBroker, error) {
	path, err := findBroker()
	if err != nil {
		return nil, &cli.Exit{Code: exitUnreachable, Err: err}
	}
	dir, err := os.MkdirTemp("", "brokerctl-")
	if err != nil {
		return nil, err
	}
	own := &ownBroker{dir: dir}
	if own.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}); err != nil {
		own.cleanUp()
		return nil, err
	}
	addr, err := own.start(ctx, r, path)
	if err != nil {
		own.cleanUp()
		return nil, err
	}
	r.addr = addr
	return own, nil
}

// start starts the process and waits until it listens.
func (b *ownBroker) start(ctx context.Context, r *runner, path string) (addr string, err error) {
	cmd := exec.Command(path, "--listen", "127.0.0.1:0", "--log-format", "console", "--log-level", "warn")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+b.socket.LocalAddr().String(), "WATCHDOG_USEC=")
	token, err := r.tokenPath()
	if err != nil {
		return "", cli.Config(err)
	}
	if token != "" {
		cmd.Args = append(cmd.Args, "--auth-token-file", token)
	}
	b.child, err = startChild(brokerName, cmd, r.printer.line, func(*child) {
		_ = b.socket.Close() // whoever waits for READY need not any longer
	})
	if err != nil {
		return "", fmt.Errorf("%s cannot be started: %w", path, err)
	}
	if addr, err = awaitReady(ctx, b.socket); err != nil {
		b.stop(r.printer)
		words, _ := b.child.result()
		return "", &cli.Exit{Code: exitUnreachable, Err: fmt.Errorf("%s did not get ready: %w (it %s)", path, err, words)}
	}
	r.printer.event(eventStarted, brokerName, cmd.Process.Pid, fmt.Sprintf("listens on %s (pid %d)", addr, cmd.Process.Pid))
	// Read on, or the socket fills up and the broker waits for us.
	go func() {
		buffer := make([]byte, 4096)
		for {
			if _, err := b.socket.Read(buffer); err != nil {
				return
			}
		}
	}()
	return addr, nil
}

func (b *ownBroker) cleanUp() {
	if b.socket != nil {
		_ = b.socket.Close() // closed already if the broker has ended
	}
	_ = os.RemoveAll(b.dir)
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

// awaitReady reads the messages to a service manager until one says READY, and
// returns the address in it.
func awaitReady(ctx context.Context, socket *net.UnixConn) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, brokerStartTimeout)
	defer cancel()
	release := context.AfterFunc(ctx, func() { _ = socket.SetReadDeadline(time.Unix(1, 0)) })
	defer release()
	buffer := make([]byte, 4096)
	for {
		n, err := socket.Read(buffer)
		if err != nil {
			return "", errors.Join(ctx.Err(), err)
		}
		addr, ready := "", false
		for line := range strings.SplitSeq(string(buffer[:n]), "\n") {
			if line == "READY=1" {
				ready = true
			}
			if text, ok := strings.CutPrefix(line, "X_BROKERD_ADDR="); ok {
				addr = text
			}
		}
		if ready && addr != "" {
			return addr, nil
		}
	}
}

// stop ends the broker: it drains on SIGTERM.
func (b *ownBroker) stop(p *printer) {
	defer b.cleanUp()
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
