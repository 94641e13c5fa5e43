//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// starter starts processes from one thread that never ends: the kernel takes the
// end of the thread that started a process for its parent's death.
type starter struct {
	once  sync.Once
	queue chan startRequest
}

type startRequest struct {
	cmd  *exec.Cmd
	done chan error
}

var starts = starter{queue: make(chan startRequest)}

// start starts cmd in a group of its own, so that Ctrl-C reaches only us, and so
// that it dies with us.
func (s *starter) start(cmd *exec.Cmd) error {
	s.once.Do(func() {
		go func() {
			runtime.LockOSThread()
			for r := range s.queue {
				r.done <- r.cmd.Start()
			}
		}()
	})
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	r := startRequest{cmd, make(chan error, 1)}
	s.queue <- r
	return <-r.done
}

// textTail keeps the end of what a process says.
type textTail struct {
	mu sync.Mutex
	b  []byte
}

const textTailBytes = 16 * kib

func (t *textTail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - textTailBytes; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *textTail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// process is one life of a node, as the soak sees it.
type process struct {
	spec    *nodeSpec
	life    uint32
	started time.Time
	cmd     *exec.Cmd
	in      io.WriteCloser
	stderr  textTail
	ended   chan struct{} // closed when it has ended
	answers chan answer   // to orders

	// Owned by the goroutine that gives orders.
	killed  time.Time // zero: it was not
	stopped bool      // by SIGSTOP
}

// startProcess starts a life of a node. Faults that it tells go to fault.
func startProcess(spec *nodeSpec, o nodeOrder, addr string, fault func(string)) (*process, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{spec: spec, life: o.Life, cmd: exec.Command(self, nodeCommand, string(text)), ended: make(chan struct{}), answers: make(chan answer, 1)}
	p.cmd.Env = append(withoutBrokerd(os.Environ()), "BROKERD_ADDR="+addr, "BROKERD_DATAFLOW="+flowName, "BROKERD_NODE="+spec.id)
	if spec.environ != "" {
		p.cmd.Env = append(p.cmd.Env, spec.environ)
	}
	p.cmd.Stderr = &p.stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.started = time.Now()
	if err := starts.start(p.cmd); err != nil {
		return nil, err
	}
	go p.listen(out, func(text string) { fault(fmt.Sprintf("%s (life %d): %s", spec.id, o.Life, text)) })
	return p, nil
}

// withoutBrokerd takes away the variables that would decide for brokerd or nodes.
func withoutBrokerd(environ []string) []string {
	var kept []string
	for _, v := range environ {
		if !strings.HasPrefix(v, "BROKERD_") && !strings.HasPrefix(v, "NOTIFY_SOCKET=") && !strings.HasPrefix(v, "WATCHDOG_USEC=") {
			kept = append(kept, v)
		}
	}
	return kept
}

// listen takes the answers until the process ends.
func (p *process) listen(out io.Reader, fault func(string)) {
	defer close(p.ended)
	answers := json.NewDecoder(out)
	for {
		var a answer
		if answers.Decode(&a) != nil {
			break
		}
		if a.Fault != "" {
			fault(a.Fault)
			continue
		}
		select {
		case p.answers <- a:
		default: // nobody has asked
		}
	}
	_ = p.cmd.Wait() // the status is in ProcessState
	if text := p.stderr.String(); strings.Contains(text, "panic:") || strings.Contains(text, "DATA RACE") || strings.Contains(text, "fatal error:") {
		fault(text)
	}
}

func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill is SIGKILL; it waits until the process is gone.
func (p *process) kill() {
	p.killed = time.Now()
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// signal sends a signal to a process that is not waited for yet.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// ask gives an order and waits for the answer.
func (p *process) ask(do string, patience time.Duration) (answer, error) {
	text, err := json.Marshal(order{do})
	if err == nil {
		_, err = p.in.Write(append(text, '\n'))
	}
	if err != nil {
		return answer{}, fmt.Errorf("order %q to %s: %w", do, p.spec.id, err)
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case a := <-p.answers:
			if a.Done == do {
				return a, nil
			}
		case <-p.ended:
			return answer{}, fmt.Errorf("%s ended at order %q: %v\n%s", p.spec.id, do, p.cmd.ProcessState, p.stderr.String())
		case <-late.C:
			return answer{}, fmt.Errorf("%s does not follow order %q\n%s", p.spec.id, do, p.stderr.String())
		}
	}
}

// close has the node leave in good order.
func (p *process) close(patience time.Duration) error {
	if _, err := p.ask("close", patience); err != nil {
		return err
	}
	select {
	case <-p.ended:
	case <-time.After(patience):
		return fmt.Errorf("%s does not end\n%s", p.spec.id, p.stderr.String())
	}
	if status := p.cmd.ProcessState.ExitCode(); status != 0 {
		return fmt.Errorf("%s ended with %d\n%s", p.spec.id, status, bytes.TrimSpace([]byte(p.stderr.String())))
	}
	return nil
}
