//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The tests of bad input, kills and shortages write down what they see. The page
// that they make is compared with docs/failures.md, or becomes it with -update.

const failuresPath = "../../docs/failures.md"

const failuresHead = `# What happens when

This page is written by the tests of cmd/e2e from what they observe: they do each of these things to a running
brokerd, and compare. Numbers that differ from run to run are shown as N, addresses as HOST:PORT.

Others do not notice: meanwhile messages run between other nodes of the same broker, and none of them may be lost, late
by more than two seconds, or wrong. Log lines are shown with the fields that matter; operations.md explains them all. The same things done to each kind of process, on
each way that messages take, are in [failure-matrix.md](failure-matrix.md).

| event | who did it, or depends on it, sees | log |
|---|---|---|
`

// failureEvents are the rows of the page, in their order.
var failureEvents = []string{
	"a length that no frame may have, before the handshake",
	"a length that no frame may have, after the handshake",
	"bytes that are not msgpack",
	"a message of an unknown kind",
	"a message in the wrong state",
	"a message about somebody else's memory",
	"a connection that says nothing",
	"a node of another protocol version",
	"a node id that the dataflow does not have",
	"a node id that is in use",
	"a node id that is in use, with takeover",
	"a wrong dataflow file",
	"more connections than file descriptors allow",
	"no file descriptor left at all",
	"a remote node that does not read",
	"a remote node that asks for messages and does not read them",
	"a message larger than the limit of shared memory",
	"/dev/shm is full",
	"/dev/shm is full, and `shm_fallback` is `inline`",
	"/dev/shm is full when brokerd starts",
	"/dev/shm is nearly full when brokerd starts",
	"/dev/shm has 64 MB, as in a container",
	"/dev/shm has 1 MB",
	"/dev/shm is read-only",
	"/dev/shm may have no file",
	"/dev/shm may have few files",
	"somebody else fills /dev/shm while messages run",
	"a sender shrinks its region while a message for a remote node waits in it",
	"a receiver that holds messages for ever",
	"a receiver that holds more than `held_max` for ever",
	"a receiver is stopped (SIGSTOP)",
	"a receiver is killed",
	"a sender is killed",
	"a receiver on a lane is stopped (SIGSTOP)",
	"a node writes nonsense to a lane",
	"brokerd is killed",
	"brokerd is killed while messages run on lanes",
	"brokerd is stopped for a while (SIGSTOP, SIGCONT)",
	"brokerd is told to stop (SIGTERM)",
}

var observed = struct {
	sync.Mutex
	rows map[string]string
}{rows: map[string]string{}}

// observe notes one row of the page, and compares it with what is there.
func observe(t *testing.T, event, seen, logged string) {
	t.Helper()
	if !slices.Contains(failureEvents, event) {
		t.Fatalf("no row for %q", event)
	}
	cell := strings.NewReplacer("|", "\\|", "\n", "<br>")
	row := "| " + event + " | " + cell.Replace(seen) + " | " + cell.Replace(logged) + " |"
	observed.Lock()
	observed.rows[event] = row
	observed.Unlock()
	if *update {
		return
	}
	page, err := os.ReadFile(failuresPath)
	if err != nil {
		t.Error(err)
		return
	}
	for line := range strings.Lines(string(page)) {
		if strings.TrimSuffix(line, "\n") == row {
			return
		}
	}
	t.Errorf("%s does not say (go test ./cmd/e2e -update):\n%s", filepath.Clean(failuresPath), row)
}

// writeFailures writes the page, if all of it was observed.
func writeFailures() error {
	observed.Lock()
	defer observed.Unlock()
	if len(observed.rows) == 0 {
		return nil
	}
	page := failuresHead
	for _, event := range failureEvents {
		row, ok := observed.rows[event]
		if !ok {
			return fmt.Errorf("%s is not updated: nothing was observed of %q", failuresPath, event)
		}
		page += row + "\n"
	}
	return os.WriteFile(failuresPath, []byte(page), 0o644)
}

// The page has no rows besides those that the tests observe.
func TestFailuresPage(t *testing.T) {
	if *update {
		t.Skip("it is being written")
	}
	page, err := os.ReadFile(failuresPath)
	if err != nil {
		t.Fatal(err)
	}
	rows, ok := strings.CutPrefix(string(page), failuresHead)
	if !ok {
		t.Fatal("the page begins with other words")
	}
	var events []string
	for line := range strings.Lines(rows) {
		event, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		events = append(events, event)
	}
	if !slices.Equal(events, failureEvents) {
		t.Errorf("rows %q, want %q", events, failureEvents)
	}
}

var (
	hostPort = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	duration = regexp.MustCompile(`\b\d+(\.\d+)?(ms|s|µs)\b`)
	number   = regexp.MustCompile(`\b\d+(\.\d+)?\b`)
	unit     = regexp.MustCompile(`\bN (B|KiB|GiB)\b`)
	retired  = regexp.MustCompile(`; N \w+ of it in N regions wait for receivers that hold messages for too long`)
	varying  = regexp.MustCompile(`(connected from HOST:PORT since|session) N?\d*`)
)

// plain takes out of a text what differs from run to run.
func plain(text string) string {
	text = hostPort.ReplaceAllString(text, "HOST:PORT")
	text = varying.ReplaceAllString(text, "$1 N")
	return text
}

// holders is what the text about a denial has if some receiver just has a message.
var holders = regexp.MustCompile(`; \S+ (holds|has) \d+ (of its )?messages.*$`)

// numbers replaces all numbers of a text, and what depends on them.
func numbers(text string) string {
	text = duration.ReplaceAllString(plain(text), "N$2")
	text = number.ReplaceAllString(text, "N")
	text = retired.ReplaceAllString(text, "")
	return unit.ReplaceAllString(text, "N MiB")
}

// shown is a log line for the page, with some of its fields.
func shown(e entry, keys ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "`%s %q", e.text("level"), e.msg())
	for _, key := range keys {
		switch value := e.fields[key].(type) {
		case string:
			fmt.Fprintf(&b, " %s=%q", key, plain(value))
		case float64:
			fmt.Fprintf(&b, " %s=N", key)
		case nil:
			fmt.Fprintf(&b, " %s=?", key)
		default:
			fmt.Fprintf(&b, " %s=%v", key, value)
		}
	}
	return b.String() + "`"
}
