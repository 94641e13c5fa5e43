package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// flowFile writes a dataflow whose nodes are parts of the test binary:
// name=part, each with the output out, and inputs as given.
func flowFile(t *testing.T, dir string, nodes ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("nodes:\n")
	for _, n := range nodes {
		fields := strings.Fields(n) // name=part [input=source]...
		name, part, _ := strings.Cut(fields[0], "=")
		queueSize := 10
		if part == "stall" {
			queueSize = 1
		}
		fmt.Fprintf(&b, "  - id: %s\n", name)
		if part == "dynamic" {
			b.WriteString("    path: dynamic\n")
		} else {
			fmt.Fprintf(&b, "    path: %s\n    env: {%s: %s, COLOUR: green}\n", self, asNode, part)
		}
		b.WriteString("    outputs: [out]\n")
		for i, input := range fields[1:] {
			if i == 0 {
				b.WriteString("    inputs:\n")
			}
			id, source, _ := strings.Cut(input, "=")
			fmt.Fprintf(&b, "      %s: {source: %s, queue_size: %d}\n", id, source, queueSize)
		}
	}
	return writeFile(t, filepath.Join(dir, "flow.yml"), b.String())
}

// status asks the broker.
func status(t *testing.T, addr string) wire.Status {
	t.Helper()
	code, out, stderr := command("status", "--addr", addr, "-o", "json")
	if code != 0 {
		t.Fatalf("exit status %d: %s", code, stderr)
	}
	var s wire.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRunToTheEnd(t *testing.T) {
	_, addr := broker(t)
	flow := flowFile(t, t.TempDir(), "source=source", "sink=sink in=source/out", "other=dynamic in=source/out")
	p := brokerctl(t, addr, "run", flow)
	p.exits(0)
	out, stderr := p.out.text(), p.err.text()
	for _, line := range []string{"sink   | sink ready", "sink   | got message 1", "sink   | got message 3", "sink   | input closed"} {
		if !strings.Contains(out, line) {
			t.Errorf("stdout lacks %q", line)
		}
	}
	for _, line := range []string{"brokerctl: sink started (pid ", "brokerctl: source started (pid ", "brokerctl: source ended"} {
		if !strings.Contains(stderr, line) {
			t.Errorf("stderr lacks %q", line)
		}
	}
	if strings.Contains(stderr, "other started") {
		t.Error("a dynamic node was started")
	}
	if strings.Index(stderr, "sink started") > strings.Index(stderr, "source started") {
		t.Error("the source was started before its receiver")
	}
	if strings.Contains(out+stderr, "\x1b[") {
		t.Error("colours although nobody looks")
	}
	if s := status(t, addr); len(s.Dataflows) != 0 {
		t.Errorf("dataflows after the run: %+v", s.Dataflows)
	}
}

func TestRunJSON(t *testing.T) {
	_, addr := broker(t)
	flow := flowFile(t, t.TempDir(), "n=environment")
	p := brokerctl(t, addr, "run", flow, "-o", "json")
	p.exits(0)
	if text := p.err.text(); text != "" && !strings.Contains(text, "warning") {
		t.Errorf("stderr: %s", text)
	}
	events := map[string]runLine{}
	streams := map[string]string{}
	for line := range strings.Lines(p.out.text()) {
		var l runLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if l.Node != "n" || l.Time.IsZero() {
			t.Errorf("line %s", line)
		}
		if l.Line != nil {
			streams[l.Stream] += *l.Line + "\n"
		} else {
			events[l.Event] = l
		}
	}
	if events["started"].PID == 0 || events["ended"].Text == "" {
		t.Errorf("events %+v", events)
	}
	if !strings.Contains(streams["stdout"], "BROKERD_NODE n\n") || !strings.HasSuffix(streams["stdout"], "no newline at the end\n") ||
		streams["stderr"] != "a line for stderr\n" {
		t.Errorf("streams %q", streams)
	}
}

func TestRunSurroundings(t *testing.T) {
	_, addr := broker(t)
	dir, other := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A relative path counts from the file's directory, wherever we are.
	if err := os.Symlink(self, filepath.Join(dir, "program")); err != nil {
		t.Fatal(err)
	}
	flow := writeFile(t, filepath.Join(dir, "named.yml"),
		"name: other-name\nnodes:\n  - id: n\n    path: ./program\n    args: one \"two three\"\n    env: {"+asNode+": environment, COLOUR: blue}\n")
	p := brokerctl(t, addr, "run", flow)
	p.exits(0)
	for _, line := range []string{
		"n | dir " + dir, "n | args one,two three", "n | BROKERD_DATAFLOW other-name", "n | BROKERD_NODE n", "n | COLOUR blue",
		"n | no newline at the end",
	} {
		if !strings.Contains(p.out.text()+"\n", line+"\n") {
			t.Errorf("stdout lacks %q", line)
		}
	}
	if text := p.err.text(); !strings.Contains(text, "n | a line for stderr") {
		t.Errorf("stderr %q", text)
	}
	p = brokerctl(t, addr, "run", flow, "--dir", other)
	p.exits(78) // ./program is not there
	p.sees(p.err, filepath.Join(other, "program"))
}

func TestRunNodeFails(t *testing.T) {
	_, addr := broker(t)
	flow := flowFile(t, t.TempDir(), "bad=fail", "sink=sink in=bad/out")
	p := brokerctl(t, addr, "run", flow)
	p.exits(1)
	p.sees(p.err, "brokerctl: bad failed with exit status 7")
	p.sees(p.err, "brokerctl: node bad failed with exit status 7")
	if out := p.out.text(); !strings.Contains(out, "sink saw Stop") && !strings.Contains(out, "input closed") {
		t.Errorf("the other node was not ended in order: %s", out)
	}
}

func TestRunNodeCrashes(t *testing.T) {
	_, addr := broker(t)
	p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "bad=crash"))
	p.exits(1)
	p.sees(p.err, "node bad was killed by signal 9")
}

func TestRunInterrupted(t *testing.T) {
	for name, s := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			_, addr := broker(t)
			p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "source=trickle", "sink=sink in=source/out"))
			p.sees(p.out, "got message 2")
			p.signal(s)
			p.signal(s) // the same order: timeout(1) sends it twice
			p.exits(0)
			p.sees(p.out, "sink   | sink saw Stop")
			p.sees(p.err, "brokerctl: source ended")
		})
	}
}

// Stop does not reach a deaf node: SIGTERM does, and that is a good end.
func TestRunTerminates(t *testing.T) {
	_, addr := broker(t)
	p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "a=deaf in=b/out", "b=deaf in=c/out", "c=tidy"), "--grace", "100ms")
	pids := []int{pidOf(t, p, "a"), pidOf(t, p, "b"), pidOf(t, p, "c")}
	p.signal(syscall.SIGINT)
	p.exits(0)
	stderr := p.err.text()
	last := -1
	for _, name := range []string{"c", "b", "a"} {
		at := strings.Index(stderr, name+" did not stop by itself: SIGTERM")
		if at <= last {
			t.Errorf("SIGTERM did not go round sources first: %s", stderr)
		}
		last = at
	}
	p.sees(p.out, "c | tidied up") // nobody is killed before his time
	for _, pid := range pids {
		gone(t, pid)
	}
}

func TestRunKills(t *testing.T) {
	_, addr := broker(t)
	p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "n=stubborn"), "--grace", "300ms")
	pid := pidOf(t, p, "n")
	p.signal(syscall.SIGINT)
	p.sees(p.err, "n did not stop by itself: SIGTERM")
	p.signal(syscall.SIGINT) // at once
	p.exits(1)
	p.sees(p.err, "node n had to be killed")
	gone(t, pid)
}

// What a node leaves behind in its process group goes with it, and does not
// keep the run open by holding its output.
func TestRunEndsLeftovers(t *testing.T) {
	_, addr := broker(t)
	p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "n=leaves-one-behind"))
	line := p.sees(p.out, "n | left ")
	pid, err := strconv.Atoi(strings.TrimPrefix(line, "n | left "))
	if err != nil {
		t.Fatal(err)
	}
	p.exits(0)
	gone(t, pid)
}

// Should brokerctl be killed, nothing runs on.
func TestRunKilled(t *testing.T) {
	_, addr := broker(t)
	p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "n=deaf"))
	pid := pidOf(t, p, "n")
	p.signal(syscall.SIGKILL)
	<-p.done
	gone(t, pid)
	deadline := time.Now().Add(patience)
	for len(status(t, addr).Dataflows) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the dataflow stays loaded without its owner")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func pidOf(t *testing.T, p *process, node string) int {
	t.Helper()
	line := p.sees(p.out, node+" | pid ")
	_, text, _ := strings.Cut(line, "| pid ")
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestRunRefused(t *testing.T) {
	_, addr := broker(t)
	dir := t.TempDir()
	wrong := writeFile(t, filepath.Join(dir, "wrong.yml"), "nodes:\n  - id: a\n    inputs: {x: b/y}\n")
	missing := writeFile(t, filepath.Join(dir, "missing.yml"), "nodes:\n  - {id: a, path: ./none}\n  - {id: b, path: no-such-program-anywhere}\n")
	good := flowFile(t, dir, "a=fail")
	for name, c := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"no file":          {[]string{"run", filepath.Join(dir, "none.yml")}, 78, []string{"no such file"}},
		"wrong file":       {[]string{"run", wrong}, 78, []string{wrong + ":3:"}},
		"missing programs": {[]string{"run", missing}, 78, []string{"node a: path ./none does not exist", "node b: path no-such-program-anywhere is neither in"}},
		"no argument":      {[]string{"run"}, 2, []string{"needs a dataflow file"}},
		"two arguments":    {[]string{"run", good, good}, 2, []string{"one argument too many"}},
		"unknown node":     {[]string{"run", good, "--skip", "z"}, 2, []string{`no node "z"`}},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := command(append(c.args, "--addr", addr)...)
			if code != c.code {
				t.Errorf("exit status %d, want %d", code, c.code)
			}
			for _, text := range c.says {
				if !strings.Contains(stderr, text) {
					t.Errorf("stderr lacks %q: %s", text, stderr)
				}
			}
		})
	}
}

// A name that is taken by another dataflow is not pulled from under it.
func TestRunNameTaken(t *testing.T) {
	dir := t.TempDir()
	served := writeFile(t, filepath.Join(dir, "flow.yml"), "nodes:\n  - {id: other, outputs: [x]}\n")
	_, addr := broker(t, "--dataflow", served)
	other := filepath.Join(dir, "sub")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := command("run", flowFile(t, other, "n=environment"), "--addr", addr)
	if code != 1 || !strings.Contains(stderr, "is loaded already") {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}

func TestRunSkipsAndIdles(t *testing.T) {
	_, addr := broker(t)
	p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "n=fail"), "--skip", "n")
	p.sees(p.err, "nothing to start")
	if s := status(t, addr); len(s.Dataflows) != 1 || s.Dataflows[0].Name != "flow" {
		t.Errorf("dataflows: %+v", s.Dataflows)
	}
	p.signal(syscall.SIGINT)
	p.exits(0)
}

func TestRunStartsABroker(t *testing.T) {
	p := brokerctl(t, "127.0.0.1:1", "run", flowFile(t, t.TempDir(), "source=source", "sink=sink in=source/out"), "--start-broker")
	p.exits(0)
	line := p.sees(p.err, "brokerctl: brokerd listens on 127.0.0.1:")
	p.sees(p.out, "got message 3")
	pid, err := strconv.Atoi(strings.TrimSuffix(line[strings.Index(line, "(pid ")+5:], ")"))
	if err != nil {
		t.Fatal(err)
	}
	gone(t, pid)
	if strings.Contains(p.err.text(), "service manager cannot be told") {
		t.Error("nobody listens to the broker's notifications")
	}
}

func TestRunStartedBrokerFails(t *testing.T) {
	token := writeFile(t, filepath.Join(t.TempDir(), "token"), "x")
	p := brokerctl(t, "", "run", flowFile(t, t.TempDir(), "n=fail"), "--start-broker", "--auth-token-file", token)
	p.exits(1) // the node's status: the broker came up with the token
	p.sees(p.err, "node n failed with exit status 7")
	t.Setenv("BROKERD_SHM_LIMIT", "nonsense")
	p = brokerctl(t, "", "run", flowFile(t, t.TempDir(), "n=fail"), "--start-broker")
	p.exits(3)
	p.sees(p.err, "did not get ready")
	p.sees(p.err, "brokerd | brokerd: BROKERD_SHM_LIMIT: ")
}

// The broker is killed and comes back at the same address: the run goes on.
func TestRunSurvivesTheBroker(t *testing.T) {
	first, addr := broker(t)
	p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "source=trickle", "sink=sink in=source/out"))
	p.sees(p.out, "got message 2")
	first.signal(syscall.SIGKILL)
	<-first.done
	p.sees(p.err, "the broker is gone")
	broker(t, "--listen", addr)
	p.sees(p.err, "the broker is back")
	p.sees(p.out, "reconnected")
	p.signal(syscall.SIGINT)
	p.exits(0)
}

func TestRunLosesTheBroker(t *testing.T) {
	first, addr := broker(t)
	p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "n=deaf"), "--broker-timeout", "200ms", "--grace", "50ms")
	pid := pidOf(t, p, "n")
	first.signal(syscall.SIGTERM)
	<-first.done
	p.exits(3)
	p.sees(p.err, "the broker did not come back within 200ms")
	gone(t, pid)
}
