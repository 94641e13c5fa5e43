package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/examples/demo"
	"github.com/brokerd/brokerd/node/control"
	"github.com/brokerd/brokerd/wire"
)

// TestDemo runs the demo as its users do. The program's path names every process
// that a test starts, and no other.
func TestDemo(t *testing.T) {
	program := demoProgram(t)
	for _, test := range []struct {
		name string
		run  func(t *testing.T, program string)
	}{
		{"ends by itself", testDemoEndsByItself},
		{"in protect mode", testDemoProtected},
		{"interrupted", testDemoInterrupted},
		{"interrupted twice", testDemoInterruptedTwice},
		{"node killed", testDemoWhoseNodeIsKilled},
		{"killed", testDemoKilled},
		{"running broker", testDemoWithARunningBroker},
		{"no broker", testDemoWithoutABroker},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, program) })
	}
}

// demoProgram is brokerd, built for the test: a test binary would have to be
// told again in each child that it is none.
func demoProgram(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real processes for seconds")
	}
	path := filepath.Join(t.TempDir(), "brokerd")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// processesOf finds living processes by the program's path.
func processesOf(t *testing.T, program string) map[int]string {
	t.Helper()
	found := make(map[int]string)
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		line, err := os.ReadFile(dir + "/cmdline")
		if err != nil || !bytes.HasPrefix(line, append([]byte(program), 0)) {
			continue // gone meanwhile, or a zombie, or another program
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		found[pid] = strings.ReplaceAll(strings.TrimSuffix(string(line), "\x00"), "\x00", " ")
	}
	return found
}

func noProcesses(t *testing.T, program string) {
	t.Helper()
	for pid, line := range processesOf(t, program) {
		t.Errorf("process %d is left: %s", pid, line)
	}
}

// runningDemo is a demo whose lines the test reads.
type runningDemo struct {
	t        *testing.T
	command  *exec.Cmd
	lines    *bufio.Scanner
	instance string // of its broker
	seen     strings.Builder
	stderr   bytes.Buffer
}

// startDemo returns when the first pictures are verified.
func startDemo(t *testing.T, program string, args ...string) *runningDemo {
	t.Helper()
	d := &runningDemo{t: t, command: exec.CommandContext(t.Context(), program, append([]string{"demo"}, args...)...)}
	out, err := d.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.command.Stderr = &d.stderr
	if err := d.command.Start(); err != nil {
		t.Fatal(err)
	}
	d.lines = bufio.NewScanner(out)
	d.until(func(line string) bool {
		if addr, ok := strings.CutPrefix(line, "broker at "); ok {
			addr, _, _ = strings.Cut(addr, ";")
			client, err := control.Dial(t.Context(), control.Config{Addr: addr})
			if err != nil {
				t.Fatal(err)
			}
			d.instance = client.Welcome().Instance
			client.Close()
		}
		return strings.Contains(line, "verified") && !strings.Contains(line, "verified 0 ")
	})
	if d.instance == "" {
		t.Fatal("the broker's address was not shown")
	}
	return d
}

func (d *runningDemo) until(found func(line string) bool) {
	d.t.Helper()
	for d.lines.Scan() {
		fmt.Fprintln(&d.seen, d.lines.Text())
		if found(d.lines.Text()) {
			return
		}
	}
	_ = d.command.Wait()
	d.t.Fatalf("the demo ended early:\n%s%s", d.seen.String(), d.stderr.String())
}

// end reads the rest and returns the exit status and everything that was said.
func (d *runningDemo) end() (status int, text string) {
	d.t.Helper()
	for d.lines.Scan() {
		fmt.Fprintln(&d.seen, d.lines.Text())
	}
	err := d.command.Wait()
	if err != nil && d.command.ProcessState == nil {
		d.t.Fatal(err)
	}
	return d.command.ProcessState.ExitCode(), d.seen.String() + d.stderr.String()
}

func (d *runningDemo) noMemory() {
	d.t.Helper()
	if left := memoryOf(d.t, d.instance); len(left) > 0 {
		d.t.Errorf("left in shared memory: %v", left)
	}
}

func memoryOf(t *testing.T, instance string) []string {
	t.Helper()
	left, err := filepath.Glob("/dev/shm/*-" + instance + "-*")
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func wantText(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, w := range wanted {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in\n%s", w, text)
		}
	}
}

func testDemoEndsByItself(t *testing.T, program string) {
	d := startDemo(t, program, "--for", "3s")
	status, text := d.end()
	if status != cli.ExitOK {
		t.Errorf("exit status %d", status)
	}
	wantText(t, text, "ok      every result verified", "ok      no message lost", "ok      every drop logged", "ok      shared memory")
	if strings.Contains(text, "FAILED") {
		t.Errorf("a check failed:\n%s", text)
	}
	noProcesses(t, program)
	d.noMemory()
}

// Nodes that are correct do not notice that they are watched.
func testDemoProtected(t *testing.T, program string) {
	t.Setenv("BROKERD_DEBUG", "protect")
	testDemoEndsByItself(t, program)
}

func testDemoInterrupted(t *testing.T, program string) {
	d := startDemo(t, program)
	if err := d.command.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	status, text := d.end()
	if status != cli.ExitOK || strings.Contains(text, "FAILED") {
		t.Errorf("exit status %d\n%s", status, text)
	}
	noProcesses(t, program)
	d.noMemory()
}

func testDemoInterruptedTwice(t *testing.T, program string) {
	d := startDemo(t, program)
	for range 2 {
		if err := d.command.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	// It may have ended in good order before the second one.
	if status, text := d.end(); status != cli.ExitOK && !strings.Contains(text, demo.ErrHurried.Error()) {
		t.Errorf("exit status %d\n%s", status, text)
	}
	noProcesses(t, program)
	d.noMemory()
}

func testDemoWhoseNodeIsKilled(t *testing.T, program string) {
	d := startDemo(t, program)
	killed := false
	for pid, line := range processesOf(t, program) {
		if strings.HasSuffix(line, " demo node motion") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed = true
		}
	}
	if !killed {
		t.Fatal("there is no motion")
	}
	status, text := d.end()
	if status != cli.ExitFailed {
		t.Errorf("exit status %d", status)
	}
	wantText(t, text, "node motion ended: signal: killed", "FAILED  every node ended in good order: not so: motion", "ok      every drop logged")
	noProcesses(t, program)
	d.noMemory()
}

// A demo that is killed takes its processes with it, and the next broker finds
// what is left in shared memory.
func testDemoKilled(t *testing.T, program string) {
	d := startDemo(t, program)
	if err := d.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.end()
	deadline := time.Now().Add(10 * time.Second)
	for len(processesOf(t, program)) > 0 {
		if time.Now().After(deadline) {
			noProcesses(t, program)
			break
		}
		time.Sleep(10 * time.Millisecond) // there is nothing to wait on: they are not ours
	}
	if len(memoryOf(t, d.instance)) == 0 {
		t.Log("nothing was left in shared memory")
	}
	b, err := startDemoBroker(func(wire.DropRecord) {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
	d.noMemory()
}

func testDemoWithARunningBroker(t *testing.T, program string) {
	b, err := startDemoBroker(func(wire.DropRecord) {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	}()
	d := startDemo(t, program, "--addr", b.Addr(), "--for", "3s")
	status, text := d.end()
	if status != cli.ExitOK || strings.Contains(text, "FAILED") {
		t.Errorf("exit status %d\n%s", status, text)
	}
	noProcesses(t, program)
	client, err := control.Dial(t.Context(), control.Config{Addr: b.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var after wire.Status
	if err := client.Call(t.Context(), wire.VerbStatus, nil, &after); err != nil {
		t.Fatal(err)
	}
	if len(after.Dataflows) != 0 || after.Counters.Tokens != 0 {
		t.Errorf("the demo left %+v and %d tokens", after.Dataflows, after.Counters.Tokens)
	}
}

func testDemoWithoutABroker(t *testing.T, program string) {
	out, err := exec.Command(program, "demo", "--addr", "127.0.0.1:1").CombinedOutput()
	var exit *exec.ExitError
	if ok := asExitError(err, &exit); !ok || exit.ExitCode() != cli.ExitFailed {
		t.Errorf("%v", err)
	}
	wantText(t, string(out), "unreachable", "127.0.0.1:1")
}

func asExitError(err error, into **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*into = e
	return ok
}

func TestDemoUsage(t *testing.T) {
	for _, args := range [][]string{
		{"demo", "--for", "-1s"},
		{"demo", "--addr", "127.0.0.1:1", "--log-file", "x"},
		{"demo", "extra"},
		{"demo", "node"},
	} {
		if status := run(t.Context(), args, io.Discard, io.Discard); status != cli.ExitUsage {
			t.Errorf("%v: exit status %d", args, status)
		}
	}
}

// The dataflow files of the examples are without fault, also by strict rules,
// and the demo's file is the one it loads.
func TestExampleFlows(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/flow.yml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		flow, warnings, err := dataflow.Load(file, dataflow.Options{Strict: true})
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v %v", file, err, warnings)
			continue
		}
		if want := filepath.Base(filepath.Dir(file)); flow.Name != want {
			t.Errorf("%s is named %q", file, flow.Name)
		}
		for _, n := range flow.Nodes {
			if flow.Name == "demo" && n.Args[len(n.Args)-1] != n.ID {
				t.Errorf("%s: node %s runs %v", file, n.ID, n.Args)
			}
		}
	}
	flow, _, err := dataflow.Parse("demo", []byte(demo.Flow), dataflow.Options{Strict: true})
	if err != nil || len(flow.Nodes) != len(demo.Nodes()) {
		t.Errorf("%v", err)
	}
}

func TestDemoLog(t *testing.T) {
	var file bytes.Buffer
	var records []wire.DropRecord
	log := &demoLog{drops: func(r wire.DropRecord) { records = append(records, r) }, file: &file}
	lines := []string{
		`{"level":"info","msg":"listening"}`,
		`{"level":"warn","logger":"drop","msg":"message dropped","dataflow":"demo","from":"a/b","to":"c/d","reason":"queue_full","count":7}`,
		`{"level":"warn","msg":"something odd"}`,
		`not JSON`,
	}
	for _, line := range lines {
		if n, err := log.Write([]byte(line + "\n")); n != len(line)+1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if len(records) != 1 || records[0].Count != 7 || records[0].From != "a/b" || records[0].To != "c/d" {
		t.Errorf("%+v", records)
	}
	if want := lines[2] + "\n" + lines[3] + "\n"; log.trouble() != want {
		t.Errorf("trouble %q", log.trouble())
	}
	if file.String() != strings.Join(lines, "\n")+"\n" {
		t.Errorf("file %q", file.String())
	}
}

func TestInterrupts(t *testing.T) {
	i := newInterrupts(context.Background())
	defer i.close()
	i.interrupt()
	<-i.end.Done()
	if i.hurry.Err() != nil {
		t.Error("the first one hurries")
	}
	var keys sync.WaitGroup
	for range 5 { // a key that is held down must not block the display
		keys.Go(i.interrupt)
	}
	keys.Wait()
	<-i.hurry.Done()
}
