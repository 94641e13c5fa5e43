package main

import (
	"encoding/json"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

func TestExitStatusAndText(t *testing.T) {
	dir := t.TempDir()
	good := writeFile(t, filepath.Join(dir, "good.yml"), "nodes:\n  - {id: a, outputs: [x]}\n  - {id: b, inputs: {y: a/x}}\n")
	wrong := writeFile(t, filepath.Join(dir, "wrong.yml"), "nodes:\n  - {id: b, inputs: {y: a/x}}\n")
	nobody := freeAddress(t)
	for name, c := range map[string]struct {
		args     []string
		code     int
		out, err string // parts of them
	}{
		"version":        {[]string{"version"}, 0, "brokerctl ", ""},
		"version JSON":   {[]string{"version", "-o", "json"}, 0, `"version": "`, ""},
		"help":           {[]string{"--help"}, 0, "Examples:", ""},
		"run help":       {[]string{"run", "--help"}, 0, "Ctrl-C ends it in order", ""},
		"nothing":        {nil, 2, "Available Commands", "a command is needed"},
		"mistyped":       {[]string{"stats"}, 2, "", `did you mean "status"?`},
		"unknown flag":   {[]string{"status", "--wach"}, 2, "", "unknown flag: --wach"},
		"unknown form":   {[]string{"status", "-o", "yaml"}, 2, "", "neither text nor json"},
		"unknown graph":  {[]string{"graph", good, "-f", "svg"}, 2, "", "neither mermaid nor dot"},
		"no file":        {[]string{"validate"}, 2, "", "at least one dataflow file"},
		"validate":       {[]string{"validate", good}, 0, "ok (dataflow \"good\", 2 nodes, 1 edge)", ""},
		"validate wrong": {[]string{"validate", good, wrong}, 78, wrong + ":2:", "1 of 2 files wrong"},
		"validate JSON":  {[]string{"validate", "-o", "json", wrong}, 78, `"line": 2`, ""},
		"graph":          {[]string{"graph", good}, 0, "flowchart", ""},
		"graph dot":      {[]string{"graph", good, "-f", "dot"}, 0, `digraph "good"`, ""},
		"graph JSON":     {[]string{"graph", good, "-o", "json"}, 0, `"from": "a/x"`, ""},
		"graph wrong":    {[]string{"graph", wrong}, 78, "", wrong + ":2:"},
		"no such token":  {[]string{"status", "--auth-token-file", filepath.Join(dir, "none")}, 78, "", "auth token file"},
		"fast interval":  {[]string{"status", "-w", "--interval", "1ms"}, 2, "", "less than 100ms"},
		"status":         {[]string{"status", "--addr", nobody}, 3, "", "brokerd                    here, in the foreground"},
		"drops":          {[]string{"drops", "--addr", nobody}, 3, "", nobody},
		"stop":           {[]string{"stop", "flow", "--addr", nobody}, 3, "", "systemctl start brokerd"},
		"run":            {[]string{"run", good, "--addr", nobody}, 3, "", "No broker answers at " + nobody},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := command(c.args...)
			if code != c.code {
				t.Errorf("exit status %d, want %d; stderr: %s", code, c.code, stderr)
			}
			if !strings.Contains(stdout, c.out) || !strings.Contains(stderr, c.err) {
				t.Errorf("stdout %q, stderr %q", stdout, stderr)
			}
			if c.err == "" && stderr != "" {
				t.Errorf("stderr %q", stderr)
			}
		})
	}
}

// freeAddress is one where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestUnreachableIsNoTokenProblem(t *testing.T) {
	token := writeFile(t, filepath.Join(t.TempDir(), "token"), "right")
	_, addr := broker(t, "--auth-token-file", token)
	code, _, stderr := command("status", "--addr", addr)
	if code != 1 || !strings.Contains(stderr, "--auth-token-file FILE") {
		t.Errorf("exit status %d: %s", code, stderr)
	}
	if code, _, stderr := command("status", "--addr", addr, "--auth-token-file", token); code != 0 {
		t.Errorf("exit status %d: %s", code, stderr)
	}
	t.Setenv("BROKERD_AUTH_TOKEN_FILE", token)
	t.Setenv("BROKERD_ADDR", addr)
	if code, _, stderr := command("status"); code != 0 {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}

// served is a broker with a flow whose sink is too slow: drops are sure.
func served(t *testing.T) (daemon, runner *process, addr string) {
	daemon, addr = broker(t)
	flow := flowFile(t, t.TempDir(), "source=trickle", "slow=stall in=source/out")
	runner = brokerctl(t, addr, "run", flow)
	daemon.sees(daemon.err, `"msg":"message dropped"`)
	return daemon, runner, addr
}

func TestStatusAndDrops(t *testing.T) {
	daemon, runner, addr := served(t)
	s := status(t, addr)
	if len(s.Nodes) != 2 || len(s.Edges) != 1 || !s.Nodes[0].Connected || s.Edges[0].Dropped == 0 {
		t.Errorf("status: %+v", s)
	}
	_, text, _ := command("status", "--addr", addr)
	for _, part := range []string{addr + "  brokerd ", "NODE ", "EDGE ", "PATH ", "flow/source", "source/out→slow/in", "drop-oldest", "queue_full", " dropped, 0 protocol errors"} {
		if !strings.Contains(text, part) {
			t.Errorf("status lacks %q:\n%s", part, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("colours although nobody looks:\n%s", text)
	}
	code, _, stderr := command("status", "flwo", "--addr", addr)
	if code != 1 || !strings.Contains(stderr, "there is flow") {
		t.Errorf("exit status %d: %s", code, stderr)
	}
	if code, text, _ := command("status", "flow", "--addr", addr); code != 0 || !strings.Contains(text, "source/out→slow/in") {
		t.Errorf("exit status %d: %s", code, text)
	}

	_, text, _ = command("drops", "--addr", addr)
	for _, part := range []string{"source/out→slow/in", "queue_full", "drop-oldest", "PATH", " in all\n"} {
		if !strings.Contains(text, part) {
			t.Errorf("drops lacks %q:\n%s", part, text)
		}
	}
	// The same keys in the same order as in the broker's log.
	logged := daemon.sees(daemon.err, `"msg":"message dropped"`)
	_, text, _ = command("drops", "-o", "json", "--addr", addr)
	if want, got := keys(t, logged), keys(t, text); !reflect.DeepEqual(got, want) {
		t.Errorf("keys %v, in the log %v", got, want)
	}
	runner.signal(syscall.SIGINT)
	runner.exits(0)
}

// keys lists the keys of a JSON object in their order.
func keys(t *testing.T, line string) []string {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(line))
	if _, err := decoder.Token(); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	var names []string
	for decoder.More() {
		name, err := decoder.Token()
		if err == nil {
			_, err = decoder.Token()
		}
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		names = append(names, name.(string))
	}
	return names
}

func TestDropsFollow(t *testing.T) {
	_, runner, addr := served(t)
	text := brokerctl(t, addr, "drops", "-f")
	lines := brokerctl(t, addr, "drops", "-f", "-o", "json")
	text.sees(text.out, " in all")
	text.sees(text.out, "source/out→slow/in  queue_full  ")
	first, second := dropLine{}, dropLine{}
	if err := json.Unmarshal([]byte(lines.sees(lines.out, "queue_full")), &first); err != nil {
		t.Fatal(err)
	}
	text.signal(syscall.SIGINT)
	text.exits(0)
	// Counts add up: the second total is the first and what was lost since.
	lines.sees(lines.out, "queue_full")
	for {
		lines.out.mutex.Lock()
		got := append([]string(nil), lines.out.lines...)
		grown := lines.out.grown
		lines.out.mutex.Unlock()
		if len(got) >= 2 {
			if err := json.Unmarshal([]byte(got[1]), &second); err != nil {
				t.Fatal(err)
			}
			break
		}
		<-grown
	}
	if second.Total != first.Total+second.Count || second.SeqFirst <= first.SeqLast || second.Time.Before(first.Time) {
		t.Errorf("%+v after %+v", second, first)
	}
	lines.signal(syscall.SIGTERM)
	lines.exits(0)
	runner.signal(syscall.SIGINT)
	runner.exits(0)
}

func TestDropsFollowLosesTheBroker(t *testing.T) {
	daemon, addr := broker(t)
	p := brokerctl(t, addr, "drops", "-f")
	p.sees(p.out, "nothing was dropped")
	daemon.signal(syscall.SIGTERM)
	p.exits(3)
	p.sees(p.err, "is gone")
	<-daemon.done
}

func TestStatusWatchInAPipe(t *testing.T) {
	_, addr := broker(t)
	p := brokerctl(t, addr, "status", "-w", "--interval", "100ms", "-o", "json")
	var s wire.Status
	if err := json.Unmarshal([]byte(p.sees(p.out, `"uptime_seconds"`)), &s); err != nil || s.Addr != addr {
		t.Errorf("%v: %+v", err, s)
	}
	p.signal(syscall.SIGINT)
	p.exits(0)
}

func TestStop(t *testing.T) {
	_, addr := broker(t)
	p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "source=trickle", "sink=sink in=source/out"))
	p.sees(p.out, "got message 1")
	if code, _, stderr := command("stop", "flwo", "--addr", addr); code != 1 || !strings.Contains(stderr, "brokerctl status") {
		t.Errorf("exit status %d: %s", code, stderr)
	}
	code, stdout, stderr := command("stop", "flow", "--addr", addr)
	if code != 0 || stdout != "nodes of flow were asked to stop\n" {
		t.Errorf("exit status %d: %s%s", code, stdout, stderr)
	}
	p.exits(0) // its nodes have ended well
}

func TestCompletion(t *testing.T) {
	served := writeFile(t, filepath.Join(t.TempDir(), "flow.yml"), "nodes:\n  - {id: a, outputs: [x]}\n")
	_, addr := broker(t, "--dataflow", served)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"dataflow":  {[]string{"stop", "--addr", addr, ""}, "flow\n:4\n"},
		"status":    {[]string{"status", "--addr", addr, ""}, "flow\n:4\n"},
		"no broker": {[]string{"stop", "--addr", freeAddress(t), ""}, ":4\n"},
		"output":    {[]string{"status", "-o", ""}, "text\njson\n:4\n"},
		"format":    {[]string{"graph", "x.yml", "-f", ""}, "mermaid\ndot\n:4\n"},
		"file":      {[]string{"run", ""}, "yml\nyaml\n:8\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, _ := command(append([]string{"__complete"}, c.args...)...)
			if code != 0 || out != c.want {
				t.Errorf("exit status %d: %q, want %q", code, out, c.want)
			}
		})
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, stderr := command("completion", shell); code != 0 || len(out) < 1000 {
			t.Errorf("%s: exit status %d: %s", shell, code, stderr)
		}
	}
}
