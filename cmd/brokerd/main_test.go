package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
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

// asBrokerd makes the test binary behave as brokerd: the processes that tests
// start are of the same build, race detector included.
const asBrokerd = "TEST_AS_BROKERD"

var update = flag.Bool("update", false, "rewrite the golden files")

// patience is how long a test waits for something that is sure to come.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(asBrokerd) != "" {
		os.Unsetenv(asBrokerd)
		main()
		return
	}
	// The variables of whoever runs the tests must not decide them.
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, envPrefix) || name == "NOTIFY_SOCKET" || name == "WATCHDOG_USEC" || name == "JOURNAL_STREAM" {
			os.Unsetenv(name)
		}
	}
	// gnet's pool of goroutines is there from the start of the process to its end.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"))
}

// process is a running brokerd.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mutex sync.Mutex
	lines []string
	grown chan struct{} // closed and replaced when a line comes
}

// start starts brokerd with a prefix of its own in /dev/shm. It is killed at the
// end of the test if it still runs.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(self, args...), done: make(chan struct{}), grown: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), asBrokerd+"=1", "BROKERD_SHM_PREFIX="+shmPrefix(t)), env...)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = writer
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	go func() {
		defer close(p.done)
		p.collect(reader)
		reader.Close()
		_ = p.cmd.Wait() // its status is in ProcessState
	}()
	t.Cleanup(func() {
		select {
		case <-p.done:
		default:
			_ = p.cmd.Process.Kill()
			<-p.done
			for _, file := range leftInShm(t) { // a killed one clears nothing up
				_ = os.Remove(file)
			}
		}
		if t.Failed() {
			t.Logf("log of %v:\n%s", p.cmd.Args[1:], strings.Join(p.log(), "\n"))
		}
	})
	return p
}

// shmPrefix names the shared memory of one test.
func shmPrefix(t *testing.T) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, t.Name())
	return fmt.Sprintf("t%d%s", os.Getpid(), name[:min(len(name), 20)])
}

// leftInShm lists what a test left in /dev/shm.
func leftInShm(t *testing.T) []string {
	t.Helper()
	left, err := filepath.Glob("/dev/shm/" + shmPrefix(t) + "*")
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func (p *process) collect(r io.Reader) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		p.mutex.Lock()
		p.lines = append(p.lines, scanner.Text())
		close(p.grown)
		p.grown = make(chan struct{})
		p.mutex.Unlock()
	}
}

func (p *process) log() []string {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return append([]string(nil), p.lines...)
}

// logged waits for a log line with this message, from line number from on, and
// returns its fields and the number of the line after it.
func (p *process) logged(from int, message string) (map[string]any, int) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		p.mutex.Lock()
		lines, grown := p.lines, p.grown
		p.mutex.Unlock()
		for ; from < len(lines); from++ {
			fields := map[string]any{}
			if json.Unmarshal([]byte(lines[from]), &fields) == nil && fields["msg"] == message {
				return fields, from + 1
			}
		}
		select {
		case <-grown:
		case <-p.done:
			if lines := p.log(); from == len(lines) {
				p.t.Fatalf("brokerd ended without logging %q", message)
			}
		case <-deadline:
			p.t.Fatalf("brokerd did not log %q", message)
		}
	}
}

// listening waits until it listens and returns the address.
func (p *process) listening() string {
	p.t.Helper()
	fields, _ := p.logged(0, "listening")
	addr, _ := fields["addr"].(string)
	return addr
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// repeat sends a signal until the process has ended.
func (p *process) repeat(s syscall.Signal) {
	ticker := time.NewTicker(sameOrder / 5)
	defer ticker.Stop()
	deadline := time.After(patience)
	for {
		select {
		case <-p.done:
			return
		case <-deadline:
			p.t.Fatalf("brokerd does not end by %v", s)
		case <-ticker.C:
			_ = p.cmd.Process.Signal(s) // it may just have ended
		}
	}
}

// exit waits for the end and returns the exit status.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatal("brokerd did not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// command runs brokerd to its end within this process.
func command(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(context.Background(), args, &out, &err)
	return code, out.String(), err.String()
}

// golden compares with a file of testdata, or rewrites it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (rewrite with -update):\n%s", path, got)
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
