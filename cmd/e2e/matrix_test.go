//go:build linux

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The failure matrix: everything that can happen to a process, to each of the
// three kinds of processes, on each of the ways that messages take. The page that
// it makes is compared with docs/failure-matrix.md, or becomes it with -update.

// matrixEnv says how often each cell is done; from the second time on things
// happen at random moments.
const matrixEnv = "BROKERD_MATRIX"

// matrixWorkers is how many cells run at a time. Most of their time they wait.
const matrixWorkers = 6

// What can happen.
const (
	eventKill  = "SIGKILL"
	eventStop  = "SIGSTOP, SIGCONT"
	eventTerm  = "SIGTERM"
	eventCut   = "closes its socket only"
	eventBlock = "blocks in user code"
	eventCrash = "crashes inside a loan"
	eventExit  = "exits without Release"
)

var matrixEvents = []string{eventKill, eventStop, eventTerm, eventCut, eventBlock, eventCrash, eventExit}

// To whom.
const (
	roleReceiver = "receiver"
	roleSender   = "sender"
	roleBroker   = "broker"
)

var matrixRoles = []string{roleReceiver, roleSender, roleBroker}

// On which way: both is a sender with one receiver on a lane, and another one that
// gets the same messages through the broker.
const (
	wayLane     = "lane"
	wayBrokered = "brokered"
	wayBoth     = "both"
)

var matrixWays = []string{wayLane, wayBrokered, wayBoth}

const matrixFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [held, free]
  - id: first
    path: dynamic
    inputs:
      held: {source: source/held, policy: block, queue_size: 4, hold_timeout: %[1]s}
      free: {source: source/free, queue_size: 4, hold_timeout: %[1]s}
  - id: second
    path: dynamic
    inputs:
      held: {source: source/held, policy: block, queue_size: 4, hold_timeout: 10s}
      free: {source: source/free, queue_size: 4, hold_timeout: 10s}
  - id: clock
    path: dynamic
    outputs: [frames]
  - id: sink
    path: dynamic
    inputs:
      frames: {source: clock/frames, policy: block, queue_size: 8}
`

// cell is one field of the matrix.
type cell struct{ role, event, way string }

func (c cell) String() string { return c.role + "/" + c.event + "/" + c.way }

// impossible says why there is nothing to do in a cell.
func (c cell) impossible() string {
	if c.role != roleBroker {
		return ""
	}
	switch c.event {
	case eventCrash:
		return "n/a: brokerd has no loan, it touches no payload of local nodes"
	case eventExit:
		return "n/a: brokerd has no message to release; its end without a word is SIGKILL"
	}
	return ""
}

// run does what the cell says, as often as it is asked to.
func (c cell) run(t *testing.T) {
	if why := c.impossible(); why != "" {
		noteCell(t, c, matrixRow{saw: why})
		return
	}
	ways := []string{c.way}
	if c.role == roleReceiver && c.way == wayBoth {
		// The one that it happens to may be either.
		ways = []string{wayLane, wayBrokered}
	}
	var rows []matrixRow
	for _, way := range ways {
		rows = append(rows, c.play(t, way, false))
	}
	noteCell(t, c, joinRows(ways, rows))
	for range matrixRounds(t) - 1 {
		c.play(t, ways[len(rows)%len(ways)], true)
		rows = append(rows, matrixRow{})
	}
}

// play does it once in a world of its own. victimWay is how the messages of the
// first receiver go. With random it happens at a random moment, and what is seen
// is not noted, but whether all is in order afterwards.
func (c cell) play(t *testing.T, victimWay string, random bool) (row matrixRow) {
	t.Run("", func(t *testing.T) {
		s := newStage(t, c, victimWay, random)
		switch c.role {
		case roleReceiver:
			s.receiver()
		case roleSender:
			s.sender()
		case roleBroker:
			s.daemon()
		}
		s.end()
		row = s.row
	})
	return row
}

func matrixRounds(t *testing.T) int {
	t.Helper()
	if matrixRepeats == "" {
		return 1
	}
	n, err := strconv.Atoi(matrixRepeats)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no count", matrixEnv, matrixRepeats)
	}
	return n
}

func TestFailureMatrix(t *testing.T) {
	if raceDetector {
		t.Skip("too long under the race detector; the other tests run the same code in the same programs")
	}
	t.Parallel()
	begun := time.Now()
	var cells []cell
	for _, event := range matrixEvents {
		for _, role := range matrixRoles {
			for _, way := range matrixWays {
				cells = append(cells, cell{role, event, way})
			}
		}
	}
	work := make(chan cell)
	var workers sync.WaitGroup
	for range matrixWorkers {
		workers.Go(func() {
			for c := range work {
				t.Run(c.String(), c.run)
			}
		})
	}
	for _, c := range cells {
		work <- c
	}
	close(work)
	workers.Wait()
	t.Logf("%d cells in %v", len(cells), time.Since(begun).Round(100*time.Millisecond))
}

const matrixPath = "../../docs/failure-matrix.md"

const matrixHead = `# The failure matrix

This page is written by a test of cmd/e2e from what it observes, and compared with it. Each of seven things is done to
each of three processes, on each way that messages take: 63 cells. **lane** is the direct path, **brokered** the one
through brokerd, **both** a sender with one receiver on a lane and one that gets the same messages through brokerd; what
happens to a receiver then happens to each of the two. Other events are in [failures.md](failures.md).

One sender, two receivers, each with two inputs: one that blocks (` + "`policy: block`" + `) and one that drops
(` + "`drop-oldest`" + `), and two bystanders with an edge of their own. When it happens the user's code of whoever it happens to is
in the middle of a message: a receiver reads one, its queues are full and the sender waits for it; a sender writes one in
place, its receivers' queues are full. (Repeated cells, ` + "`task matrix`" + `, do it at random moments.)

In **every** cell the test has found that

* no receiver has got a wrong byte, a message twice, or one out of order; held messages stay what they are,
* published = delivered + dropped + without receiver, on every edge, and the log has every drop, exactly; what the
  receivers have got is what brokerd says was delivered. On lanes that is all. Through brokerd there are two exceptions:
  what a process had taken, and had not said so when its connection broke (3 ms), is logged as lost; and what its sender
  had written to a socket that broke is counted by nobody,
* the bystanders lost nothing and never waited for long (except that brokerd's own end stops those it serves),
* edges that drop never hold the sender up,
* in the end, after the process has been continued or replaced, messages flow again on the same way as before; no slot is
  out of use; no token, region, lane, file descriptor of brokerd or name in /dev/shm is left over, and no process.

What differs is below. *Lost* is what the log names from that moment on, for the edge that blocks and the one that drops,
without the drops of a full queue that this one is there for; *meanwhile* is what is kept until the process goes on, ends
or is replaced.

`

// matrixRow is what was observed in a cell.
type matrixRow struct{ saw, lost, logged, kept string }

func (r matrixRow) fields() []string { return []string{r.saw, r.lost, r.logged, r.kept} }

// joinRows makes one row of what was seen on several ways.
func joinRows(ways []string, rows []matrixRow) matrixRow {
	if len(rows) == 1 {
		return rows[0]
	}
	var joined []string
	for i, field := range rows[0].fields() {
		if other := rows[1].fields()[i]; other != field {
			field = ways[0] + ": " + field + "\n" + ways[1] + ": " + other
		}
		joined = append(joined, field)
	}
	return matrixRow{joined[0], joined[1], joined[2], joined[3]}
}

func (r matrixRow) text() string {
	cells := r.fields()
	for i, text := range cells {
		cells[i] = strings.NewReplacer("|", "\\|", "\n", "<br>").Replace(text)
	}
	return strings.Join(cells, " | ")
}

var matrixSeen = struct {
	sync.Mutex
	rows map[cell]matrixRow
}{rows: map[cell]matrixRow{}}

// noteCell enters a cell, and compares it with what is there.
func noteCell(t *testing.T, c cell, row matrixRow) {
	t.Helper()
	if t.Failed() {
		return
	}
	matrixSeen.Lock()
	matrixSeen.rows[c] = row
	matrixSeen.Unlock()
	if *update {
		return
	}
	page, err := os.ReadFile(matrixPath)
	if err != nil {
		t.Error(err)
		return
	}
	if want, err := cellOf(string(page), c); err != nil || want != row.text() {
		t.Errorf("docs/failure-matrix.md does not say (go test ./cmd/e2e -run FailureMatrix -update):\n%s\nbut (%v)\n%s", row.text(), err, want)
	}
}

const matrixTableHead = "| event | way | the others see | lost | log | meanwhile |\n|---|---|---|---|---|---|\n"

// matrixPage is the page of what was observed. Ways on which the same was seen
// share a row.
func matrixPage(rows map[cell]matrixRow) (string, error) {
	page := matrixHead
	for _, role := range matrixRoles {
		page += "## " + strings.ToUpper(role[:1]) + role[1:] + "\n\n" + matrixTableHead
		for _, event := range matrixEvents {
			var texts []string
			ways := map[string][]string{}
			for _, way := range matrixWays {
				row, ok := rows[cell{role, event, way}]
				if !ok {
					return "", fmt.Errorf("%s is not updated: nothing was observed of %v", matrixPath, cell{role, event, way})
				}
				text := row.text()
				if ways[text] == nil {
					texts = append(texts, text)
				}
				ways[text] = append(ways[text], way)
			}
			for i, text := range texts {
				name := event
				if i > 0 {
					name = ""
				}
				page += "| " + name + " | " + strings.Join(ways[text], ", ") + " | " + text + " |\n"
			}
		}
		page += "\n"
	}
	return strings.TrimSuffix(page, "\n"), nil
}

// cellOf finds a cell in the page.
func cellOf(page string, c cell) (string, error) {
	role, event := "", ""
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if title, ok := strings.CutPrefix(line, "## "); ok {
			role = strings.ToLower(title)
			continue
		}
		parts := strings.SplitN(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"), " | ", 3)
		if len(parts) < 3 || !strings.HasPrefix(line, "|") {
			continue
		}
		if name := strings.TrimSpace(strings.Trim(parts[0], "|")); name != "" {
			event = name
		}
		if role == c.role && event == c.event && slices.Contains(strings.Split(parts[1], ", "), c.way) {
			return parts[2], nil
		}
	}
	return "", fmt.Errorf("%v is not there", c)
}

// writeMatrix writes the page, if all of it was observed.
func writeMatrix() error {
	matrixSeen.Lock()
	defer matrixSeen.Unlock()
	if len(matrixSeen.rows) == 0 {
		return nil
	}
	page, err := matrixPage(matrixSeen.rows)
	if err != nil {
		return err
	}
	return os.WriteFile(matrixPath, []byte(page), 0o644)
}

// The page is what its rows make: it has none besides.
func TestFailureMatrixPage(t *testing.T) {
	if *update {
		t.Skip("it is being written")
	}
	page, err := os.ReadFile(matrixPath)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[cell]matrixRow{}
	for _, role := range matrixRoles {
		for _, event := range matrixEvents {
			for _, way := range matrixWays {
				c := cell{role, event, way}
				text, err := cellOf(string(page), c)
				if err != nil {
					t.Error(err)
					continue
				}
				f := strings.SplitN(text, " | ", 4)
				if len(f) != 4 {
					t.Fatalf("%v: %q", c, text)
				}
				rows[c] = matrixRow{f[0], f[1], f[2], f[3]}
			}
		}
	}
	if again, err := matrixPage(rows); err == nil && strings.ReplaceAll(again, "\\\\|", "\\|") != string(page) {
		t.Error("the page has other words or rows than the test writes")
	}
}
