//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// receiver has it happen to the first receiver.
func (s *stage) receiver() {
	s.t.Helper()
	victim := s.node("first")
	inside := !s.random || s.cell.event == eventCrash || s.cell.event == eventExit || s.cell.event == eventBlock
	if inside && s.cell.event != eventBlock {
		s.trapped("first")
	}
	s.mark()
	before, r := s.progress("held"), victim.report()
	switch s.cell.event {
	case eventKill, eventTerm, eventCrash, eventExit:
		s.unsure["first/held"], s.unsure["first/free"] = s.random, s.random
		s.die(victim)
		s.bury("first", r)
		s.gone("first")
		s.goesOn("held", before, 20)
		s.goesOn("free", 0, 20)
		s.note("the sender that waits for it goes on at once", "receiver_gone")
		s.receive("first")
	case eventStop:
		victim.signal(syscall.SIGSTOP)
		s.heldUp()
		s.note("the sender waits for the edge that blocks", "queue_full")
		victim.signal(syscall.SIGCONT)
		victim.do(order{Do: "recheck"})
	case eventBlock:
		s.trapped("first")
		s.heldUp()
		s.note("the sender waits for the edge that blocks", "queue_full")
		victim.do(order{Do: "recheck"})
	case eventCut:
		s.away["first"] = true
		victim.do(order{Do: "cut"})
		s.back("first")
		if inside {
			s.goesOn("held", before, 1)
		}
		s.note("the sender goes on until the queue is full again", "receiver_gone")
		victim.do(order{Do: "recheck"})
	}
	if inside && !victim.ended() {
		s.open("first")
	}
	s.flows()
}

// heldUp waits until the log tells of a receiver that does not go on, and looks
// whether the sender waits for it, and only where it has to.
func (s *stage) heldUp() {
	s.t.Helper()
	if s.random {
		moment() // it may hold nothing
		return
	}
	if s.cell.event == eventStop { // it cannot do anything about it
		s.broker.log.await(s.t, s.seen, heldTooLong, "holder", flowName+"/first")
	} else {
		s.broker.log.await(s.t, s.seen, evacuated, "holder", flowName+"/first")
	}
	blocked, free := s.progress("held"), s.progress("free")
	s.goesOn("free", free, 20)
	if n := s.progress("held"); n != blocked {
		s.t.Errorf("the sender should wait, but has sent %d messages, then %d", blocked, n)
	}
	if s.cell.event == eventStop {
		s.broker.log.await(s.t, s.seen, silentNode)
	}
}

// What the log says of a receiver that holds a message for too long.
const (
	heldTooLong = "message held too long"
	evacuated   = "message evacuated"
)

const (
	silentNode = "node does not answer; it is on this machine, so it is left alone"
	// livesOn is said of a process that takes its time to end, too.
	livesOn = "node's process lives on without a connection; what it holds stays out of use until it ends or lets go"
)

// back waits until a node has lost its connection, and has another one.
func (s *stage) back(id string) {
	s.t.Helper()
	s.broker.log.await(s.t, s.seen, "node left", "node", id)
	s.broker.log.await(s.t, s.seen, "node joined", "node", id)
}

// note fills in most of the row, once the log has a drop of the reason; empty: none
// is due.
func (s *stage) note(first string, reason string) {
	s.t.Helper()
	if s.random {
		return
	}
	edges := ""
	if s.cell.role == roleReceiver {
		edges = "first"
	}
	if reason != "" {
		s.broker.log.await(s.t, s.seen, "message dropped", "to", edges, "reason", reason)
	}
	s.row.saw = s.saw(first)
	s.row.lost = s.drops(edges)
	s.row.logged = s.lines()
	s.row.kept = s.kept()
}

// kept is what is set aside for a process that does not go on.
func (s *stage) kept() string {
	s.t.Helper()
	status := s.status()
	var kept []string
	if n := status.Memory.RetiredRegions; n > 0 {
		kept = append(kept, "a region of which it holds messages")
	}
	for _, n := range status.Nodes {
		if n.Node == "source" && !n.Connected && n.Regions > 0 {
			kept = append(kept, "regions of the sender")
		}
	}
	if len(kept) == 0 {
		return "nothing"
	}
	return strings.Join(kept, ", ")
}

// sender has it happen to the sender.
func (s *stage) sender() {
	s.t.Helper()
	receivers := []string{"first", "second"}
	source := s.node("source")
	s.trapped(receivers...)
	if s.cell.event == eventBlock {
		s.mark()
	}
	source.do(order{Do: "trap"})
	if s.cell.event != eventBlock {
		s.mark()
	}
	switch s.cell.event {
	case eventKill, eventTerm, eventCrash, eventExit:
		s.die(source)
		s.away["source"] = true
		s.gone("source")
		s.open(receivers...)
		for _, id := range receivers {
			for _, input := range matrixPorts {
				s.lastMessages(id, input, s.closed(s.node(id), input))
			}
		}
		s.eventually("the sender's memory", func(status wire.Status) error {
			for _, n := range status.Nodes {
				if n.Node == "source" && n.Regions > 0 {
					return fmt.Errorf("%d regions", n.Regions)
				}
			}
			return nil
		})
		s.note("what it has sent can be read to its end", "")
		s.transmit()
	case eventStop:
		source.signal(syscall.SIGSTOP)
		s.open(receivers...)
		s.emptied()
		s.broker.log.await(s.t, s.seen, silentNode)
		s.note("no more messages", "")
		source.signal(syscall.SIGCONT)
	case eventBlock:
		s.open(receivers...)
		s.emptied()
		s.note("no more messages", "")
	case eventCut:
		source.do(order{Do: "cut"})
		s.back("source")
		s.open(receivers...)
		s.emptied()
		s.note("no more messages until it goes on; `InputClosed` to who has read all before it is back", "")
	}
	if !source.ended() {
		s.open("source")
	}
	s.flows()
}

// lastMessages looks whether a receiver has got all that a dead sender had sent.
func (s *stage) lastMessages(id, input string, in *inputReport) {
	s.t.Helper()
	if len(in.Lives) != 1 {
		s.t.Errorf("%s/%s has messages of %d senders", id, input, len(in.Lives))
		return
	}
	l := in.Lives[0]
	if input == "held" && (l.Dropped > 0 || len(l.Spans) != 1 || l.Spans[0] != [2]uint64{1, l.Count}) {
		s.t.Errorf("%s/%s has lost something: %+v", id, input, l)
	}
}

// emptied waits until the receivers have got all that was sent.
func (s *stage) emptied() {
	s.t.Helper()
	s.eventually("empty queues", func(status wire.Status) error {
		for _, e := range status.Edges {
			if strings.HasPrefix(e.From, "source/") && e.Queued+e.InFlight > 0 {
				return fmt.Errorf("%s: %d queued, %d in flight", e.To, e.Queued, e.InFlight)
			}
		}
		return nil
	})
}

// checkAfter is check after all nodes have been without a broker, or an edge
// without its receiver: what was published then has no receiver. What was in the
// hands of a broker that ended may be lost.
func (b *bystanders) checkAfter(c cell) {
	b.w.t.Helper()
	b.source.do(order{Do: "halt"})
	s := b.source.result(b.reply)
	b.source.do(order{Do: "close_output", Output: "frames"})
	l := b.w.closed(b.sink, "frames").Lives[0]
	e := edgeTo(b.w.t, b.w.eventually("the bystanders' last message", settled), "sink/frames")
	var logged uint64
	for _, d := range append(slices.Clone(b.w.past), b.w.broker) {
		sums, _ := d.log.drops()
		for key, sum := range sums {
			if key.to == "sink/frames" {
				logged += sum.count
			}
		}
	}
	account := l.Count + logged + e.NoReceiver
	b.w.t.Logf("bystanders: %d sent, %d received, %d logged as dropped, %d without receiver", s.Sent, l.Count, logged, e.NoReceiver)
	whole := c.event == eventStop || c.event == eventKill && c.way != wayBrokered
	ended := c.event == eventTerm || c.event == eventKill || c.event == eventCut // and what was in its sockets is lost
	if account > s.Sent || !ended && account < s.Sent || whole && l.Count < s.Sent || s.NoMemory > 0 {
		b.w.t.Errorf("bystanders: %+v sent, %+v received, edge %+v", s, l, e)
	}
	if s.MaxGap > goOnWithinRestart {
		b.w.t.Errorf("bystanders: no message for %v", s.MaxGap)
	}
}

// daemon has it happen to brokerd.
func (s *stage) daemon() {
	s.t.Helper()
	receivers := []string{"first", "second"}
	s.trapped(receivers...)
	s.mark()
	switch s.cell.event {
	case eventKill:
		s.crash()
		s.row.kept = fmt.Sprintf("its names in %s", shmDir)
		if len(shmNames(s.prefix)) == 0 {
			s.row.kept = "nothing"
		}
		s.open(receivers...)
		s.without()
		s.again()
	case eventTerm:
		b := s.broker
		s.signal(syscall.SIGTERM)
		if status := b.exit(s.t); status != 0 {
			s.t.Errorf("brokerd ended with %d", status)
		}
		b.control.Close()
		s.past = append(s.past, b)
		s.row.kept = "nothing"
		if names := shmNames(s.prefix); len(names) > 0 {
			s.row.kept = fmt.Sprintf("its names in %s", shmDir)
		}
		s.open(receivers...)
		s.without()
		s.again()
	case eventStop:
		s.signal(syscall.SIGSTOP)
		s.open(receivers...)
		s.without()
		s.row.kept = "everything"
		s.signal(syscall.SIGCONT)
	case eventCut:
		s.row.saw = "(all sockets of brokerd, the listening one too, are shut down from outside) nodes connect again"
		for _, id := range []string{"source", "first", "second"} {
			s.away[id] = true
		}
		s.cutBroker()
		s.open(receivers...)
	case eventBlock:
		s.plug()
		s.open(receivers...)
		s.flows()
		s.row.saw = "(its log is not read, and full) nothing: messages go on"
		time.Sleep(1200 * time.Millisecond) // more than one line of each edge is due
		s.unplug()
	}
	s.flows()
	if !s.random {
		s.row.saw = s.saw(s.row.saw)
		s.row.lost = s.drops("")
		s.row.logged = s.lines()
		if s.row.kept == "" {
			s.row.kept = s.kept()
		}
	}
}

// without looks how nodes fare without a broker.
func (s *stage) without() {
	s.t.Helper()
	var lanes []string
	for _, id := range []string{"first", "second"} {
		if s.onLane(id) {
			lanes = append(lanes, id)
		}
	}
	if len(lanes) == 0 || s.cell.event == eventTerm {
		time.Sleep(100 * time.Millisecond)
		s.row.saw = "messages wait until there is a broker again"
		return
	}
	for _, id := range lanes {
		if s.world.got(s.node(id), "free", 20); s.cell.way == wayLane {
			s.world.got(s.node(id), "held", 20)
		}
	}
	s.row.saw = "messages go on"
	if s.cell.way == wayBoth {
		before := s.progress("held")
		time.Sleep(50 * time.Millisecond)
		if n := s.progress("held"); n != before {
			s.t.Errorf("the sender should wait for the receiver behind brokerd, but has sent %d messages, then %d", before, n)
		}
		s.row.saw = "messages on lanes go on, but a sender that waits for the other receiver (`block`) stands still"
	}
}

// again starts brokerd at the same address.
func (s *stage) again() {
	s.t.Helper()
	s.startBroker(s.broker.addr)
	s.eventually("nodes are back", func(status wire.Status) (err error) {
		for _, n := range status.Nodes {
			if !n.Connected {
				return fmt.Errorf("%s is not", n.Node)
			}
		}
		s.foreignNames(func(format string, args ...any) { err = fmt.Errorf(format, args...) })
		return err
	})
}
