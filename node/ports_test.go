package node

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// settled waits until the node has handled what was sent to it so far.
func (c *peerConn) settled() {
	c.p.t.Helper()
	c.send(&wire.Ping{Nonce: 77})
	skipTo(c, func(m *wire.Pong) bool { return m.Nonce == 77 })
}

// mustWait checks that a message does not go out without a Flow.
func mustWait(t *testing.T, o *Output) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	wantErr(t, o.Send(ctx, []byte("early")), context.DeadlineExceeded)
}

func TestPortsReload(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	aux := mustOutput(t, n, "aux")
	ports := p.ports
	ports.Outputs = []wire.OutputPort{{ID: "out", Open: true}, {ID: "aux", Open: false}, {ID: "new", Open: true}}
	c.send(&ports, &wire.Flow{Output: 2, Receivers: 1, Window: wire.WindowUnlimited})
	eventually(t, "new output", func() bool { o, err := n.Output("new"); return err == nil && o.Receivers() == 1 })
	err := aux.Send(testContext(t), nil)
	wantErr(t, err, ErrOutputClosed)
	if !strings.Contains(err.Error(), "does not have it any more") {
		t.Errorf("error does not say why: %v", err)
	}
	ports.Outputs[1].Open = true
	c.send(&ports)
	c.settled()
	mustWait(t, aux)
	c.send(&wire.Flow{Output: 1, Receivers: 1, Window: wire.WindowUnlimited})
	if err := aux.Send(testContext(t), nil); err != nil {
		t.Fatal(err)
	}
}

// TestOutputComesBack: an output that a reload removed comes back in the same
// session, at another position or at its old one. At its old one its count of
// Publishes goes on, at another one it begins anew.
func TestOutputComesBack(t *testing.T) {
	for name, back := range map[string][]wire.OutputPort{
		"new position":            {{ID: "out"}, {ID: "aux", Open: true}, {ID: "out", Open: true}},
		"new position, once more": {{ID: "out"}, {ID: "aux", Open: true}, {ID: "out", Open: true}, {ID: "out"}},
		"old position":            {{ID: "out", Open: true}, {ID: "aux", Open: true}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			n, c := p.connect(p.config())
			out := mustOutput(t, n, "out")
			c.send(&wire.Flow{Output: 0, Epoch: 5, Receivers: 1, Window: 3})
			for range 3 {
				if err := out.Send(testContext(t), nil); err != nil {
					t.Fatal(err)
				}
				expectFrom[*wire.Publish](c)
			}
			ports := p.ports
			ports.Outputs = []wire.OutputPort{{ID: "out"}, {ID: "aux", Open: true}}
			c.send(&ports)
			c.settled()
			if got := out.Receivers(); got != 0 {
				t.Errorf("%d receivers of a removed output", got)
			}
			wantErr(t, out.Send(testContext(t), nil), ErrOutputClosed)

			ports.Outputs = back
			index := wire.OutputIndex(slices.Index(back, wire.OutputPort{ID: "out", Open: true}))
			c.send(&ports)
			if index != 0 {
				c.send(&wire.Flow{Output: 0, Epoch: 9, Receivers: 7, Window: wire.WindowUnlimited})
			}
			c.settled()
			if out.Receivers() != 0 {
				t.Error("the flow of a closed position counts")
			}
			mustWait(t, out)
			before := uint64(0)
			if index == 0 {
				before = 3
			}
			c.send(&wire.Flow{Output: index, Epoch: 1, Receivers: 1, Window: before + 2})
			for seq := wire.Seq(4); seq <= 5; seq++ {
				if err := out.Send(testContext(t), nil); err != nil {
					t.Fatal(err)
				}
				if got := expectFrom[*wire.Publish](c); got.Output != index || got.Epoch != 1 || got.Seq != seq {
					t.Errorf("got %s", got)
				}
			}
			mustWait(t, out)
			// The same Ports again changes nothing.
			c.send(&ports, &wire.Flow{Output: index, Epoch: 1, Receivers: 1, Window: before + 3})
			if err := out.Send(testContext(t), nil); err != nil {
				t.Fatal(err)
			}
			expectFrom[*wire.Publish](c)
			mustWait(t, out)

			want := []string{"out", "aux"}
			if index != 0 {
				want = []string{"aux", "out"}
			}
			if got := n.Outputs(); !slices.Equal(got, want) {
				t.Errorf("outputs %v, want %v", got, want)
			}
		})
	}
}

func TestInputComesBack(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	ports := p.ports
	ports.Inputs = []wire.InputPort{
		{ID: "in", Source: "camera/image", QueueSize: 10},
		{ID: "other", Source: "timer/millis/100", QueueSize: 10, Open: true},
		{ID: "in", Source: "camera/raw", QueueSize: 4, Open: true},
	}
	c.send(&ports)
	c.settled()
	got := n.Inputs()
	if len(got) != 2 || got[0].ID != "other" || got[1].ID != "in" || got[1].Source != "camera/raw" || !got[1].Open {
		t.Errorf("inputs %+v", got)
	}
}

// TestOutputCloseIsToldOnce: later Ports do not repeat it, unless the broker has
// opened the output again.
func TestOutputCloseIsToldOnce(t *testing.T) {
	p := newPeer(t)
	n, c := p.connect(p.config())
	if err := mustOutput(t, n, "aux").Close(); err != nil {
		t.Fatal(err)
	}
	expectFrom[*wire.OutputClose](c)
	ports := p.ports
	for range 3 {
		c.send(&ports)
	}
	c.send(&wire.Ping{Nonce: 1})
	expectFrom[*wire.Pong](c) // and no OutputClose before it

	ports.Outputs = []wire.OutputPort{{ID: "out", Open: true}, {ID: "aux"}, {ID: "aux", Open: true}}
	c.send(&ports)
	if got := expectFrom[*wire.OutputClose](c); got.Output != 2 {
		t.Errorf("got %s", got)
	}
}
