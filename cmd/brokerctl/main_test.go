package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary plays several parts, so that the processes which tests start
// are of the same build, race detector included.
const (
	asBrokerctl = "TEST_AS_BROKERCTL"
	asNode      = "TEST_AS_NODE" // the part, see nodes_test.go
)

// patience is how long a test waits for something that is sure to come.
const patience = 30 * time.Second

// brokerdPath is the built brokerd.
var brokerdPath string

func TestMain(m *testing.M) {
	if part := os.Getenv(asNode); part != "" && os.Getenv(asBrokerctl) == "" {
		os.Exit(runTestNode(part))
	}
	// bench starts its two processes as itself.
	if os.Getenv(asBrokerctl) != "" || len(os.Args) > 1 && os.Args[1] == "bench-process" {
		os.Unsetenv(asBrokerctl)
		main()
		return
	}
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "BROKERD_") || name == "NO_COLOR" {
			os.Unsetenv(name)
		}
	}
	dir, err := os.MkdirTemp("", "brokerctl-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	brokerdPath = filepath.Join(dir, "brokerd")
	if out, err := exec.Command("go", "build", "-o", brokerdPath, "../brokerd").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building brokerd: %v\n%s", err, out)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// transcript keeps what a process writes, line by line.
type transcript struct {
	mutex sync.Mutex
	lines []string
	grown chan struct{} // closed and replaced when a line comes
}

func newTranscript() *transcript { return &transcript{grown: make(chan struct{})} }

func (tr *transcript) collect(r io.Reader) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		tr.mutex.Lock()
		tr.lines = append(tr.lines, scanner.Text())
		close(tr.grown)
		tr.grown = make(chan struct{})
		tr.mutex.Unlock()
	}
}

func (tr *transcript) text() string {
	tr.mutex.Lock()
	defer tr.mutex.Unlock()
	return strings.Join(tr.lines, "\n")
}

// process is a program under test: brokerctl or brokerd.
type process struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err *transcript
	done     chan struct{} // closed when it has ended and all it wrote is there
}

func startProcess(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, out: newTranscript(), err: newTranscript(), done: make(chan struct{})}
	var reading sync.WaitGroup
	var writers []*os.File
	for _, stream := range []*transcript{p.out, p.err} {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		writers = append(writers, writer)
		reading.Go(func() {
			stream.collect(reader)
			reader.Close()
		})
	}
	cmd.Stdout, cmd.Stderr = writers[0], writers[1]
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, writer := range writers {
		writer.Close()
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // its status is in ProcessState
		reading.Wait()
	}()
	t.Cleanup(func() {
		select {
		case <-p.done:
		default:
			_ = cmd.Process.Kill()
			<-p.done
		}
		if t.Failed() {
			t.Logf("%v\nstdout:\n%s\nstderr:\n%s", cmd.Args, p.out.text(), p.err.text())
		}
	})
	return p
}

// brokerctl starts brokerctl.
func brokerctl(t *testing.T, addr string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asBrokerctl+"=1", "BROKERD_ADDR="+addr,
		"PATH="+filepath.Dir(brokerdPath)+string(os.PathListSeparator)+os.Getenv("PATH"))
	return startProcess(t, cmd)
}

// broker starts a brokerd of this test and returns it with its address.
func broker(t *testing.T, args ...string) (*process, string) {
	t.Helper()
	prefix := fmt.Sprintf("t%dctl", os.Getpid())
	cmd := exec.Command(brokerdPath, append([]string{"--listen", "127.0.0.1:0", "--shm-prefix", prefix, "--drain-timeout", "1s"}, args...)...)
	p := startProcess(t, cmd)
	line := p.sees(p.err, `"msg":"listening"`)
	_, rest, _ := strings.Cut(line, `"addr":"`)
	addr, _, _ := strings.Cut(rest, `"`)
	t.Cleanup(func() {
		// Before the kill of startProcess: give the memory back.
		select {
		case <-p.done:
		default:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		select {
		case <-p.done:
		case <-time.After(patience):
			t.Error("brokerd does not end")
		}
		if left, _ := filepath.Glob("/dev/shm/" + prefix + "*"); len(left) > 0 {
			t.Errorf("left in /dev/shm: %v", left)
			for _, file := range left {
				_ = os.Remove(file)
			}
		}
	})
	return p, addr
}

// sees waits for a line with this text and returns the line.
func (p *process) sees(tr *transcript, text string) string {
	p.t.Helper()
	deadline := time.After(patience)
	from := 0
	for {
		tr.mutex.Lock()
		lines, grown := tr.lines, tr.grown
		tr.mutex.Unlock()
		for ; from < len(lines); from++ {
			if strings.Contains(lines[from], text) {
				return lines[from]
			}
		}
		select {
		case <-grown:
		case <-p.done:
			tr.mutex.Lock()
			complete := from == len(tr.lines)
			tr.mutex.Unlock()
			if complete {
				p.t.Fatalf("%v ended without %q", p.cmd.Args, text)
			}
		case <-deadline:
			p.t.Fatalf("%v does not write %q", p.cmd.Args, text)
		}
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exits waits for the end and checks the exit status.
func (p *process) exits(code int) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%v does not end", p.cmd.Args)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit status %d, want %d", got, code)
	}
}

// gone waits until no process has this id any more.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
		time.Sleep(5 * time.Millisecond) // nobody tells us: it is not our child
	}
}

// command runs brokerctl to its end within this process.
func command(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(context.Background(), args, streams{&out, &err}, nil)
	return code, out.String(), err.String()
}

func writeFile(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
