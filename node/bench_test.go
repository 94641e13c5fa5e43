package node

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// swallow reads and throws away all that the node sends. If settle is true it
// answers each published token with Done, in batches.
func swallow(c *peerConn, settle bool) {
	decoder, encoder := wire.NewDecoder(), wire.NewEncoder()
	var buf, out []byte
	var done wire.Done
	_ = c.conn.SetReadDeadline(time.Time{})
	if !settle {
		_, _ = io.Copy(io.Discard, c.conn)
		return
	}
	for {
		body, err := wire.ReadFrame(c.conn, 1<<30, buf)
		if err != nil {
			return
		}
		buf = body
		m, err := decoder.Decode(body)
		if err != nil {
			c.p.t.Error(err)
			return
		}
		switch m := m.(type) {
		case *wire.RegionRequest:
			c.send(c.p.newRegion(m.SlotBytes, m.Slots).grant(m.Request))
		case *wire.Publish:
			if done.Tokens = append(done.Tokens, m.Token); len(done.Tokens) == 4 {
				out = encoder.Append(out[:0], &done)
				done.Tokens = done.Tokens[:0]
				if _, err := c.conn.Write(out); err != nil {
					return
				}
			}
		}
	}
}

func BenchmarkSendInline(b *testing.B) {
	p := newPeer(b)
	n, c := p.connect(p.config())
	go swallow(c, false)
	o := mustOutput(b, n, "out")
	payload := make([]byte, 64)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := o.Send(ctx, payload); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/float64(max(1, n.Stats().SocketWrites)), "msgs/write")
}

func BenchmarkSendPaced(b *testing.B) {
	p := newPeer(b)
	n, c := p.connect(p.config())
	go swallow(c, false)
	o := mustOutput(b, n, "out")
	payload := make([]byte, 64)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := o.Send(ctx, payload); err != nil {
			b.Fatal(err)
		}
		for begun := time.Now(); time.Since(begun) < 3*directWriteIdle; {
		}
	}
}

func BenchmarkLoanPublishShared(b *testing.B) {
	if shmpool.Dir == "" {
		b.Skip("no shared memory")
	}
	p := newPeer(b)
	n, c := p.connect(p.config())
	go swallow(c, true)
	o := mustOutput(b, n, "out")
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		loan, err := o.Loan(ctx, 64<<10)
		if err != nil {
			b.Fatal(err)
		}
		loan.Bytes()[0] = 1
		if err := loan.Publish(ctx); err != nil {
			b.Fatal(err)
		}
	}
	if st := n.Stats(); st.PayloadCopies != 0 {
		b.Errorf("%d copies", st.PayloadCopies)
	}
}

// pump answers each Next with as many messages as the broker's rule allows for a
// queue of size, encoded in advance.
func pump(c *peerConn, size uint64, item wire.Input, total uint64) {
	decoder, encoder := wire.NewDecoder(), wire.NewEncoder()
	var buf, out []byte
	delivered := uint64(0)
	_ = c.conn.SetReadDeadline(time.Time{})
	for {
		body, err := wire.ReadFrame(c.conn, 1<<30, buf)
		if err != nil {
			return
		}
		buf = body
		m, err := decoder.Decode(body)
		if err != nil {
			c.p.t.Error(err)
			return
		}
		next, ok := m.(*wire.Next)
		if !ok {
			continue
		}
		room := min(next.Limit, next.Consumed+size/2, total) - min(delivered, total)
		if room == 0 || next.Limit <= delivered {
			continue
		}
		out = encoder.BeginInputs(out[:0])
		for range room {
			delivered++
			item.Seq = wire.Seq(delivered)
			out = encoder.AppendInput(out, &item)
		}
		if _, err := c.conn.Write(encoder.EndInputs(out)); err != nil {
			return
		}
	}
}

func benchmarkReceive(b *testing.B, item func(p *peer, c *peerConn) wire.Input) {
	p := newPeer(b)
	p.ports.Inputs[0].QueueSize = 1000
	n, c := p.connect(p.config())
	go pump(c, 1000, item(p, c), 1<<62)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		ev, err := n.Next(ctx)
		if err != nil {
			b.Fatal(err)
		}
		ev.Message.Release()
	}
}

func BenchmarkReceiveInline(b *testing.B) {
	benchmarkReceive(b, func(*peer, *peerConn) wire.Input { return inline(1, fmt.Sprintf("%64d", 1)) })
}

func BenchmarkReceiveShared(b *testing.B) {
	if shmpool.Dir == "" {
		b.Skip("no shared memory")
	}
	benchmarkReceive(b, func(p *peer, c *peerConn) wire.Input {
		region := p.newRegion(64<<10, 4)
		c.send(region.open())
		return wire.Input{Token: 1, Region: region.id, Offset: region.write(p, 1, make([]byte, 64<<10)), Length: 64 << 10}
	})
}

// TestAllocations: the hot paths allocate nothing once they are warm.
func TestAllocations(t *testing.T) {
	if shmpool.Invariants {
		t.Skip("the race detector allocates")
	}
	p := newPeer(t)
	p.ports.Inputs[0].QueueSize = 1000
	ctx := context.Background()
	payload := make([]byte, 64)
	const runs = 5000

	t.Run("send inline", func(t *testing.T) {
		n, c := p.connect(p.config())
		go swallow(c, false)
		o := mustOutput(t, n, "out")
		checkAllocs(t, runs, func() error { return o.Send(ctx, payload) })
	})
	t.Run("receive inline", func(t *testing.T) {
		n, c := p.connect(p.config())
		go pump(c, 1000, inline(1, "0123456789"), 1<<62)
		checkAllocs(t, runs, func() error {
			ev, err := n.Next(ctx)
			ev.Message.Release()
			return err
		})
	})
	if shmpool.Dir == "" {
		return
	}
	t.Run("loan and publish", func(t *testing.T) {
		n, c := p.connect(p.config())
		go swallow(c, true)
		o := mustOutput(t, n, "out")
		checkAllocs(t, runs, func() error {
			loan, err := o.Loan(ctx, 64<<10)
			if err != nil {
				return err
			}
			return loan.Publish(ctx)
		})
	})
	t.Run("receive shared", func(t *testing.T) {
		n, c := p.connect(p.config())
		region := p.newRegion(64<<10, 4)
		c.send(region.open())
		go pump(c, 1000, wire.Input{Token: 1, Region: region.id, Offset: 4096, Length: 64 << 10}, 1<<62)
		checkAllocs(t, runs, func() error {
			ev, err := n.Next(ctx)
			ev.Message.Release()
			return err
		})
	})
}

// checkAllocs allows for what the scripted peer in this process allocates now and
// then; the library's own share is below one in a hundred calls.
func checkAllocs(t *testing.T, runs int, f func() error) {
	t.Helper()
	for range runs {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	got := testing.AllocsPerRun(runs, func() {
		if err := f(); err != nil {
			t.Error(err)
		}
	})
	if got > 0 {
		t.Errorf("%v allocations per call", got)
	}
}
