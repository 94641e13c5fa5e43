package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// outputSlack is how long a child's output is read after its end. Only what the
// child left running elsewhere can keep it open that long.
const outputSlack = time.Second

// child is one process that we started, in a process group of its own.
type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and its output has been read

	mutex  sync.Mutex // guards what follows
	reaped bool       // its process id may mean somebody else from here on
	asked  syscall.Signal
	killed bool
	err    error // what Wait returned
}

// startChild starts a process whose lines of output go to print, and tells
// ended when it is over. The caller's goroutine must stay on its thread (see
// prepare).
func startChild(name string, cmd *exec.Cmd, print func(name, stream, line string), ended func(*child)) (*child, error) {
	c := &child{name: name, cmd: cmd, done: make(chan struct{})}
	prepare(cmd)
	var (
		readers []*os.File
		writers []*os.File
	)
	closeAll := func(files []*os.File) {
		for _, file := range files {
			_ = file.Close() // a pipe has nothing to lose
		}
	}
	for range 2 {
		reader, writer, err := os.Pipe()
		if err != nil {
			closeAll(append(readers, writers...))
			return nil, err
		}
		readers, writers = append(readers, reader), append(writers, writer)
	}
	cmd.Stdout, cmd.Stderr = writers[0], writers[1]
	err := cmd.Start()
	closeAll(writers)
	if err != nil {
		closeAll(readers)
		return nil, err
	}
	var reading sync.WaitGroup
	for i, stream := range []string{"stdout", "stderr"} {
		reading.Go(func() {
			eachLine(readers[i], func(line string) { print(name, stream, line) })
		})
	}
	go func() {
		c.reap()
		for _, reader := range readers {
			// Pipes know deadlines; if this one does not, the output ends with the
			// last process that holds it.
			_ = reader.SetReadDeadline(time.Now().Add(outputSlack))
		}
		reading.Wait()
		closeAll(readers)
		close(c.done)
		ended(c)
	}()
	return c, nil
}

// reap waits for the end of the process. What it left behind in its group is
// killed before the process id is given back: until then the group cannot be
// anybody else's.
func (c *child) reap() {
	awaitExit(c.cmd.Process)
	c.mutex.Lock()
	killGroup(c.cmd.Process, syscall.SIGKILL)
	c.reaped = true
	c.mutex.Unlock()
	err := c.cmd.Wait()
	c.mutex.Lock()
	c.err = err
	c.mutex.Unlock()
}

// signal sends a signal to the process and all in its group.
func (c *child) signal(s syscall.Signal) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.reaped {
		return
	}
	if s == syscall.SIGKILL {
		c.killed = true
	}
	c.asked = s
	killGroup(c.cmd.Process, s)
}

// alive tells whether it may still run.
func (c *child) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// result says how it ended: in words, and whether that was well. A process that
// ends by the SIGTERM we sent it ended well; one that had to be killed did not.
func (c *child) result() (words string, ok bool) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.killed {
		return "had to be killed: it did not end by itself", false
	}
	if c.err == nil {
		return "ended", true
	}
	var exit *exec.ExitError
	if !errors.As(c.err, &exit) {
		return c.err.Error(), false
	}
	const exitTerminated = 128 + int(syscall.SIGTERM) // what shells make of it
	status, isWait := exit.Sys().(syscall.WaitStatus)
	terminated := isWait && status.Signaled() && status.Signal() == syscall.SIGTERM
	if c.asked == syscall.SIGTERM && (terminated || exit.ExitCode() == exitTerminated) {
		return "ended by SIGTERM", true
	}
	if isWait && status.Signaled() {
		return fmt.Sprintf("was killed by signal %d (%s)", status.Signal(), status.Signal()), false
	}
	return fmt.Sprintf("failed with exit status %d", exit.ExitCode()), false
}

// lineBytesMax is where a line without an end is cut.
const lineBytesMax = 64 << 10

// eachLine calls do with every line of r, without its end. The last one may
// have none.
func eachLine(r io.Reader, do func(string)) {
	buffered := bufio.NewReaderSize(r, lineBytesMax)
	for {
		line, err := buffered.ReadSlice('\n')
		if n := len(line); n > 0 {
			if line[n-1] == '\n' {
				line = line[:n-1]
			}
			if n := len(line); n > 0 && line[n-1] == '\r' {
				line = line[:n-1]
			}
			do(string(line))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
