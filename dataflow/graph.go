package dataflow

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// Mermaid returns the flow as a Mermaid flowchart. Timers are round; nodes that
// somebody else starts have a dashed border (if the others have programs); edges
// carry output and input, and settings that are not the default.
func Mermaid(f *Flow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "---\ntitle: %s\n---\nflowchart LR\n", strconv.Quote(f.Name))
	ids := map[string]string{}
	for i, n := range f.Nodes {
		ids[n.ID] = "n" + strconv.Itoa(i)
		fmt.Fprintf(&b, "  n%d[\"%s\"]\n", i, mermaidText(n.ID))
	}
	timers := timersOf(f)
	timerIDs := map[time.Duration]string{}
	for i, period := range timers {
		timerIDs[period] = "t" + strconv.Itoa(i)
		fmt.Fprintf(&b, "  t%d((\"%s\"))\n", i, mermaidText(periodText(period)))
	}
	for _, e := range f.Edges() {
		from := ids[e.From.Node]
		if e.From.IsTimer() {
			from = timerIDs[e.From.Timer]
		}
		lines := edgeLabel(e)
		for i := range lines {
			lines[i] = mermaidText(lines[i])
		}
		fmt.Fprintf(&b, "  %s -->|\"%s\"| %s\n", from, strings.Join(lines, "<br/>"), ids[e.Node])
	}
	var dashed []string
	for _, i := range startedByOthers(f) {
		dashed = append(dashed, "n"+strconv.Itoa(i))
	}
	if len(dashed) > 0 {
		fmt.Fprintf(&b, "  classDef dynamic stroke-dasharray: 5 4\n  class %s dynamic\n", strings.Join(dashed, ","))
	}
	return b.String()
}

// DOT returns the flow as a Graphviz digraph that looks like Mermaid's.
func DOT(f *Flow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "digraph %s {\n", dotText(f.Name))
	b.WriteString("  rankdir=LR;\n" +
		"  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n" +
		"  edge [fontname=\"sans-serif\", fontsize=10];\n")
	dashed := map[int]bool{}
	for _, i := range startedByOthers(f) {
		dashed[i] = true
	}
	for i, n := range f.Nodes {
		attr := ""
		if dashed[i] {
			attr = " [style=\"rounded,dashed\"]"
		}
		fmt.Fprintf(&b, "  %s%s;\n", dotText(n.ID), attr)
	}
	for _, period := range timersOf(f) {
		fmt.Fprintf(&b, "  %s [label=%s, shape=circle, style=solid];\n", dotTimer(period), dotText(periodText(period)))
	}
	for _, e := range f.Edges() {
		from := dotText(e.From.Node)
		if e.From.IsTimer() {
			from = dotTimer(e.From.Timer)
		}
		fmt.Fprintf(&b, "  %s -> %s [label=%s];\n", from, dotText(e.Node), dotText(strings.Join(edgeLabel(e), "\n")))
	}
	b.WriteString("}\n")
	return b.String()
}

// timersOf returns the periods of all timers in the order of the file. Timers of
// one period are one source, however they are spelled.
func timersOf(f *Flow) []time.Duration {
	var periods []time.Duration
	seen := map[time.Duration]bool{}
	for _, e := range f.Edges() {
		if d := e.From.Timer; e.From.IsTimer() && !seen[d] {
			seen[d] = true
			periods = append(periods, d)
		}
	}
	return periods
}

// startedByOthers returns the nodes without a program, unless that are all.
func startedByOthers(f *Flow) []int {
	var list []int
	for i := range f.Nodes {
		if f.Nodes[i].Dynamic() {
			list = append(list, i)
		}
	}
	if len(list) == len(f.Nodes) {
		return nil
	}
	return list
}

// edgeLabel returns the lines of an edge's label.
func edgeLabel(e Edge) []string {
	lines := []string{e.Input.ID}
	if !e.From.IsTimer() && e.From.Output != e.Input.ID {
		lines[0] = e.From.Output + " → " + e.Input.ID
	}
	if e.Input.QueueSize != QueueSizeDefault {
		lines = append(lines, "queue "+strconv.Itoa(e.Input.QueueSize))
	}
	if e.Input.Policy != wire.PolicyDropOldest {
		lines = append(lines, e.Input.Policy.String())
	}
	if e.Input.HoldTimeout != HoldTimeoutDefault {
		lines = append(lines, "hold "+holdText(e.Input))
	}
	return lines
}

// mermaidEscapes covers what ends a quoted text or is taken for HTML. Ids have
// none of it, but a Flow can also be made by a program.
var mermaidEscapes = strings.NewReplacer("#", "#35;", "\"", "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "\n", " ")

func mermaidText(s string) string { return mermaidEscapes.Replace(s) }

var dotEscapes = strings.NewReplacer("\\", "\\\\", "\"", "\\\"", "\n", "\\n")

func dotText(s string) string { return "\"" + dotEscapes.Replace(s) + "\"" }

// dotTimer is a name that no node can have.
func dotTimer(period time.Duration) string { return dotText("timer/" + period.String()) }
