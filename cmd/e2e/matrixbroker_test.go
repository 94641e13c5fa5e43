//go:build linux

package e2e

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/node/control"
)

// cutBroker ends all sockets of brokerd without its knowledge.
func (s *stage) cutBroker() {
	s.t.Helper()
	n, err := cutAll(s.broker.pid, true)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		s.t.Skipf("sockets of another process cannot be had here: %v", err)
	}
	if err != nil || n < len(s.nodes) {
		s.t.Fatalf("%d sockets cut: %v", n, err)
	}
	s.broker.control.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		if s.broker.control, err = control.Dial(ctx, control.Config{Addr: s.broker.addr}); err == nil {
			break
		}
		if ctx.Err() != nil {
			s.t.Fatalf("brokerd cannot be reached: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, id := range []string{"source", "first", "second", "clock", "sink"} {
		s.back(id)
	}
}

// plug has nobody read the log of brokerd, and fills the pipe that it goes into:
// the next line blocks whoever writes it.
func (s *stage) plug() {
	s.t.Helper()
	log := s.broker.log
	log.pause.Lock()
	s.unplug = sync.OnceFunc(log.pause.Unlock)
	s.t.Cleanup(s.unplug) // or the end of a failed test would wait for it
	raw, err := s.broker.reader.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	pipe := -1
	// The same pipe by another name: the descriptor that brokerd has must go on
	// blocking.
	if err := errors.Join(raw.Control(func(fd uintptr) {
		pipe, err = unix.Open("/proc/self/fd/"+strconv.Itoa(int(fd)), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}), err); err != nil {
		s.t.Fatal(err)
	}
	defer unix.Close(pipe)
	line := []byte(`{"level":"debug","msg":"` + filler + "\"}\n")
	for range 5 { // whoever reads has room of its own, before it finds out
		for err = nil; err == nil; {
			_, err = unix.Write(pipe, line)
		}
		if !errors.Is(err, unix.EAGAIN) {
			s.t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// filler is the text of lines that are in the way of others.
const filler = "filler"
