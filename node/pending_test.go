package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// queuedNow returns how much waits for Next.
func (n *Node) queuedNow() int {
	n.receiver.mu.Lock()
	defer n.receiver.mu.Unlock()
	return n.receiver.queue.len()
}

// eventsUntilStop gives the events up to EventStop in short.
func eventsUntilStop(t *testing.T, n *Node) string {
	t.Helper()
	var got []string
	for ev := range n.Events(testContext(t)) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s", ev.Kind, ev.Input, ev.Reason)))
		ev.Message.Release()
		if ev.Kind == EventStop {
			break
		}
	}
	return strings.Join(got, ", ")
}

func TestRepeatedEventsAreOne(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	c.send(&wire.InputClosed{Input: 0, Reason: "first"})
	for i := range 1000 {
		c.send(&wire.InputClosed{Input: 0, Reason: fmt.Sprint(i)}, &wire.InputClosed{Input: 1, Reason: "left"}, &wire.Stop{Reason: fmt.Sprint(i)})
	}
	c.settled()
	if got := n.queuedNow(); got != 3 {
		t.Errorf("%d events wait", got)
	}
	if got := eventsUntilStop(t, n); got != "input closed in 999, input closed other left, stop  999" {
		t.Errorf("got %s", got)
	}
	// What was handed out is over: the next is news.
	c.send(&wire.InputClosed{Input: 0, Reason: "again"}, &wire.Stop{Reason: "again"})
	if got := eventsUntilStop(t, n); got != "input closed in again, stop  again" {
		t.Errorf("got %s", got)
	}
}

// TestClosedAgainBehindMessages: an input that closes again after further
// messages is told again, in order.
func TestClosedAgainBehindMessages(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	go func() {
		expectFrom[*wire.Next](c)
		closed := &wire.InputClosed{Input: 0, Reason: "left"}
		c.send(closed, closed, &wire.Inputs{Items: []wire.Input{inline(1, "x")}}, closed, closed, &wire.Stop{Reason: "end"})
	}()
	if got := eventsUntilStop(t, n); got != "input closed in left, input in, input closed in left, stop  end" {
		t.Errorf("got %s", got)
	}
}

func TestLossesDoNotFillTheQueue(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	for round := range 100 {
		c.send(&wire.InputClosed{Input: 0, Reason: "left"}, &wire.Ping{Nonce: 1})
		expectFrom[*wire.Pong](c)
		if round%2 == 0 {
			c.send(wire.Errorf(wire.CodeInternal, "round %d", round))
		}
		_ = c.conn.Close()
		c = p.accept().welcomeIn()
		eventually(t, "connection", func() bool { return n.Stats().Reconnects == uint64(round+1) })
	}
	c.send(&wire.InputClosed{Input: 0, Reason: "new"}, &wire.Stop{Reason: "end"})
	c.settled()
	got := eventsUntilStop(t, n)
	for strings.Contains(got, "error, ") {
		got = strings.Replace(got, "error, ", "", 1)
	}
	if want := "input closed in left, reconnected  connection to the broker was lost, input closed in new, stop  end"; got != want {
		t.Errorf("got %s", got)
	}
}
