//go:build linux

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/brokerd/brokerd/bench/soak/audit"
	"github.com/brokerd/brokerd/bench/soak/books"
	"github.com/brokerd/brokerd/wire"
)

// archive is all that nodes and brokers have written down.
type archive struct {
	w       *world
	lag     time.Duration
	diaries map[uint32][]books.Entry // by life
	// sessions tells whose a session of a broker was.
	sessions map[sessionKey]*process
	records  map[[2]string][]audit.Record // by edge
}

type sessionKey struct{ broker, session uint64 }

// audit reads everything and audits all edges.
func (w *world) audit(lag time.Duration) ([]*audit.Result, error) {
	a := &archive{w: w, lag: lag, diaries: map[uint32][]books.Entry{}, sessions: map[sessionKey]*process{}, records: map[[2]string][]audit.Record{}}
	for _, p := range w.past {
		d, err := books.OpenDiary(w.dir, p.spec.id, p.life)
		if err != nil {
			return nil, err
		}
		a.diaries[p.life] = d.Entries()
		if d.Full() {
			return nil, fmt.Errorf("the diary of %s (life %d) is full: too long a soak", p.spec.id, p.life)
		}
		if err := d.Close(); err != nil {
			return nil, err
		}
		for _, e := range a.diaries[p.life] {
			if e.Kind == books.EntrySession {
				a.sessions[sessionKey{e.Broker, e.Session}] = p
			}
		}
	}
	for _, b := range w.brokers {
		for _, r := range b.drops {
			record := audit.Record{
				Time: r.Time, Broker: b.hash(), First: r.SeqFirst, Last: r.SeqLast, Count: r.Count,
				Reason: r.Reason, OnLane: r.Path == "lane",
			}
			record.Life = a.senderOf(b, r)
			key := [2]string{r.From, r.To}
			a.records[key] = append(a.records[key], record)
		}
	}
	var results []*audit.Result
	for i := range nodes {
		for place := range nodes[i].inputs {
			e, err := a.edge(&nodes[i], place)
			if err != nil {
				return nil, err
			}
			results = append(results, audit.Check(e))
		}
	}
	return results, nil
}

// senderOf returns whose numbers a drop record has, 0 if nobody knows.
func (a *archive) senderOf(b *brokerRun, r wire.DropRecord) uint32 {
	if p := a.sessions[sessionKey{b.hash(), r.Sender}]; p != nil {
		return p.life
	}
	if r.Sender != 0 || r.Path != "lane" {
		return 0
	}
	// A lane that its receiver has brought from the broker before, and its sender has
	// not yet.
	var life uint32
	for _, p := range a.w.past {
		if from, _, _ := strings.Cut(r.From, "/"); p.spec.id == from && p.started.Before(b.started) {
			life = p.life
		}
	}
	return life
}

// lives lists the processes of a node, the first one first.
func (a *archive) lives(spec *nodeSpec) []*process {
	var lives []*process
	for _, p := range a.w.past {
		if p.spec == spec {
			lives = append(lives, p)
		}
	}
	return lives
}

// edge puts together what is known of one edge.
func (a *archive) edge(receiver *nodeSpec, place int) (*audit.Edge, error) {
	in := receiver.inputs[place]
	from, output, _ := strings.Cut(in.source, "/")
	sender, err := specOf(from)
	if err != nil {
		return nil, err
	}
	port := slices.IndexFunc(sender.outputs, func(o outputSpec) bool { return o.id == output })
	e := &audit.Edge{From: in.source, To: receiver.id + "/" + in.id, QueueSize: in.queue, Lag: a.lag}
	e.Records = a.records[[2]string{e.From, e.To}]
	for _, p := range a.lives(sender) {
		life, err := a.life(p, output, port, receiver, in.id)
		if err != nil {
			return nil, err
		}
		e.Lives = append(e.Lives, life)
	}
	a.senderMarks(e, sender, port)
	taken := a.receiverMarks(e, receiver, place)
	a.crashes(e, sender, receiver, taken)
	return e, nil
}

// life reads the books of one process of the sender.
func (a *archive) life(p *process, output string, port int, receiver *nodeSpec, input string) (audit.Life, error) {
	l := audit.Life{ID: p.life, Killed: p.killed}
	sent, err := books.OpenSent(a.w.dir, p.spec.id, output, p.life)
	if err != nil {
		return l, err
	}
	l.Sent = sent.Account()
	if err := sent.Close(); err != nil {
		return l, err
	}
	taken, err := books.OpenTaken(a.w.dir, receiver.id, input, p.life)
	if err != nil {
		return l, err
	}
	l.Taken = taken.Account()
	if err := taken.Close(); err != nil {
		return l, err
	}
	for _, e := range a.diaries[p.life] {
		if e.Kind == books.EntryBegun && int(e.Port) == port {
			l.Begun = append(l.Begun, audit.Tick{Time: e.Time, Number: e.Number})
		}
	}
	return l, nil
}

// senderMarks adds where the sender had another connection.
func (a *archive) senderMarks(e *audit.Edge, sender *nodeSpec, port int) {
	for _, p := range a.lives(sender) {
		joined := time.Time{}
		for _, d := range a.diaries[p.life] {
			switch {
			case d.Kind == books.EntrySession:
				joined = d.Time
			case d.Kind == books.EntryOutput && int(d.Port) == port:
				e.Marks = append(e.Marks, audit.Mark{
					Kind: audit.MarkConnection, At: audit.Place{Life: p.life, Number: d.Number}, Joined: joined, Broker: d.Broker,
				})
			}
		}
	}
}

// receiverMarks adds where the receiver was another process or had another
// connection. It returns what the receiver had got when.
func (a *archive) receiverMarks(e *audit.Edge, receiver *nodeSpec, place int) (taken []books.Entry) {
	var before *process
	for _, p := range a.lives(receiver) {
		joined := time.Time{}
		broker := uint64(0)
		start := -1
		for _, d := range a.diaries[p.life] {
			switch {
			case d.Kind == books.EntrySession:
				joined, broker = d.Time, d.Broker
				if start >= 0 && e.Marks[start].Joined.IsZero() {
					e.Marks[start].Joined, e.Marks[start].Broker = joined, broker
				}
			case int(d.Port) != place:
			case d.Kind == books.EntryTaken:
				taken = append(taken, d)
			case d.Kind == books.EntryInput && d.Session == 0:
				m := audit.Mark{Kind: audit.MarkReceiver, At: audit.Place{Life: d.Life, Number: d.Number}}
				if before != nil {
					m.Died = before.killed
				}
				start = len(e.Marks)
				e.Marks = append(e.Marks, m)
			case d.Kind == books.EntryInput:
				e.Marks = append(e.Marks, audit.Mark{
					Kind: audit.MarkConnection, At: audit.Place{Life: d.Life, Number: d.Number}, Joined: joined, Broker: broker,
				})
			}
		}
		before = p
	}
	return taken
}

// crashes adds the brokers that were killed.
func (a *archive) crashes(e *audit.Edge, sender, receiver *nodeSpec, taken []books.Entry) {
	for i, b := range a.w.brokers[:len(a.w.brokers)-1] {
		k := audit.Crash{At: b.killed, Broker: b.hash()}
		// The next one that an end of this edge has met.
		next := slices.IndexFunc(a.w.brokers[i+1:], func(next *brokerRun) bool {
			return slices.ContainsFunc(e.Marks, func(m audit.Mark) bool { return m.Broker == next.hash() })
		})
		if next >= 0 {
			n := a.w.brokers[i+1+next]
			k.Next = n.hash()
			k.Whole = next == 0 && n.whole(sender.id) && n.whole(receiver.id)
		}
		at, _ := slices.BinarySearchFunc(taken, b.killed.Add(-a.lag), func(t books.Entry, limit time.Time) int { return cmp.Compare(t.Time.UnixNano(), limit.UnixNano()) })
		if at > 0 {
			k.From = audit.Place{Life: taken[at-1].Life, Number: taken[at-1].Number}
		}
		e.Crashes = append(e.Crashes, k)
	}
}

// whole reports whether a node has brought all its lanes from the broker before.
func (b *brokerRun) whole(node string) bool {
	got, there := b.brought[node]
	return there && got.Lanes == got.Offered
}
