//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// world is the system under test: one broker and the nodes.
type world struct {
	// Immutable.
	dir      string // of books and logs
	prefix   string // of names in /dev/shm
	flow     string // file
	program  string // brokerd
	limitMiB int
	seed     uint64
	started  time.Time

	// Owned by the goroutine that runs the soak; mu guards it for others, which only
	// read.
	mu      sync.Mutex
	addr    string
	brokers []*brokerRun // the last one is the living one
	live    map[string]*process
	past    []*process // all lives
	counts  map[string]int

	faultsMu sync.Mutex // guards what follows
	faults   []string
	events   []event
}

// event is something that was done to the world.
type event struct {
	Time time.Time
	What string // kill, restart, stop, broker killed, broker stopped
	Who  string
}

func newWorld(dir, program string, seed uint64) (*world, error) {
	w := &world{
		dir: dir, program: program, seed: seed, started: time.Now(), flow: filepath.Join(dir, flowName+".yml"),
		prefix: fmt.Sprintf("soak%d", os.Getpid()), live: map[string]*process{}, counts: map[string]int{},
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(shmDir, &fs); err != nil {
		return nil, err
	}
	free := int(fs.Bavail * uint64(fs.Bsize) / mib)
	w.limitMiB = min(1024, free*3/4)
	if w.limitMiB < 256 {
		return nil, fmt.Errorf("%s has %d MiB free, the soak needs %d", shmDir, free, shmNeededMiB)
	}
	return w, os.WriteFile(w.flow, []byte(flowText()), 0o644)
}

// fault notes something that must never be.
func (w *world) fault(text string) {
	w.faultsMu.Lock()
	defer w.faultsMu.Unlock()
	w.faults = append(w.faults, text)
}

func (w *world) faultCount() int {
	w.faultsMu.Lock()
	defer w.faultsMu.Unlock()
	return len(w.faults)
}

func (w *world) event(what, who string) {
	key := what
	if who == "brokerd" {
		key += " brokerd"
	}
	w.mu.Lock()
	w.counts[key]++
	w.mu.Unlock()
	w.faultsMu.Lock()
	w.events = append(w.events, event{time.Now(), what, who})
	w.faultsMu.Unlock()
}

func (w *world) broker() *brokerRun { return w.brokers[len(w.brokers)-1] }

// brokerUp reports whether there is a broker that nobody has killed.
func (w *world) brokerUp() bool { return w.broker().killed.IsZero() }

// open starts the broker and all nodes.
func (w *world) open(ctx context.Context) error {
	if err := w.restartBroker(ctx); err != nil {
		return err
	}
	for i := range nodes {
		if err := w.startNode(&nodes[i]); err != nil {
			return err
		}
	}
	return nil
}

// restartBroker starts a broker where the one before was.
func (w *world) restartBroker(ctx context.Context) error {
	addr := w.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.startBroker(ctx, addr); err != nil {
		return err
	}
	w.addr = w.broker().addr
	return nil
}

// startNode starts the next life of a node.
func (w *world) startNode(spec *nodeSpec) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	life := uint32(len(w.past) + 1)
	p, err := startProcess(spec, nodeOrder{Node: spec.id, Life: life, Dir: w.dir, Seed: w.seed + uint64(life)}, w.addr, w.fault)
	if err != nil {
		return err
	}
	w.live[spec.id] = p
	w.past = append(w.past, p)
	return nil
}

// endNode takes a node out: by SIGKILL, or asks it to leave.
func (w *world) endNode(id string, kill bool) {
	p := w.live[id]
	if kill {
		p.kill()
	} else if err := p.close(brokerPatience); err != nil {
		w.fault(err.Error())
		p.kill()
	}
	w.mu.Lock()
	delete(w.live, id)
	w.mu.Unlock()
}

// lookForDead tells of processes that have ended although nobody has ended them.
func (w *world) lookForDead() {
	for id, p := range w.live {
		if !p.alive() {
			w.fault(fmt.Sprintf("%s (life %d) has ended: %v\n%s", id, p.life, p.cmd.ProcessState, p.stderr.String()))
			p.killed = time.Now()
			w.mu.Lock()
			delete(w.live, id)
			w.mu.Unlock()
			if err := w.startNode(p.spec); err != nil {
				w.fault(err.Error())
			}
		}
	}
	select {
	case <-w.broker().ended:
		if w.brokerUp() {
			w.fault(fmt.Sprintf("brokerd has ended: %v", w.broker().cmd.ProcessState))
			w.broker().killed = time.Now()
		}
	default:
	}
}

// stop sends SIGSTOP or SIGCONT to a process.
func (p *process) stop(stop bool) {
	if p.stopped == stop {
		return
	}
	p.stopped = stop
	if stop {
		p.signal(syscall.SIGSTOP)
	} else {
		p.signal(syscall.SIGCONT)
	}
}

// destroy ends all that is left.
func (w *world) destroy() {
	for _, p := range w.live {
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	for _, b := range w.brokers {
		select {
		case <-b.ended:
		default:
			_ = b.cmd.Process.Kill()
			<-b.ended
		}
	}
	for _, name := range shmNames(w.prefix) {
		_ = os.Remove(filepath.Join(shmDir, name))
	}
}

const shmDir = "/dev/shm"

// shmNames lists the objects in /dev/shm whose names start with prefix.
func shmNames(prefix string) []string {
	list, err := os.ReadDir(shmDir)
	if err != nil {
		return nil
	}
	var names []string
	for _, item := range list {
		if strings.HasPrefix(item.Name(), prefix) {
			names = append(names, item.Name())
		}
	}
	return names
}

// settle waits until ok finds nothing to complain about.
func (w *world) settle(ctx context.Context, what string, patience time.Duration, ok func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.Join(fmt.Errorf("%s: %w", what, err), ctx.Err())
		}
		time.Sleep(50 * time.Millisecond)
	}
}
