// Package notify listens to what a brokerd that we started says to its service
// manager: that it is ready, and where it listens.
package notify

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Socket is the service manager's end.
type Socket struct {
	conn *net.UnixConn
	dir  string
}

// messageBytesMax is more than brokerd says at once.
const messageBytesMax = 4096

// Listen makes a socket in a directory of its own.
func Listen() (*Socket, error) {
	dir, err := os.MkdirTemp("", "brokerctl-")
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Socket{conn: conn, dir: dir}, nil
}

// Environ is what the environment of a brokerd that is to talk to us needs. It
// has no watchdog.
func (s *Socket) Environ() []string {
	return []string{"NOTIFY_SOCKET=" + s.conn.LocalAddr().String(), "WATCHDOG_USEC="}
}

// Await reads until the broker says that it is ready, and returns the address at
// which it listens. Afterwards it reads on without looking, or the socket would
// fill up and the broker wait for us.
func (s *Socket) Await(ctx context.Context, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	release := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	buffer := make([]byte, messageBytesMax)
	for {
		n, err := s.conn.Read(buffer)
		if err != nil {
			release()
			return "", errors.Join(ctx.Err(), err)
		}
		addr := readyAt(string(buffer[:n]))
		if addr == "" {
			continue
		}
		if !release() {
			return "", ctx.Err()
		}
		go func() {
			for {
				if _, err := s.conn.Read(buffer); err != nil {
					return
				}
			}
		}()
		return addr, nil
	}
}

// readyAt is the address in a message that says READY; empty in any other.
func readyAt(message string) string {
	addr, ready := "", false
	for line := range strings.SplitSeq(message, "\n") {
		if line == "READY=1" {
			ready = true
		}
		if text, ok := strings.CutPrefix(line, "X_BROKERD_ADDR="); ok {
			addr = text
		}
	}
	if !ready {
		return ""
	}
	return addr
}

// Hurry ends a wait: the broker has ended.
func (s *Socket) Hurry() { _ = s.conn.Close() }

// Close removes the socket.
func (s *Socket) Close() error {
	_ = s.conn.Close() // closed already if the broker has ended
	return os.RemoveAll(s.dir)
}
