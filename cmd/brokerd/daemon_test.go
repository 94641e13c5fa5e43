package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/node/control"
	"github.com/brokerd/brokerd/wire"
)

const flowText = `nodes:
  - id: camera
    path: dynamic
    outputs: [image]
  - id: sink
    path: dynamic
    inputs:
      frame: camera/image
`

// askStatus asks a running broker for its status.
func askStatus(t *testing.T, cfg control.Config) wire.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := control.Dial(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var status wire.Status
	if err := client.Call(ctx, wire.VerbStatus, nil, &status); err != nil {
		t.Fatal(err)
	}
	return status
}

func edgesOf(s wire.Status) []string {
	edges := []string{}
	for _, e := range s.Edges {
		edges = append(edges, e.From+"→"+e.To)
	}
	slices.Sort(edges)
	return edges
}

var snakeCase = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func TestServeAndStop(t *testing.T) {
	flow := filepath.Join(t.TempDir(), "flow.yml")
	writeFile(t, flow, flowText)
	p := start(t, []string{"BROKERD_LISTN=x"}, "--listen", "127.0.0.1:0", "--dataflow", flow)
	status := askStatus(t, control.Config{Addr: p.listening()})
	if len(status.Nodes) != 2 || !reflect.DeepEqual(edgesOf(status), []string{"camera/image→sink/frame"}) {
		t.Errorf("status: %+v", status)
	}
	if status.Version != versionText() {
		t.Errorf("version %q, want %q", status.Version, versionText())
	}
	if len(leftInShm(t)) == 0 {
		t.Error("nothing in /dev/shm while it serves: the test looks for the wrong names")
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != cli.ExitOK {
		t.Errorf("exit status %d", code)
	}
	if left := leftInShm(t); len(left) > 0 {
		t.Errorf("left in /dev/shm: %v", left)
	}
	// Not on a terminal, so every line is JSON.
	for _, line := range p.log() {
		fields := map[string]any{}
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		stamp, _ := fields["ts"].(string)
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || fields["level"] == "" || fields["msg"] == "" {
			t.Errorf("line without its usual fields: %s", line)
		}
		for key := range fields {
			if !snakeCase.MatchString(key) {
				t.Errorf("key %q of line %s", key, line)
			}
		}
	}
	if fields, _ := p.logged(0, "odd configuration"); !strings.Contains(fields["warning"].(string), "BROKERD_LISTN") {
		t.Errorf("%v", fields)
	}
}

func TestLogLevelAndConsole(t *testing.T) {
	p := start(t, nil, "--listen", "127.0.0.1:0", "--log-format", "console", "--http", "127.0.0.1:0")
	deadline := time.After(patience)
	for {
		p.mutex.Lock()
		text, grown := strings.Join(p.lines, "\n"), p.grown
		p.mutex.Unlock()
		if strings.Contains(text, "INFO  listening") {
			if strings.Contains(text, "\x1b[") {
				t.Errorf("colours although stderr is a pipe: %s", text)
			}
			break
		}
		select {
		case <-grown:
		case <-deadline:
			t.Fatalf("no console line: %s", text)
		}
	}
	p.signal(syscall.SIGINT)
	if code := p.exit(); code != cli.ExitOK {
		t.Errorf("exit status %d", code)
	}
}

func TestAddressInUse(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := start(t, nil, "serve", "--listen", listener.Addr().String())
	if code := p.exit(); code != cli.ExitFailed {
		t.Errorf("exit status %d", code)
	}
	text := strings.Join(p.log(), "\n")
	if !strings.Contains(text, "address already in use") || !strings.Contains(text, "is another brokerd running?") {
		t.Errorf("stderr: %s", text)
	}
	if left := leftInShm(t); len(left) > 0 {
		t.Errorf("left in /dev/shm: %v", left)
	}
}

func TestWrongDataflowStartsNothing(t *testing.T) {
	p := start(t, nil, "--listen", "127.0.0.1:0", "--dataflow", "testdata/check/wrong.yml", "--dataflow", "testdata/check/good.yml")
	if code := p.exit(); code != cli.ExitConfig {
		t.Errorf("exit status %d", code)
	}
	text := strings.Join(p.log(), "\n")
	if !strings.Contains(text, "testdata/check/wrong.yml:8:14") || !strings.Contains(text, "did you mean camera/image?") {
		t.Errorf("stderr: %s", text)
	}
	if strings.Contains(text, "listening") {
		t.Errorf("it listened: %s", text)
	}
}

// Who has no token is refused. It is renewed by SIGHUP.
func TestToken(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	writeFile(t, token, "open sesame\n")
	if err := os.Chmod(token, 0o604); err != nil {
		t.Fatal(err)
	}
	p := start(t, nil, "--listen", "0.0.0.0:0", "--auth-token-file", token, "--insecure")
	_, port, err := net.SplitHostPort(p.listening())
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", port)
	askStatus(t, control.Config{Addr: addr, AuthToken: []byte("open sesame")})
	for _, wrong := range []string{"", "open sesam", "open sesame\n"} {
		_, err := control.Dial(t.Context(), control.Config{Addr: addr, AuthToken: []byte(wrong)})
		if !errors.Is(err, wire.ErrAuth) {
			t.Errorf("token %q: %v", wrong, err)
		}
	}
	// Another token, by SIGHUP; a file that will not do changes nothing.
	renewed := []byte("0123456789abcdef0123456789abcdef")
	for _, step := range []struct {
		content, said string
		mode          os.FileMode
	}{
		{"", "reload refused, the credentials stay as they are", 0o600},
		{"anything", "reload refused, the credentials stay as they are", 0o602},
		{string(renewed) + "\n", "reloaded", 0o600},
	} {
		seen := len(p.log())
		writeFile(t, token, step.content)
		if err := os.Chmod(token, step.mode); err != nil {
			t.Fatal(err)
		}
		p.signal(syscall.SIGHUP)
		p.logged(seen, step.said)
		p.logged(seen, "reloaded") // the dataflows, all the same
		if step.mode == 0o600 && step.content != "" {
			break
		}
		askStatus(t, control.Config{Addr: addr, AuthToken: []byte("open sesame")})
	}
	askStatus(t, control.Config{Addr: addr, AuthToken: renewed})
	if _, err := control.Dial(t.Context(), control.Config{Addr: addr, AuthToken: []byte("open sesame")}); !errors.Is(err, wire.ErrAuth) {
		t.Errorf("with the old token: %v", err)
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != cli.ExitOK {
		t.Errorf("exit status %d", code)
	}
	text := strings.Join(p.log(), "\n")
	if strings.Contains(text, "sesam") || strings.Contains(text, string(renewed)) {
		t.Error("a token is in the log")
	}
	for _, warning := range []string{"everybody on this machine can read the token", "can be guessed"} {
		if !strings.Contains(text, warning) {
			t.Errorf("no warning that %s", warning)
		}
	}
}

func TestReload(t *testing.T) {
	flow := filepath.Join(t.TempDir(), "flow.yml")
	writeFile(t, flow, flowText)
	p := start(t, nil, "--listen", "127.0.0.1:0", "--dataflow", flow)
	cfg := control.Config{Addr: p.listening()}

	writeFile(t, flow, flowText+"      again: camera/image\n")
	p.signal(syscall.SIGHUP)
	fields, _ := p.logged(0, "dataflow changed")
	changes, _ := json.Marshal(fields["changes"])
	if !strings.Contains(string(changes), "sink/again") || strings.Contains(string(changes), "sink/frame") {
		t.Errorf("changes: %s", changes)
	}
	want := []string{"camera/image→sink/again", "camera/image→sink/frame"}
	if edges := edgesOf(askStatus(t, cfg)); !reflect.DeepEqual(edges, want) {
		t.Errorf("edges after the reload: %q", edges)
	}

	fields, seen := p.logged(0, "reloaded")
	if fields["changes"] != 1.0 {
		t.Errorf("%v", fields)
	}

	// A wrong file changes nothing.
	writeFile(t, flow, flowText+"      again: camra/image\n")
	p.signal(syscall.SIGHUP)
	fields, seen = p.logged(seen, "dataflow file is wrong")
	if place, _ := fields["place"].(string); place != flow+":9:14" {
		t.Errorf("problem at %q: %v", place, fields)
	}
	if _, seen = p.logged(seen, "reload refused, the dataflows stay as they are"); t.Failed() {
		return
	}
	if edges := edgesOf(askStatus(t, cfg)); !reflect.DeepEqual(edges, want) {
		t.Errorf("edges after a refused reload: %q", edges)
	}

	// Nor does a missing one.
	if err := os.Remove(flow); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	_, seen = p.logged(seen, "reload refused, the dataflows stay as they are")

	// And it can be mended.
	writeFile(t, flow, flowText)
	p.signal(syscall.SIGHUP)
	p.logged(seen, "reloaded")
	if edges := edgesOf(askStatus(t, cfg)); !reflect.DeepEqual(edges, want[1:]) {
		t.Errorf("edges after the last reload: %q", edges)
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != cli.ExitOK {
		t.Errorf("exit status %d", code)
	}
}

// A node that does not leave keeps the drain going; the second signal does not
// wait for it.
func TestSecondSignalExitsAtOnce(t *testing.T) {
	flow := filepath.Join(t.TempDir(), "flow.yml")
	writeFile(t, flow, flowText)
	p := start(t, nil, "--listen", "127.0.0.1:0", "--dataflow", flow, "--drain-timeout", "1h")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := node.Connect(ctx, node.Config{Addr: p.listening(), Dataflow: "flow", Node: "sink"})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	p.signal(syscall.SIGTERM)
	_, seen := p.logged(0, "draining")
	// The node is told, and stays.
	if event, err := n.Next(ctx); err != nil || event.Kind != node.EventStop {
		t.Errorf("event %v, %v", event, err)
	}
	// Nothing more to do by SIGHUP, and the same order twice is one order.
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGTERM)
	p.repeat(syscall.SIGTERM)
	p.logged(seen, "second signal, exiting at once")
	if code := p.exit(); code != cli.ExitFailed {
		t.Errorf("exit status %d", code)
	}
	// What it left behind goes with the next start.
	again := start(t, nil, "--listen", "127.0.0.1:0")
	again.listening()
	again.signal(syscall.SIGTERM)
	again.exit()
	if left := leftInShm(t); len(left) > 0 {
		t.Errorf("left in /dev/shm: %v", left)
	}
}

func TestDrainEndsWhenNodesLeave(t *testing.T) {
	flow := filepath.Join(t.TempDir(), "flow.yml")
	writeFile(t, flow, flowText)
	p := start(t, nil, "--listen", "127.0.0.1:0", "--dataflow", flow, "--drain-timeout", "1h")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := node.Connect(ctx, node.Config{Addr: p.listening(), Dataflow: "flow", Node: "sink"})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	p.signal(syscall.SIGTERM)
	if event, err := n.Next(ctx); err != nil || event.Kind != node.EventStop {
		t.Errorf("event %v, %v", event, err)
	}
	n.Close()
	if code := p.exit(); code != cli.ExitOK {
		t.Errorf("exit status %d", code)
	}
}
