//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/brokerd/brokerd/bench/soak/audit"
)

// report is what a soak has come to.
type report struct {
	Passed   bool           `json:"passed"`
	Commit   string         `json:"commit,omitempty"`
	Seed     uint64         `json:"seed"`
	Seconds  float64        `json:"seconds"`
	Stress   int            `json:"stress"`
	Brokers  int            `json:"brokers"`
	Lives    int            `json:"lives"` // of nodes
	Acts     map[string]int `json:"acts"`  // what was done to them
	Sent     uint64         `json:"sent"`  // messages, once for each edge
	Received uint64         `json:"received"`
	OnLane   uint64         `json:"on_lane"` // of these
	Bytes    uint64         `json:"bytes"`
	Logged   uint64         `json:"logged"`       // drops
	Excused  uint64         `json:"excused"`      // messages in gaps, logged or not
	Failed   int            `json:"lanes_failed"` // for a region that no broker lived to announce
	Exact    int            `json:"exact"`        // runs of drop records whose sum is exact
	Loose    int            `json:"loose"`

	Edges  []*audit.Result `json:"edges"`
	Growth []verdict       `json:"growth"`
	Faults []string        `json:"faults"`

	start, warm time.Time
	quiet       [2]time.Time
	samples     []sample
}

// sum adds up, and decides.
func (r *report) sum(w *world) {
	r.Commit = commit()
	r.Acts = maps.Clone(w.counts)
	for _, b := range w.brokers {
		r.Failed += b.failed
	}
	for _, e := range r.Edges {
		r.Sent += e.Sent
		r.Received += e.Delivered
		r.OnLane += e.OnLane
		r.Bytes += e.Bytes
		for _, n := range e.Logged {
			r.Logged += n
		}
		for _, n := range e.Excused {
			r.Excused += n
		}
		r.Exact += e.Exact
		r.Loose += e.Loose
		for _, f := range e.Faults {
			r.Faults = append(r.Faults, e.From+"→"+e.To+": "+f)
		}
	}
	r.Faults = append(r.Faults, w.faults...)
	for _, v := range r.Growth {
		if !v.Flat {
			r.Faults = append(r.Faults, fmt.Sprintf("%s grows: by %s, from about %s; %s are allowed",
				v.Name, amount(v.Growth, v.Unit), amount(v.Level, v.Unit), amount(v.Limit, v.Unit)))
		}
	}
	r.Passed = len(r.Faults) == 0
}

func amount(n float64, unit string) string {
	if unit == "bytes" {
		return fmt.Sprintf("%.1f MiB", n/mib)
	}
	return fmt.Sprintf("%.0f", n)
}

// tell writes the report everywhere.
func (o *options) tell(r *report, w *world, out io.Writer) error {
	if o.picture != "" {
		title := fmt.Sprintf("soak of %v%s: %d nodes, %d brokers, %d node processes, %s messages delivered", o.length, o.stressText(), len(nodes), r.Brokers, r.Lives, grouped(r.Received))
		if err := drawPicture(o.picture, title, w, r.samples, r.start, r.warm, r.quiet); err != nil {
			return err
		}
	}
	if o.report == "-" {
		return writeJSON(out, r)
	}
	if o.report != "" {
		f, err := os.Create(o.report)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := writeJSON(f, r); err != nil {
			return err
		}
	}
	return r.write(out, o)
}

func writeJSON(out io.Writer, r *report) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// write is the report for people.
func (r *report) write(out io.Writer, o *options) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "edge\tsent\tdelivered\ton lanes\tmissing\tlogged\tin gaps\texact sums\tloose\tfaults\t")
	for _, e := range r.Edges {
		var logged, excused uint64
		for _, n := range e.Logged {
			logged += n
		}
		for _, n := range e.Excused {
			excused += n
		}
		fmt.Fprintf(t, "%s→%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t\n", e.From, e.To, grouped(e.Sent), grouped(e.Delivered), grouped(e.OnLane),
			grouped(e.Missing), grouped(logged), grouped(excused), e.Exact, e.Loose, len(e.Faults))
	}
	_ = t.Flush()
	fmt.Fprintln(out)
	t = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what must not grow\tmedian\tgrowth\tallowed\t")
	for _, v := range r.Growth {
		note := v.Note
		if !v.Flat {
			note = "GROWS"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", v.Name, amount(v.Level, v.Unit), amount(v.Growth, v.Unit), amount(v.Limit, v.Unit), note)
	}
	_ = t.Flush()
	acts := make([]string, 0, len(r.Acts))
	for _, what := range slices.Sorted(maps.Keys(r.Acts)) {
		acts = append(acts, fmt.Sprintf("%d × %s", r.Acts[what], what))
	}
	fmt.Fprintf(out, "\n%d brokers, %d processes of %d nodes; %s\n", r.Brokers, r.Lives, len(nodes), strings.Join(acts, ", "))
	fmt.Fprintf(out, "%s messages sent (once for each edge), %s delivered (%s on lanes, %.1f GiB), %s in the log of drops, %s in gaps of kills\n",
		grouped(r.Sent), grouped(r.Received), grouped(r.OnLane), float64(r.Bytes)/(1<<30), grouped(r.Logged), grouped(r.Excused))
	if r.Failed > 0 {
		fmt.Fprintf(out, "%d lanes failed for a region that no broker lived to announce\n", r.Failed)
	}
	for _, f := range r.Faults {
		fmt.Fprintf(out, "FAULT: %s\n", f)
	}
	verdict := "PASSED: every message is accounted for, every byte right, nothing grows"
	if !r.Passed {
		verdict = fmt.Sprintf("FAILED: %d faults; again with --seed %d", len(r.Faults), r.Seed)
	}
	_, err := fmt.Fprintf(out, "%s\n", verdict)
	return err
}

// grouped writes 1234567 as 1,234,567.
func grouped(n uint64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
