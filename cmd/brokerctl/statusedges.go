package main

import (
	"fmt"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/wire"
)

func edgeTable(s, before *wire.Status) *table {
	t := &table{head: []cell{text("EDGE"), text("PATH"), text("POLICY"), number("QUEUE"), number("HELD")}}
	if before != nil {
		t.head = append(t.head, number("HZ"), number("MB/S"), number("DROPS/S"))
	}
	t.head = append(t.head, number("DELIVERED"), number("DROPPED"), number("P50 MS"), number("P99 MS"), text("MOST DROPPED BY"))
	earlier := map[string]*wire.EdgeStatus{}
	if before != nil {
		for i := range before.Edges {
			earlier[edgeKey(&before.Edges[i])] = &before.Edges[i]
		}
	}
	for i := range s.Edges {
		e := &s.Edges[i]
		row := []cell{
			text(edgeName(s, e)), pathCell(e), text(e.Policy), number(fmt.Sprintf("%d/%d", e.Queued+e.InFlight, e.QueueSize)),
			brokerOnly(e, uint64(e.Held), fmt.Sprint(e.Held)),
		}
		if before != nil {
			row = append(row, rates(e, earlier[edgeKey(e)], s.UptimeSeconds-before.UptimeSeconds)...)
		}
		dropped := number(grouped(e.Dropped))
		if e.Dropped > 0 {
			dropped = inked(yellow, dropped)
		}
		t.rows = append(t.rows, append(row, number(grouped(e.Delivered)), dropped, latency(e, e.LatencyP50MS), latency(e, e.LatencyP99MS),
			text(mostDropped(e.Drops))))
	}
	return t
}

// pathLane is wire.EdgeStatus.Path of an edge whose messages do not pass through
// the broker.
const pathLane = "lane"

func pathCell(e *wire.EdgeStatus) cell {
	if e.Path == pathLane {
		return inked(green, text(e.Path))
	}
	return text(e.Path)
}

// pathLines says why edges have their paths: of all edges if asked, else of those
// whose messages take a longer way than they could, each reason once.
func pathLines(s *wire.Status, verbose bool) []string {
	var lines, reasons []string
	edges := map[string]int{}
	for i := range s.Edges {
		e := &s.Edges[i]
		if verbose {
			lines = append(lines, fmt.Sprintf("%s: %s, %s", edgeName(s, e), e.Path, e.PathReason))
			continue
		}
		if e.Path == pathLane {
			continue
		}
		if edges[e.PathReason]++; edges[e.PathReason] == 1 {
			reasons = append(reasons, e.PathReason)
		}
	}
	for _, reason := range reasons {
		lines = append(lines, fmt.Sprintf("%s brokered: %s", cli.Plural(edges[reason], "edge"), reason))
	}
	return lines
}

// brokerOnly shows what the broker does not know of messages on lanes.
func brokerOnly(e *wire.EdgeStatus, n uint64, shown string) cell {
	if e.Path == pathLane && n == 0 {
		return number("-")
	}
	return number(shown)
}

func latency(e *wire.EdgeStatus, ms float64) cell {
	if e.Path == pathLane && ms == 0 {
		return number("-")
	}
	return number(cli.Significant(ms))
}

func rates(e, before *wire.EdgeStatus, seconds float64) []cell {
	if before == nil || seconds <= 0 || before.Delivered > e.Delivered {
		return []cell{number("-"), number("-"), number("-")}
	}
	drops := float64(e.Dropped-before.Dropped) / seconds
	c := number(cli.Significant(drops))
	if drops > 0 {
		c = inked(yellow, c)
	}
	return []cell{
		number(cli.Significant(float64(e.Delivered-before.Delivered) / seconds)),
		brokerOnly(e, e.Bytes-before.Bytes, cli.Significant(float64(e.Bytes-before.Bytes)/seconds/1e6)),
		c,
	}
}

func edgeKey(e *wire.EdgeStatus) string { return e.Dataflow + " " + e.From + "→" + e.To }

// edgeName leaves the dataflow out where there is only one.
func edgeName(s *wire.Status, e *wire.EdgeStatus) string {
	name := e.From + "→" + e.To
	if len(s.Dataflows) > 1 {
		return e.Dataflow + ": " + name
	}
	return name
}

// mostDropped names the reason that cost the most messages.
func mostDropped(drops map[string]uint64) string {
	name, most := "", uint64(0)
	for reason, n := range drops {
		if n > most || n == most && n > 0 && reason < name {
			name, most = reason, n
		}
	}
	return name
}
