package demo

import (
	"fmt"
	"strings"

	"github.com/brokerd/brokerd/wire"
)

// Check is one thing that was promised, and whether it was kept.
type Check struct {
	Name   string
	OK     bool
	Detail string
}

// verdict judges a run that has ended: all nodes are gone, the broker is still
// there.
func (w *watch) verdict() []Check {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return []Check{w.checkSink(), w.checkBlock(), w.checkLog(), w.checkEnds()}
}

func (w *watch) checkSink() Check {
	c := Check{Name: "every result verified"}
	var sink SinkReport
	if w.reports["sink"].Sink != nil {
		sink = *w.reports["sink"].Sink
	}
	c.OK = sink.EdgesVerified > 0 && sink.PansVerified > 0 && sink.EdgesWrong == 0 && sink.PansWrong == 0
	c.Detail = fmt.Sprintf("%d edge pictures and %d pans (%d cuts) are right, %d and %d wrong",
		sink.EdgesVerified, sink.PansVerified, sink.Cuts, sink.EdgesWrong, sink.PansWrong)
	if !c.OK && sink.Problem != "" {
		c.Detail += "; first: " + sink.Problem
	}
	return c
}

// checkBlock follows each message of an edge with policy block from its sender's
// own count to its receiver's own count. The broker's numbers must agree.
func (w *watch) checkBlock() Check {
	c := Check{Name: "no message lost on a block edge", OK: true}
	var wrong []string
	edges, messages := 0, uint64(0)
	for _, e := range w.status.Edges {
		if e.Policy != wire.PolicyBlock.String() {
			continue
		}
		edges++
		sender, _, _ := strings.Cut(e.From, "/")
		sent := w.reports[sender].Published
		_, input := w.input(e.To)
		messages += input.TotalReceived
		if sent != input.TotalReceived || e.Published != sent || e.Delivered != sent || e.Dropped != 0 || e.NoReceiver != 0 {
			wrong = append(wrong, fmt.Sprintf(
				"%s→%s: %d sent, %d received; by the broker %d published, %d delivered, %d dropped, %d without receiver",
				e.From, e.To, sent, input.TotalReceived, e.Published, e.Delivered, e.Dropped, e.NoReceiver))
		}
	}
	if sink := w.reports["sink"].Sink; sink != nil && sink.Gaps > 0 {
		wrong = append(wrong, fmt.Sprintf("the sink misses %d messages: %s", sink.Gaps, sink.Problem))
	}
	c.OK = len(wrong) == 0 && messages > 0
	c.Detail = fmt.Sprintf("%d messages on %d edges, sent = published = delivered = received", messages, edges)
	if len(wrong) > 0 {
		c.Detail = strings.Join(wrong, "; ")
	} else if messages == 0 {
		c.Detail = "no message at all"
	}
	return c
}

// checkLog compares the sum of the drop log with the counters, edge by edge.
func (w *watch) checkLog() Check {
	c := Check{Name: "every drop logged"}
	var wrong []string
	counted := uint64(0)
	known := make(map[edge]bool)
	for _, e := range w.status.Edges {
		name := edge{e.From, e.To}
		known[name] = true
		counted += e.Dropped
		reasons := uint64(0)
		for _, n := range e.Drops {
			reasons += n
		}
		if logged := w.logged[name]; logged != e.Dropped || reasons != e.Dropped {
			wrong = append(wrong, fmt.Sprintf("%s→%s: %d counted, %d by reason, %d logged", e.From, e.To, e.Dropped, reasons, logged))
		}
	}
	for name, n := range w.logged {
		if !known[name] {
			wrong = append(wrong, fmt.Sprintf("%s→%s: %d logged, the edge is unknown", name.from, name.to, n))
		}
	}
	c.OK = len(wrong) == 0 && len(known) > 0
	c.Detail = fmt.Sprintf("%d counted, %d logged, equal on each of %d edges", counted, counted, len(known))
	if len(known) == 0 {
		c.Detail = "the broker told of no edge"
	} else if !c.OK {
		c.Detail = strings.Join(wrong, "; ")
	}
	return c
}

// checkCopies is about a broker that served nobody else.
func (w *watch) checkCopies() Check {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if len(w.remote) > 0 {
		c := Check{Name: "payloads went through connections", OK: true}
		for _, p := range programs {
			if reason, ok := w.remote[p.name]; ok {
				c.Detail = fmt.Sprintf("%d of %d nodes share no memory with the broker: %s", len(w.remote), len(programs), reason)
				break
			}
		}
		return c
	}
	copied, carried := w.status.Counters.PayloadCopyBytes, uint64(0)
	for _, e := range w.status.Edges {
		carried += e.Bytes
	}
	return Check{
		Name:   "no payload copied by the broker",
		OK:     copied == 0,
		Detail: fmt.Sprintf("%.1f MB were delivered, %d bytes copied", float64(carried)/1e6, copied),
	}
}

func (w *watch) checkEnds() Check {
	var missing []string
	for _, p := range programs {
		if !w.reports[p.name].Final {
			missing = append(missing, p.name)
		}
	}
	c := Check{Name: "every node ended in good order", OK: len(missing) == 0, Detail: strings.Join(Nodes(), ", ")}
	if !c.OK {
		c.Detail = "not so: " + strings.Join(missing, ", ")
	}
	return c
}
