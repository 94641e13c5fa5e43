package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is one process that the demo started.
type child struct {
	name    string
	command *exec.Cmd
	output  *tail         // what it printed
	done    chan struct{} // closed when it is reaped and its reports are read
	err     error         // of Wait; valid once done is closed
}

// childReportFD is where the report pipe is in a child: the first descriptor
// behind the standard ones.
const childReportFD = 3

// startChild starts argv with env added to this process's environment. Reports
// go to report, from a goroutine. The calling goroutine must be locked to its
// thread until the child has ended: on Linux the child dies with the thread
// that started it, which is how it never outlives the demo.
func startChild(name string, argv, env []string, report func(Report)) (*child, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c := &child{name: name, output: new(tail), done: make(chan struct{})}
	c.command = exec.Command(argv[0], argv[1:]...)
	c.command.Env = append(append(os.Environ(), env...), fmt.Sprintf("%s=%d", envReportFD, childReportFD))
	c.command.Stdout, c.command.Stderr = c.output, c.output
	c.command.ExtraFiles = []*os.File{writer}
	c.command.SysProcAttr = childAttributes()
	c.command.WaitDelay = time.Second
	err = c.command.Start()
	// The child has its own copy; with ours open the reader would never end.
	closing := writer.Close()
	if err == nil {
		err = closing
	}
	if err != nil {
		reader.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(c.done)
		readReports(reader, report)
		c.err = c.command.Wait()
	}()
	return c, nil
}

// readReports ends when the child does, or closes its end of the pipe.
func readReports(reader io.ReadCloser, report func(Report)) {
	defer reader.Close()
	lines := bufio.NewScanner(reader)
	for lines.Scan() {
		var r Report
		// A line cut short by the child's death is no report.
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			report(r)
		}
	}
}

// Time that children get to end: after the broker's Stop, and after SIGTERM.
const (
	stopGrace      = 5 * time.Second
	terminateGrace = 2 * time.Second
)

// endChildren waits for the children if they have been told to stop; then asks
// with SIGTERM, then kills. It returns when all are reaped, with the names of
// those that had to be asked. hurry ends the waiting.
func endChildren(hurry context.Context, told bool, children []*child) (asked []string) {
	if told && awaitChildren(hurry, children, stopGrace) {
		return nil
	}
	for _, c := range children {
		if c.alive() {
			asked = append(asked, c.name)
			// An error means that it has just ended.
			_ = c.command.Process.Signal(syscall.SIGTERM)
		}
	}
	if awaitChildren(hurry, children, terminateGrace) {
		return asked
	}
	for _, c := range children {
		if c.alive() {
			_ = c.command.Process.Kill()
		}
	}
	for _, c := range children {
		<-c.done
	}
	return asked
}

// awaitChildren reports whether all ended within the time.
func awaitChildren(hurry context.Context, children []*child, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(hurry, limit)
	defer cancel()
	for _, c := range children {
		select {
		case <-c.done:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (c *child) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// tail keeps the last lines that are written to it.
type tail struct {
	mutex   sync.Mutex
	lines   []string
	partial []byte
}

const (
	tailLines     = 40
	tailLineBytes = 4096
)

func (t *tail) Write(p []byte) (int, error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	for _, b := range p {
		if b == '\n' {
			t.flush()
		} else if len(t.partial) < tailLineBytes {
			t.partial = append(t.partial, b)
		}
	}
	return len(p), nil
}

func (t *tail) flush() {
	if len(t.lines) == tailLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, string(t.partial))
	t.partial = t.partial[:0]
}

// prefixed returns the lines, each behind the prefix.
func (t *tail) prefixed(prefix string) string {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if len(t.partial) > 0 {
		t.flush()
	}
	var b strings.Builder
	for _, line := range t.lines {
		fmt.Fprintf(&b, "%s | %s\n", prefix, line)
	}
	return b.String()
}
