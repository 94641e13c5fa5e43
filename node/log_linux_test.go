package node

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// curiousHandler asks the node for all it can tell, as a user's handler may.
type curiousHandler struct {
	slog.Handler
	node   atomic.Pointer[Node]
	record chan string
}

func (h *curiousHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *curiousHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }

func (h *curiousHandler) Handle(_ context.Context, record slog.Record) error {
	n := h.node.Load()
	if n == nil {
		return nil
	}
	n.Held()
	n.Stats()
	n.Inputs()
	for _, id := range n.Outputs() {
		if o, err := n.Output(id); err == nil {
			_ = o.WaitReceivers(context.Background(), 0) // takes the output's mutex
		}
	}
	select {
	case h.record <- record.Message:
	default:
	}
	return nil
}

func (p *peer) connectCurious() (*Node, *peerConn, *curiousHandler) {
	h := &curiousHandler{record: make(chan string, 100)}
	cfg := p.config()
	cfg.Logger = slog.New(h)
	n, c := p.connect(cfg)
	h.node.Store(n)
	return n, c, h
}

func (h *curiousHandler) mustLog(t *testing.T, what string) {
	t.Helper()
	ctx := testContext(t)
	for {
		select {
		case got := <-h.record:
			if strings.Contains(got, what) {
				return
			}
		case <-ctx.Done():
			t.Fatalf("%q was not logged, or its handler hangs", what)
		}
	}
}

// TestLogHandlerMayAskTheNode: the node holds no lock while it logs.
func TestLogHandlerMayAskTheNode(t *testing.T) {
	t.Run("rejected message", func(t *testing.T) {
		p := newPeer(t)
		n, c, h := p.connectCurious()
		go func() {
			expectFrom[*wire.Next](c)
			c.send(&wire.Inputs{Items: []wire.Input{{Seq: 1, Token: 1, Region: 99, Offset: 4096, Length: 1}, inline(2, "good")}})
		}()
		got := make(chan Event, 1)
		go func() {
			ev, _ := n.Next(testContext(t))
			got <- ev
		}()
		h.mustLog(t, "cannot be read")
		if ev := <-got; ev.Message.Seq() != 2 {
			t.Errorf("got %+v", ev)
		}
	})
	t.Run("sender waits for memory", func(t *testing.T) {
		p := newPeer(t)
		n, c, h := p.connectCurious()
		o := mustOutput(t, n, "out")
		c.send(&wire.Flow{Output: 0, Epoch: 1, Receivers: 1, Window: 100})
		if err := o.WaitReceivers(testContext(t), 1); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		sent := make(chan error, 1)
		go func() { sent <- o.Send(ctx, make([]byte, 20_000)) }()
		for range 2 {
			c.send(&wire.RegionDenied{Request: expectFrom[*wire.RegionRequest](c).Request, Code: wire.CodeNoMemory})
		}
		h.mustLog(t, "waiting for shared memory")
		cancel()
		wantErr(t, <-sent, context.Canceled)
	})
}
