//go:build linux

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/wire"
)

// stage is one cell of the matrix while it is played.
type stage struct {
	*world
	cell   cell
	way    string // of the first receiver
	random bool
	row    matrixRow

	by      *bystanders
	sending map[string]<-chan answer // by output: the living sender's orders
	seen    int                      // lines of the log before it happened
	got     map[string]uint64        // by edge: what processes got that are dead now
	sent    map[string]uint64        // by output
	unsure  map[string]bool          // by edge: a process died while messages came
	away    map[string]bool          // by node: has been away
	noted   map[string]int           // by node: notes before it happened
	unplug  func()                   // has the log read again
}

// inputs of a receiver, and outputs of the sender.
var matrixPorts = []string{"held", "free"}

// newStage starts a broker and five nodes, and waits until messages flow.
func newStage(t *testing.T, c cell, way string, random bool) *stage {
	t.Helper()
	hold := "10s"
	if c.role == roleReceiver {
		hold = "200ms"
	}
	s := &stage{
		world: newWorld(t, fmt.Sprintf(matrixFlow, hold), "--heartbeat", "1500ms", "--drain-timeout", "300ms", "--adopt-grace", "2s"),
		cell:  c, way: way, random: random,
		sending: map[string]<-chan answer{}, got: map[string]uint64{}, sent: map[string]uint64{},
		unsure: map[string]bool{}, away: map[string]bool{}, noted: map[string]int{},
	}
	s.lanes = c.way != wayBrokered
	s.by = s.stand("clock")
	s.receive("first")
	s.receive("second")
	s.transmit()
	s.flows()
	if c.role != roleReceiver {
		s.way = c.way
	}
	return s
}

// onLane reports whether a receiver gets its messages on lanes.
func (s *stage) onLane(id string) bool {
	switch {
	case s.cell.way != wayBoth:
		return s.cell.way == wayLane
	case s.way == wayBrokered:
		return id == "second"
	}
	return id == "first"
}

func (s *stage) receive(id string) *child {
	s.t.Helper()
	var env []string
	if s.cell.way == wayBoth && !s.onLane(id) {
		env = append(env, noLanes)
	}
	return s.start(id, program{Receive: true, Keep: 1}, env...)
}

// transmit starts the sender.
func (s *stage) transmit() *child {
	s.t.Helper()
	source := s.start("source", program{})
	for _, output := range matrixPorts {
		source.do(order{Do: "await", Output: output, Count: 2})
	}
	s.lanesUp() // what a broker that is killed has dropped in its last second is in no log
	for _, output := range matrixPorts {
		s.sending[output] = source.begin(order{Do: "send", Output: output, Sizes: []int{20_000, 5_000}, Every: 4 * time.Millisecond, Loan: true})
	}
	return source
}

// node returns the living process of a node.
func (s *stage) node(id string) *child {
	s.t.Helper()
	for i := len(s.nodes) - 1; i >= 0; i-- {
		if c := s.nodes[i]; c.id == id && !c.ended() {
			return c
		}
	}
	s.t.Fatalf("node %s is not alive", id)
	return nil
}

// lanesUp waits until all edges have lanes that should.
func (s *stage) lanesUp() {
	s.t.Helper()
	var lanes []string
	for _, id := range []string{"first", "second"} {
		for _, input := range matrixPorts {
			if s.onLane(id) {
				lanes = append(lanes, id+"/"+input)
			}
		}
	}
	if len(lanes) > 0 {
		s.onLanes(lanes...)
	}
}

// flows waits until all edges are on the paths that they should have, and some
// messages have come on each.
func (s *stage) flows() {
	s.t.Helper()
	s.lanesUp()
	for _, id := range []string{"first", "second"} {
		for _, input := range matrixPorts {
			s.world.got(s.node(id), input, 5)
		}
	}
}

// trapped has the user's code of a receiver stop inside a message, and waits until
// its queues are full.
func (s *stage) trapped(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		s.node(id).do(order{Do: "trap"})
	}
	if s.random {
		return
	}
	s.eventually("full queues", func(status wire.Status) error {
		full := map[string]int{}
		var lacks error
		for _, id := range ids {
			for _, input := range matrixPorts {
				if e := edgeTo(s.t, status, id+"/"+input); e.Queued+e.InFlight < e.QueueSize {
					lacks = fmt.Errorf("%s: %d queued, %d in flight", e.To, e.Queued, e.InFlight)
				} else {
					full[input]++
				}
			}
		}
		if full["free"] == len(ids) && full["held"] > 0 { // one that is full holds the sender back from the other
			return nil
		}
		return lacks
	})
}

// mark is the moment before it happens.
func (s *stage) mark() {
	s.t.Helper()
	for _, c := range s.nodes {
		if !c.ended() {
			s.noted[c.id] = len(c.report().Notes)
		}
	}
	s.seen = s.broker.log.len()
	if s.random {
		moment()
	}
}

// open lets the user's code of nodes go on.
func (s *stage) open(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		s.node(id).do(order{Do: "open"})
	}
}

// die ends a node in one of the ways that need nobody's help.
func (s *stage) die(c *child) {
	s.t.Helper()
	status := 0
	switch s.cell.event {
	case eventKill:
		c.kill()
		status = -1
	case eventTerm:
		c.signal(syscall.SIGTERM)
	case eventCrash:
		c.crashes = true
		c.do(order{Do: "open", How: crash})
		status = 2
	case eventExit:
		c.do(order{Do: "open", How: exit})
	}
	select {
	case <-c.done:
	case <-time.After(patience):
		s.t.Fatalf("node %s does not end\n%s", c.id, c.stderr)
	}
	if got := c.cmd.ProcessState.ExitCode(); got != status {
		s.t.Errorf("node %s ended with %d, want %d\n%s", c.id, got, status, c.stderr)
	}
}

// bury enters what a process had got before it died.
func (s *stage) bury(id string, r *report) {
	for input, in := range r.Inputs {
		for _, l := range in.Lives {
			s.got[id+"/"+input] += l.Count
		}
	}
	s.away[id] = true
}

// progress is how many messages the living sender has got rid of.
func (s *stage) progress(output string) uint64 {
	s.t.Helper()
	return s.node("source").report().Sending[output].Sent
}

// goesOn waits until the sender has sent more on an output.
func (s *stage) goesOn(output string, before, more uint64) {
	s.t.Helper()
	s.eventually("the sender goes on", func(wire.Status) error {
		if n := s.progress(output); n < before+more {
			return fmt.Errorf("%d messages, %d before", n, before)
		}
		return nil
	})
}

// drops is what the log says was lost on the edges to a node, or to all for an
// empty id, from the moment on.
func (s *stage) drops(id string) string {
	lost := map[string]map[string]bool{"held": {}, "free": {}}
	for _, b := range s.brokers() {
		from := 0
		if b == s.brokers()[0] {
			from = s.seen
		}
		for _, e := range b.log.all(from) {
			node, input, _ := strings.Cut(e.text("to"), "/")
			reason := e.text("reason")
			always := input == "free" && reason == wire.DropQueueFull.String()
			if e.text("logger") == "drop" && lost[input] != nil && (id == "" || id == node) && !always {
				lost[input][reason] = true
			}
		}
	}
	var parts []string
	for _, input := range matrixPorts {
		name := map[string]string{"held": "block", "free": "drop-oldest"}[input]
		if reasons := slices.Sorted(maps.Keys(lost[input])); len(reasons) > 0 {
			parts = append(parts, name+": "+strings.Join(reasons, ", "))
		}
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, "; ")
}

// brokers are those of this world from the one on to which it happened.
func (s *stage) brokers() []*daemon { return append(slices.Clone(s.past), s.broker) }

// lines is what the log says from the moment on, besides drops and what is said
// of every start.
func (s *stage) lines() string {
	said := map[string]bool{}
	for i, b := range s.brokers() {
		from := 0
		if i == 0 {
			from = s.seen
		}
		for _, e := range b.log.all(from) {
			switch {
			case e.text("logger") == "drop", e.msg() == "edge path", e.msg() == "node joined", e.msg() == filler,
				// How long it takes is chance:
				e.msg() == heldTooLong && s.cell.event != eventStop, e.msg() == evacuated && s.cell.event != eventBlock,
				e.msg() == silentNode && s.cell.event != eventStop, e.msg() == livesOn,

				e.msg() == "starting", e.msg() == "listening", e.msg() == "dataflow loaded", e.msg() == "limits lowered to what the limit of open files allows":
				continue
			}
			line := e.text("level") + " " + strconv.Quote(e.msg())
			for _, key := range []string{"code", "reason"} {
				text := withoutErrno(e).text(key)
				if strings.Contains(text, "write:") {
					text = brokenOff // which direction finds it out first is chance
				}
				if text != "" {
					line += " " + key + "=" + strconv.Quote(numbers(text))
				}
			}
			said["`"+line+"`"] = true
		}
	}
	if len(said) == 0 {
		return "nothing"
	}
	return strings.Join(slices.Sorted(maps.Keys(said)), "\n")
}

const brokenOff = "peer closed the connection without goodbye"

// events is what a living node was told from the moment on.
func (s *stage) events(id string) string {
	s.t.Helper()
	c := s.node(id)
	r := c.report()
	told := map[string]bool{}
	for _, note := range r.Notes[min(s.noted[id], len(r.Notes)):] {
		for _, input := range matrixPorts {
			note = strings.ReplaceAll(note, " "+input+":", ":")
		}
		note, _, _ = strings.Cut(note, ": read:")
		if s.cell.event == eventCut && strings.HasPrefix(note, node.EventInputClosed.String()) {
			continue // it is told so only if it has read all before the sender is back
		}
		told[numbers(note)] = true
	}
	if r.Reconnects > 0 {
		told["reconnected"] = true
	}
	if len(told) == 0 {
		return ""
	}
	return strings.Join(slices.Sorted(maps.Keys(told)), ", ")
}

// saw puts together who was told what.
func (s *stage) saw(parts ...string) string {
	s.t.Helper()
	tell := func(name, id string) {
		if told := s.events(id); told != "" {
			parts = append(parts, name+": "+told)
		}
	}
	victim := ""
	switch s.cell.role {
	case roleReceiver:
		tell("other receiver", "second")
		victim = "first"
	case roleSender:
		victim = "source"
	}
	switch {
	case s.cell.role == roleReceiver:
	case s.events("first") == s.events("second"):
		tell("receivers", "first")
	default:
		tell("on the lane", "first")
		tell("brokered", "second")
	}
	if victim != "source" {
		tell("sender", "source")
	}
	if victim != "" && s.cell.event == eventCut {
		tell("itself", victim)
	}
	return strings.Join(parts, "; ")
}

// end stops the traffic, and compares all books.
func (s *stage) end() {
	s.t.Helper()
	s.flows()
	source := s.node("source")
	source.do(order{Do: "halt"})
	for output, reply := range s.sending {
		r := source.result(reply)
		if r.NoMemory > 0 {
			s.t.Errorf("%d messages without memory: %s", r.NoMemory, r.NoMemoryText)
		}
		s.sent[output] += r.Sent
		source.do(order{Do: "close_output", Output: output})
	}
	for _, id := range []string{"first", "second"} {
		for _, input := range matrixPorts {
			for _, l := range s.closed(s.node(id), input).Lives {
				s.got[id+"/"+input] += l.Count
			}
		}
		s.node(id).do(order{Do: "release"})
	}
	status := s.eventually("the last messages", settled)
	s.slotsFree(source)
	s.checkBooks(status)
	if s.cell.role == roleBroker && s.cell.event != eventBlock {
		s.by.checkAfter(s.cell)
	} else {
		s.by.check()
	}
	s.finish()
	for _, b := range s.brokers() {
		for _, e := range b.log.all(0) {
			if e.msg() == "lane failed" || e.msg() == "lane damaged" { // nobody has done anything to one
				s.t.Errorf("in the log: %s", e.raw)
			}
		}
	}
	if lost := s.checkPast(status); lost > 0 && s.cell.event == eventKill {
		s.row.lost += ", and what was under way through brokerd, without a line"
	}
}

// checkBooks compares what the broker says with what the receivers got and the
// sender sent.
func (s *stage) checkBooks(status wire.Status) {
	s.t.Helper()
	for _, id := range []string{"first", "second"} {
		for _, input := range matrixPorts {
			e := edgeTo(s.t, status, id+"/"+input)
			got, sent := s.got[e.To], s.sent[input]
			if len(s.past) > 0 { // there is one before this that has counted, too
				continue
			}
			// What a process behind the broker had taken and not reported when its
			// connection broke counts as lost.
			untold := uint64(0)
			if s.away[id] && !s.onLane(id) {
				untold = min(got-e.Delivered, e.Drops[wire.DropReceiverGone.String()])
			}
			if e.Delivered+untold != got && !s.unsure[e.To] {
				s.t.Errorf("%s got %d messages, the broker says %d", e.To, got, e.Delivered)
			}
			got -= untold
			missed := sent - e.Published + e.NoReceiver
			switch {
			case s.away["source"]:
			case missed > sent || missed > 0 && !s.away[id]:
				s.t.Errorf("%s: %d messages published, the broker says %d and %d without receiver", e.To, sent, e.Published, e.NoReceiver)
			case got+e.Dropped+missed != sent && !s.unsure[e.To]:
				s.t.Errorf("%s: %d received + %d dropped + %d without receiver, of %d", e.To, got, e.Dropped, missed, sent)
			}
			if input == "held" && !s.away[id] && e.Dropped > 0 && s.cell.event != eventCut {
				s.t.Errorf("%s blocks, and lost %v", e.To, e.Drops)
			}
		}
	}
}

// checkPast compares the logs of all brokers with what was received, if one of
// them has died. It returns how many messages were lost without a word.
func (s *stage) checkPast(status wire.Status) (lost uint64) {
	s.t.Helper()
	if len(s.past) == 0 {
		return 0
	}
	logged := map[string]uint64{}
	for _, b := range s.brokers() {
		sums, wrong := b.log.drops()
		for _, err := range wrong {
			s.t.Error(err)
		}
		for key, sum := range sums {
			logged[key.to] += sum.count
		}
	}
	for _, id := range []string{"first", "second"} {
		for _, input := range matrixPorts {
			to := id + "/" + input
			got, sent, none := s.got[to], s.sent[input], edgeTo(s.t, status, to).NoReceiver
			total := got + logged[to] + none
			s.t.Logf("%s: %d received + %d logged as dropped + %d without receiver, of %d", to, got, logged[to], none, sent)
			if total > sent || s.onLane(id) && s.cell.event == eventKill && (total < sent || none > 0) {
				s.t.Errorf("%s: %d received + %d logged as dropped + %d without receiver, of %d", to, got, logged[to], none, sent)
			}
			lost += sent - min(sent, total)
		}
	}
	return lost
}
