//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/brokerd/brokerd/bench/soak/books"
)

// usage is what a process uses.
type usage struct {
	Pid      int    `json:"pid"`
	Own      uint64 `json:"own_bytes"`    // anonymous memory in RAM
	Shared   uint64 `json:"shared_bytes"` // shared memory in RAM
	Files    int    `json:"files"`        // descriptors
	Mappings int    `json:"mappings"`
	Threads  int    `json:"threads"`
}

// sample is what the world looked like at one moment.
type sample struct {
	Time       time.Time        `json:"time"`
	Broker     *usage           `json:"broker,omitempty"` // nil: there is none
	Goroutines int              `json:"goroutines"`       // of the broker
	Nodes      map[string]usage `json:"nodes"`
	ShmBytes   uint64           `json:"shm_bytes"`     // under names in /dev/shm
	ShmObjects int              `json:"shm_objects"`   // names
	PoolUsed   uint64           `json:"pool_bytes"`    // as the broker counts, retired regions included
	Retired    uint64           `json:"retired_bytes"` // of these
	Sent       uint64           `json:"sent"`          // messages since the start
}

// watcher takes samples.
type watcher struct {
	w       *world
	samples []sample
	books   map[uint32][]*books.Sent // of living processes, by life
	sent    uint64                   // by those that have ended
	client  http.Client
}

func newWatcher(w *world) *watcher {
	return &watcher{w: w, books: map[uint32][]*books.Sent{}, client: http.Client{Timeout: 900 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}}
}

// run takes a sample each second until ctx ends.
func (t *watcher) run(ctx context.Context, each func(sample)) {
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		s := t.take(ctx)
		t.samples = append(t.samples, s)
		each(s)
	}
}

func (t *watcher) take(ctx context.Context) sample {
	s := sample{Time: time.Now(), Nodes: map[string]usage{}}
	t.w.mu.Lock()
	b := t.w.broker()
	var pid int
	var metrics string
	if b.killed.IsZero() && b.addr != "" {
		pid, metrics = b.cmd.Process.Pid, b.http
	}
	lives := map[uint32]*process{}
	for _, p := range t.w.live {
		lives[p.life] = p
	}
	t.w.mu.Unlock()
	for _, p := range lives {
		if u, err := usageOf(p.cmd.Process.Pid); err == nil {
			s.Nodes[p.spec.id] = u
		}
	}
	if pid > 0 {
		if u, err := usageOf(pid); err == nil {
			s.Broker = &u
			t.scrape(ctx, metrics, &s)
		}
	}
	for _, name := range shmNames(t.w.prefix) {
		var st syscall.Stat_t
		if syscall.Stat(filepath.Join(shmDir, name), &st) == nil {
			s.ShmObjects++
			s.ShmBytes += uint64(st.Blocks) * 512
		}
	}
	s.Sent = t.count(lives)
	return s
}

// count reads the books of living senders.
func (t *watcher) count(lives map[uint32]*process) uint64 {
	for life, list := range t.books {
		if lives[life] == nil {
			for _, b := range list {
				t.sent += b.Begun()
				_ = b.Close()
			}
			delete(t.books, life)
		}
	}
	sum := t.sent
	for life, p := range lives {
		if t.books[life] == nil {
			t.books[life] = []*books.Sent{}
			for _, o := range p.spec.outputs {
				if b, err := books.OpenSent(t.w.dir, p.spec.id, o.id, life); err == nil {
					t.books[life] = append(t.books[life], b)
				}
			}
		}
		for _, b := range t.books[life] {
			sum += b.Begun()
		}
	}
	return sum
}

// scrape reads the broker's own numbers; they stay 0 if it does not answer.
func (t *watcher) scrape(ctx context.Context, addr string, s *sample) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return
	}
	response, err := t.client.Do(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "go_goroutines":
			s.Goroutines = int(n)
		case "brokerd_memory_used_bytes":
			s.PoolUsed = uint64(n)
		case "brokerd_memory_retired_bytes":
			s.Retired = uint64(n)
		}
	}
}

// usageOf reads what a process uses from /proc.
func usageOf(pid int) (u usage, err error) {
	u.Pid = pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(string(line), ":")
		words := strings.Fields(value)
		if len(words) == 0 {
			continue
		}
		n, _ := strconv.ParseUint(words[0], 10, 64)
		switch key {
		case "RssAnon":
			u.Own = n * kib
		case "RssShmem":
			u.Shared = n * kib
		case "Threads":
			u.Threads = int(n)
		}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return u, err
	}
	u.Mappings = bytes.Count(maps, []byte{'\n'})
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	u.Files = len(files)
	return u, err
}
