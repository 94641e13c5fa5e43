package main

import (
	"context"
	"strings"
	"time"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
)

// window bounds what is on its way for peers that lose or reroute messages when
// their sender is too fast. The receiver counts in shared memory what it has
// taken, which is as cheap as it gets; the sender looks only when its window is
// full.
type window struct {
	m     *sharedMemory
	size  uint64 // messages
	count uint64 // sent, or taken
	seen  uint64 // taken, as the sender last saw
}

// windowPoll is how long a sender sleeps when its window is full: much shorter
// than the receiver takes for what is on its way.
const windowPoll = 50 * time.Microsecond

const windowBytes = 4096

func newWindow() (window, error) {
	m, err := newShared("window", windowBytes)
	return window{m: m}, err
}

func openWindow(path string) (window, error) {
	m, err := openShared(path)
	return window{m: m}, err
}

func (w *window) prepare(size int) { w.size = uint64(bench.Window(size)) }

// enter waits until another message may be sent.
func (w *window) enter(ctx context.Context) error {
	for w.count-w.seen >= w.size {
		if w.seen = w.m.word(0).Load(); w.count-w.seen < w.size {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		time.Sleep(windowPoll)
	}
	w.count++
	return nil
}

// leave counts a message as taken.
func (w *window) leave() {
	w.count++
	w.m.word(0).Store(w.count)
}

// joinAddr makes one announcement of an address and the window's path.
func joinAddr(addr, path string) string { return addr + "," + path }

func splitAddr(both string) (addr, path string) {
	addr, path, _ = strings.Cut(both, ",")
	return addr, path
}
