package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/node/control"
)

// manager is the service manager's end of a notification socket.
type manager struct {
	t      *testing.T
	socket *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	// A path of t.TempDir may be longer than a socket's may be.
	dir, err := os.MkdirTemp("", "notify")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		socket.Close()
		os.RemoveAll(dir)
	})
	return &manager{t: t, socket: socket}
}

func (m *manager) env() string { return "NOTIFY_SOCKET=" + m.socket.LocalAddr().String() }

// told waits for a message that has a line with this start, and returns all its
// lines by name.
func (m *manager) told(start string) map[string]string {
	m.t.Helper()
	if err := m.socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	buffer := make([]byte, 8192)
	for {
		n, err := m.socket.Read(buffer)
		if err != nil {
			m.t.Fatalf("waiting for %s: %v", start, err)
		}
		lines := map[string]string{}
		found := false
		for line := range strings.SplitSeq(string(buffer[:n]), "\n") {
			name, value, ok := strings.Cut(line, "=")
			if !ok {
				m.t.Errorf("line %q of a notification", line)
			}
			lines[name] = value
			found = found || strings.HasPrefix(line, start)
		}
		if found {
			return lines
		}
	}
}

func TestNotify(t *testing.T) {
	flow := filepath.Join(t.TempDir(), "flow.yml")
	writeFile(t, flow, flowText)
	m := newManager(t)
	// A quarter of this is less than the second between two signs of life.
	p := start(t, []string{m.env(), "WATCHDOG_USEC=2000000"}, "--listen", "127.0.0.1:0", "--dataflow", flow)

	ready := m.told("READY=1")
	// READY means that a connection is taken at once.
	askStatus(t, control.Config{Addr: ready["X_BROKERD_ADDR"]})
	if status := m.told("STATUS=")["STATUS"]; !strings.Contains(status, "0 of 2 nodes connected, 1 edge, shared memory ") ||
		!strings.Contains(status, ", 0 drops") {
		t.Errorf("status line %q", status)
	}
	m.told("WATCHDOG=1")
	m.told("WATCHDOG=1")

	p.signal(syscall.SIGHUP)
	if reloading := m.told("RELOADING=1"); reloading["MONOTONIC_USEC"] == "" {
		t.Errorf("no time with RELOADING: %v", reloading)
	}
	m.told("READY=1")
	m.told("STATUS=127.0.0.1:")

	writeFile(t, flow, "nodes: 7\n")
	p.signal(syscall.SIGHUP)
	m.told("RELOADING=1")
	m.told("READY=1") // with what it had

	p.signal(syscall.SIGTERM)
	if stopping := m.told("STOPPING=1"); stopping["EXTEND_TIMEOUT_USEC"] != "15000000" {
		t.Errorf("no time asked for: %v", stopping)
	}
	if code := p.exit(); code != cli.ExitOK {
		t.Errorf("exit status %d", code)
	}
}

func TestNoReadyWithoutListening(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	m := newManager(t)
	p := start(t, []string{m.env()}, "--listen", listener.Addr().String())
	p.exit()
	if err := m.socket.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 8192)
	if n, err := m.socket.Read(buffer); err == nil {
		t.Errorf("told %q", buffer[:n])
	}
}

// The messages follow the router's signs of life: no more of them than needed,
// and none without.
func TestWatchdogFollowsTheRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Duration
		begin := time.Now()
		n := &notifier{
			log:      zap.NewNop(),
			interval: time.Second,
			pings:    make(chan struct{}, 1),
			send: func(state string) (bool, error) {
				if state != "WATCHDOG=1" {
					t.Errorf("told %q", state)
				}
				times = append(times, time.Since(begin))
				return true, nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			n.run(ctx)
		}()
		for range 25 { // 2.5 seconds
			n.alive()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute) // the router stands still
		n.alive()
		n.alive() // never blocks, even when nobody has taken the last one
		synctest.Wait()
		cancel()
		<-ended
		want := []time.Duration{0, time.Second, 2 * time.Second, 62500 * time.Millisecond}
		if len(times) != len(want) {
			t.Fatalf("told at %v, want %v", times, want)
		}
		for i := range want {
			if times[i] != want[i] {
				t.Errorf("told at %v, want %v", times, want)
			}
		}
	})
}

func TestWithoutManager(t *testing.T) {
	n := newNotifier(zap.NewNop())
	n.ready("127.0.0.1:1")
	n.reloading()
	n.stopping(time.Second)
	n.alive()
	n.run(t.Context()) // returns at once: there is no watchdog
}
