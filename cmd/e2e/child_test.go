//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// child is a node process.
type child struct {
	t   *testing.T
	id  string
	cmd *exec.Cmd
	pid int

	in     io.WriteCloser
	stderr *lockedBuffer
	done   chan struct{} // closed when the process has ended

	mu      sync.Mutex
	lastID  int
	waiting map[int]chan answer
	unasked chan answer // the first unasked answer that is no fault
	faults  []string
	killed  bool
	crashes bool // on purpose
}

// lockedBuffer keeps what a process says.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 1<<20 {
		return len(p), nil
	}
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts a node process and waits until it is connected.
func (w *world) start(id string, p program, env ...string) *child {
	w.t.Helper()
	c := w.launchNode(id, p, env...)
	a := c.first()
	if !a.Ready {
		w.t.Fatalf("node %s: %+v\n%s", id, a, c.stderr)
	}
	if a.Local != !slices.Contains(env, remote) {
		w.t.Fatalf("node %s: local is %v\n%s", id, a.Local, c.stderr)
	}
	return c
}

// remote is the environment of a node without shared memory, noLanes of one that
// sends and receives through the broker only.
const (
	remote  = "BROKERD_NO_SHM=1"
	noLanes = "BROKERD_NO_LANES=1"
)

// launchNode starts a node process.
func (w *world) launchNode(id string, p program, env ...string) *child {
	w.t.Helper()
	if !w.lanes {
		env = append(env, noLanes)
	}
	text, err := json.Marshal(p)
	if err != nil {
		w.t.Fatal(err)
	}
	self := w.binary
	if self == "" {
		if self, err = os.Executable(); err != nil {
			w.t.Fatal(err)
		}
	}
	c := &child{
		t: w.t, id: id, cmd: exec.Command(self), stderr: &lockedBuffer{}, done: make(chan struct{}),
		waiting: map[int]chan answer{}, unasked: make(chan answer, 1),
	}
	c.cmd.Env = append(append(os.Environ(), programEnv+"="+string(text),
		"BROKERD_ADDR="+w.broker.addr, "BROKERD_DATAFLOW="+flowName, "BROKERD_NODE="+id), env...)
	c.cmd.Stderr = c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.user}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := startProcess(c.cmd); err != nil {
		w.t.Fatal(err)
	}
	c.pid = c.cmd.Process.Pid
	go c.listen(out)
	w.nodes = append(w.nodes, c)
	return c
}

// listen takes the answers until the process ends.
func (c *child) listen(out io.Reader) {
	defer close(c.done)
	answers := json.NewDecoder(out)
	for {
		var a answer
		if err := answers.Decode(&a); err != nil {
			break
		}
		c.mu.Lock()
		waiting := c.waiting[a.ID]
		delete(c.waiting, a.ID)
		if a.Fault != "" {
			c.faults = append(c.faults, a.Fault)
		}
		c.mu.Unlock()
		switch {
		case a.Fault != "":
		case waiting != nil:
			waiting <- a
		default:
			select {
			case c.unasked <- a:
			default:
			}
		}
	}
	_ = c.cmd.Wait() // the status is in ProcessState
}

// first is the first thing that the process says.
func (c *child) first() answer {
	c.t.Helper()
	select {
	case a := <-c.unasked:
		return a
	case <-c.done:
		select {
		case a := <-c.unasked:
			return a
		default:
		}
		c.t.Fatalf("node %s ended: %v\n%s", c.id, c.cmd.ProcessState, c.stderr)
	case <-time.After(patience):
		c.t.Fatalf("node %s does not get ready\n%s", c.id, c.stderr)
	}
	return answer{}
}

// begin gives an order; the answer comes on the channel.
func (c *child) begin(o order) <-chan answer {
	c.t.Helper()
	reply := make(chan answer, 1)
	c.mu.Lock()
	c.lastID++
	o.ID = c.lastID
	c.waiting[o.ID] = reply
	c.mu.Unlock()
	text, err := json.Marshal(o)
	if err == nil {
		_, err = c.in.Write(append(text, '\n'))
	}
	if err != nil {
		c.t.Fatalf("order %q to %s: %v\n%s", o.Do, c.id, err, c.stderr)
	}
	return reply
}

// end waits for an answer.
func (c *child) end(reply <-chan answer) answer {
	c.t.Helper()
	select {
	case a := <-reply:
		return a
	case <-c.done:
		select {
		case a := <-reply:
			return a
		default:
		}
		c.t.Fatalf("node %s ended: %v\n%s", c.id, c.cmd.ProcessState, c.stderr)
	case <-time.After(4 * patience):
		c.t.Fatalf("node %s does not answer\n%s", c.id, c.stderr)
	}
	return answer{}
}

// do gives an order that must succeed.
func (c *child) do(o order) answer {
	c.t.Helper()
	a := c.end(c.begin(o))
	if a.Error != "" {
		c.t.Fatalf("node %s: %s: %s", c.id, o.Do, a.Error)
	}
	return a
}

func (c *child) report() *report {
	c.t.Helper()
	return c.do(order{Do: "report"}).Report
}

// send lets the node send, and waits until it has.
func (c *child) send(o order) *sent {
	c.t.Helper()
	o.Do = "send"
	return c.result(c.begin(o))
}

// result is what a send order came to.
func (c *child) result(reply <-chan answer) *sent {
	c.t.Helper()
	a := c.end(reply)
	if a.Error != "" || a.Sent == nil {
		c.t.Fatalf("node %s: send: %+v", c.id, a)
	}
	for text, count := range a.Sent.Others {
		c.t.Errorf("node %s: send: %d times: %s", c.id, count, text)
	}
	return a.Sent
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// close has the node leave in good order.
func (c *child) close() {
	c.t.Helper()
	if c.ended() {
		return
	}
	c.do(order{Do: "close"})
	select {
	case <-c.done:
	case <-time.After(patience):
		c.t.Fatalf("node %s does not end", c.id)
	}
	if status := c.cmd.ProcessState.ExitCode(); status != 0 {
		c.t.Errorf("node %s ended with %d\n%s", c.id, status, c.stderr)
	}
}

// kill is SIGKILL; it waits until the process is gone.
func (c *child) kill() {
	c.mu.Lock()
	c.killed = true
	c.mu.Unlock()
	_ = c.cmd.Process.Kill()
	<-c.done
}

func (c *child) signal(s syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatalf("%v to %s: %v", s, c.id, err)
	}
}

// destroy ends the process in whatever state it is.
func (c *child) destroy() {
	if !c.ended() {
		c.kill()
	}
}

// check looks for what must never happen in a node.
func (c *child) check() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fault := range c.faults {
		c.t.Errorf("node %s: %s", c.id, fault)
	}
	if text := c.stderr.String(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic:") && !c.crashes {
		c.t.Errorf("node %s:\n%s", c.id, tail(text, 4000))
	}
	if alive(c.pid) {
		c.t.Errorf("node %s (%d) is still there", c.id, c.pid)
	}
}
