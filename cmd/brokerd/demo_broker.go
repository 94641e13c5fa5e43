package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/brokerd/brokerd/broker"
	"github.com/brokerd/brokerd/wire"
)

// demoBroker is a broker for one run of the demo.
type demoBroker struct {
	broker *broker.Broker
	log    *demoLog
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run; valid once done is closed
}

// startDemoBroker returns when the broker listens. Its log goes to log, if that
// is not nil, and what it says of drops also to drops.
func startDemoBroker(drops func(wire.DropRecord), log io.Writer) (*demoBroker, error) {
	b := &demoBroker{log: &demoLog{drops: drops, file: log}, done: make(chan struct{})}
	cfg := broker.Defaults()
	cfg.Version = versionText()
	cfg.Listen = "127.0.0.1:0"
	cfg.Logger = zap.New(zapcore.NewCore(
		zapcore.NewJSONEncoder(jsonEncoding()), zapcore.Lock(zapcore.AddSync(b.log)), zapcore.InfoLevel))
	var err error
	if b.broker, err = broker.New(cfg); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	go func() {
		defer close(b.done)
		b.err = b.broker.Run(ctx)
	}()
	select {
	case <-b.broker.Ready():
		return b, nil
	case <-b.done:
		cancel()
		return nil, b.err
	}
}

// Addr is where it listens.
func (b *demoBroker) Addr() string { return b.broker.Addr().String() }

// Done is closed when it has ended.
func (b *demoBroker) Done() <-chan struct{} { return b.done }

// Trouble is what it warned about.
func (b *demoBroker) Trouble() string { return b.log.trouble() }

// Stop ends it, and waits.
func (b *demoBroker) Stop() error {
	b.cancel()
	select {
	case <-b.done:
		return b.err
	case <-time.After(demoBrokerStop):
		return fmt.Errorf("the broker has not ended within %s", demoBrokerStop)
	}
}

// demoLog takes the broker's log, one line a Write. It reads the lines as an
// operator's tools would, so that what the demo adds up is what was logged.
type demoLog struct {
	drops func(wire.DropRecord)
	file  io.Writer // may be nil

	mutex sync.Mutex
	lines []string // warnings and errors but for drops, the last of them
}

const demoTroubleLines = 40

// Write takes one line.
func (l *demoLog) Write(line []byte) (int, error) {
	var entry struct {
		Level  string `json:"level"`
		Logger string `json:"logger"`
		wire.DropRecord
	}
	err := json.Unmarshal(line, &entry)
	switch {
	case err == nil && entry.Logger == "drop":
		l.drops(entry.DropRecord)
	case err != nil || entry.Level != "debug" && entry.Level != "info":
		l.mutex.Lock()
		if len(l.lines) == demoTroubleLines {
			l.lines = append(l.lines[:0], l.lines[1:]...)
		}
		l.lines = append(l.lines, strings.TrimSuffix(string(line), "\n"))
		l.mutex.Unlock()
	}
	if l.file == nil {
		return len(line), nil
	}
	return l.file.Write(line)
}

func (l *demoLog) trouble() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if len(l.lines) == 0 {
		return ""
	}
	return strings.Join(l.lines, "\n") + "\n"
}
