//go:build linux

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// entry is one line of the broker's log.
type entry struct {
	raw    string
	fields map[string]any // nil: the line is no JSON
}

func (e entry) msg() string { return e.text("msg") }

func (e entry) text(key string) string {
	text, _ := e.fields[key].(string)
	return text
}

func (e entry) number(key string) float64 {
	n, _ := e.fields[key].(float64)
	return n
}

// journal is what a broker has logged so far.
type journal struct {
	mu      sync.Mutex
	entries []entry
	grown   chan struct{} // closed and replaced with every line
	ended   bool

	pause sync.Mutex // held while nobody reads
}

func newJournal() *journal { return &journal{grown: make(chan struct{})} }

// collect reads lines until the end of r.
func (j *journal) collect(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		j.pause.Lock()
		e := entry{raw: lines.Text()}
		if json.Unmarshal(lines.Bytes(), &e.fields) != nil {
			e.fields = nil
		}
		j.add(e, false)
		j.pause.Unlock()
	}
	j.add(entry{}, true)
}

func (j *journal) add(e entry, end bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if end {
		j.ended = true
	} else {
		j.entries = append(j.entries, e)
	}
	close(j.grown)
	j.grown = make(chan struct{})
}

// all returns the lines from the given one on.
func (j *journal) all(from int) []entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]entry(nil), j.entries[from:]...)
}

func (j *journal) len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries)
}

func (j *journal) text() string {
	var b strings.Builder
	for _, e := range j.all(0) {
		b.WriteString(e.raw)
		b.WriteByte('\n')
	}
	return b.String()
}

// find waits for a line, from a place on, that match accepts.
func (j *journal) find(from int, timeout time.Duration, match func(entry) bool) (entry, error) {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for {
		j.mu.Lock()
		entries, grown, ended := j.entries[min(from, len(j.entries)):], j.grown, j.ended
		j.mu.Unlock()
		for _, e := range entries {
			if match(e) {
				return e, nil
			}
		}
		from += len(entries)
		if ended {
			return entry{}, fmt.Errorf("the log has ended without the line")
		}
		select {
		case <-grown:
		case <-deadline.C:
			return entry{}, fmt.Errorf("no such line after %s", timeout)
		}
	}
}

// await is find for a line by its message and some of its fields, given as key,
// value, key, value.
func (j *journal) await(t *testing.T, from int, msg string, pairs ...string) entry {
	t.Helper()
	e, err := j.find(from, patience, func(e entry) bool {
		if e.msg() != msg {
			return false
		}
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(e.text(pairs[i]), pairs[i+1]) {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Fatalf("log line %q %q: %v", msg, pairs, err)
	}
	return e
}

// dropKey names a series of drop records.
type dropKey struct{ from, to, reason string }

// dropSum adds up the records of one series.
type dropSum struct {
	records           int
	count, bytes      uint64
	seqFirst, seqLast uint64
}

// records are those of the drop log.
func (j *journal) records() (all []wire.DropRecord) {
	for _, e := range j.all(0) {
		var r wire.DropRecord
		if e.text("logger") == "drop" && json.Unmarshal([]byte(e.raw), &r) == nil {
			all = append(all, r)
		}
	}
	return all
}

// drops adds up the drop log, and reports records that contradict themselves or
// those before them.
func (j *journal) drops() (map[dropKey]*dropSum, []error) {
	sums := map[dropKey]*dropSum{}
	var wrong []error
	for _, e := range j.all(0) {
		if e.text("logger") != "drop" {
			continue
		}
		var r wire.DropRecord
		if err := json.Unmarshal([]byte(e.raw), &r); err != nil {
			wrong = append(wrong, err)
			continue
		}
		key := dropKey{r.From, r.To, r.Reason}
		s := sums[key]
		if s == nil {
			s = &dropSum{seqFirst: r.SeqFirst}
			sums[key] = s
		}
		s.records++
		s.count += r.Count
		s.bytes += r.Bytes
		s.seqFirst, s.seqLast = min(s.seqFirst, r.SeqFirst), max(s.seqLast, r.SeqLast)
		switch {
		case r.Count == 0 || r.SeqFirst == 0 || r.SeqLast < r.SeqFirst:
			wrong = append(wrong, fmt.Errorf("drop record without content: %s", e.raw))
		case r.Count > r.SeqLast-r.SeqFirst+1:
			wrong = append(wrong, fmt.Errorf("more drops than numbers: %s", e.raw))
		case r.Total != s.count:
			wrong = append(wrong, fmt.Errorf("total %d, the records so far say %d: %s", r.Total, s.count, e.raw))
		case e.msg() != "message dropped" || e.text("level") != "warn":
			wrong = append(wrong, fmt.Errorf("drop record of another form: %s", e.raw))
		}
	}
	return sums, wrong
}
