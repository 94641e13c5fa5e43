//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/brokerd/brokerd/bench/soak/books"
	"github.com/brokerd/brokerd/node/control"
	"github.com/brokerd/brokerd/wire"
)

const brokerPatience = 30 * time.Second

// brokerRun is one run of brokerd.
type brokerRun struct {
	cmd      *exec.Cmd
	addr     string
	http     string
	instance string
	started  time.Time
	killed   time.Time // zero: it was not
	stopped  bool      // by SIGSTOP
	ended    chan struct{}
	serving  chan struct{} // closed when it listens

	mu      sync.Mutex // guards what follows
	drops   []wire.DropRecord
	brought map[string]brought // by node
	faults  []string
	// failed are lanes given up because of a region that no broker lived to announce:
	// what that costs is in the log of drops.
	failed int
}

// brought is what a node has brought from the broker before.
type brought struct {
	Lanes   int `json:"lanes"`
	Offered int `json:"lanes_offered"`
}

// hash names the run in diaries.
func (b *brokerRun) hash() uint64 { return books.BrokerHash(b.instance) }

// startBroker starts brokerd and waits until it serves. Its log goes to a file in
// dir, too.
func (w *world) startBroker(ctx context.Context, addr string) error {
	log, err := os.Create(filepath.Join(w.dir, fmt.Sprintf("brokerd-%03d.log", len(w.brokers)+1)))
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{
		"--listen", addr, "--http", "127.0.0.1:0", "--log-format", "json", "--dataflow", w.flow, "--shm-prefix", w.prefix,
		"--shm-limit", fmt.Sprintf("%dMiB", w.limitMiB), "--shm-node-limit", fmt.Sprintf("%dMiB", w.limitMiB/4), "--shm-cache", fmt.Sprintf("%dMiB", w.limitMiB/8),
		"--shm-cache-age", "5s", "--heartbeat", "1s", "--adopt-grace", "3s", "--handshake-timeout", "2s",
	}
	b := &brokerRun{
		cmd: exec.Command(w.program, args...), started: time.Now(),
		ended: make(chan struct{}), serving: make(chan struct{}), brought: map[string]brought{},
	}
	b.cmd.Env = withoutBrokerd(os.Environ())
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	b.cmd.Stderr = writer
	err = starts.start(b.cmd)
	writer.Close()
	if err != nil {
		reader.Close()
		return err
	}
	copied, err := os.OpenFile(log.Name(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	go func() {
		defer close(b.ended)
		b.collect(io.TeeReader(reader, copied))
		reader.Close()
		copied.Close()
		_ = b.cmd.Wait() // the status is in ProcessState
	}()
	w.brokers = append(w.brokers, b)
	select {
	case <-b.serving:
		return nil
	case <-b.ended:
		return fmt.Errorf("brokerd ended: %v, see %s", b.cmd.ProcessState, log.Name())
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(brokerPatience):
		return errors.New("brokerd does not get ready")
	}
}

// logLine is what the soak reads of a line of brokerd's log.
type logLine struct {
	Level    string    `json:"level"`
	Time     time.Time `json:"ts"`
	Logger   string    `json:"logger"`
	Msg      string    `json:"msg"`
	Addr     string    `json:"addr"`
	HTTP     string    `json:"http"`
	Instance string    `json:"instance"`
	Node     string    `json:"node"`
	brought
}

// collect reads the log to its end. The last line of a broker that is killed may be
// cut off.
func (b *brokerRun) collect(r io.Reader) {
	lines := bufio.NewReaderSize(r, mib)
	for {
		text, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		b.line(text)
	}
}

func (b *brokerRun) line(text string) {
	var l logLine
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		b.faults = append(b.faults, "line of the log that is no JSON: "+text)
		return
	}
	switch {
	case l.Logger == "drop":
		var r wire.DropRecord
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			b.faults = append(b.faults, err.Error())
		}
		r.Time = l.Time
		b.drops = append(b.drops, r)
	case l.Msg == "listening":
		b.addr, b.http, b.instance = l.Addr, l.HTTP, l.Instance
		close(b.serving)
	case l.Msg == "node brought what it uses from a broker that died":
		b.brought[l.Node] = l.brought
	case l.Msg == "lane failed" && strings.Contains(text, "unknown region"):
		b.failed++
	case l.Level != "debug" && l.Level != "info" && l.Level != "warn",
		strings.Contains(l.Msg, "log lines lost"), strings.Contains(l.Msg, "lane damaged"), strings.Contains(l.Msg, "lane failed"):
		b.faults = append(b.faults, strings.TrimSpace(text))
	}
}

func (b *brokerRun) kill() {
	b.killed = time.Now()
	_ = b.cmd.Process.Kill()
	<-b.ended
}

// status asks the broker for its counters.
func (b *brokerRun) status(ctx context.Context) (s wire.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
	c, err := control.Dial(ctx, control.Config{Addr: b.addr, Client: "soak"})
	if err != nil {
		return s, err
	}
	defer c.Close()
	return s, c.Call(ctx, wire.VerbStatus, nil, &s)
}

// end stops the broker in good order.
func (b *brokerRun) end() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-b.ended:
	case <-time.After(brokerPatience):
		return errors.New("brokerd does not end")
	}
	if status := b.cmd.ProcessState.ExitCode(); status != 0 {
		return fmt.Errorf("brokerd ended with %d", status)
	}
	return nil
}
