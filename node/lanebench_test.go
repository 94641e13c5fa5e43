//go:build linux

package node

import (
	"context"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// TestLaneAllocates: nothing, in steady state.
func TestLaneAllocates(t *testing.T) {
	w, _ := newEvacuatingLane(t, 16, wire.PolicyDropOldest, 10_000, 1<<30)
	ctx := testContext(t)
	payload := make([]byte, 64)
	meta := []Attr{Int("n", 1)}
	for name, send := range map[string]func() error{
		"Send":          func() error { return w.out.Send(ctx, payload) },
		"Send metadata": func() error { return w.out.Send(ctx, payload, meta...) },
		"Loan": func() error {
			loan, err := w.out.Loan(ctx, 64)
			if err != nil {
				return err
			}
			return loan.Publish(ctx)
		},
	} {
		once := func() {
			if err := send(); err != nil {
				t.Fatal(err)
			}
			ev, err := w.receiver.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			ev.Message.Release()
		}
		once()
		if n := testing.AllocsPerRun(1000, once); n != 0 {
			t.Errorf("%s, Next, Release: %v allocations", name, n)
		}
	}
	// Evicting, too.
	if n := testing.AllocsPerRun(1000, func() { _ = w.out.Send(ctx, payload) }); n != 0 {
		t.Errorf("Send to a full lane: %v allocations", n)
	}
}

func BenchmarkLane(b *testing.B) {
	const batch = 64
	for _, size := range []int{64, 4096} {
		payload := make([]byte, size)
		b.Run("Send"+sizeName(size), func(b *testing.B) {
			w, _ := newEvacuatingLane(b, batch, wire.PolicyDropOldest, 10_000, 1<<30)
			ctx := context.Background()
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i++ {
				if err := w.out.Send(ctx, payload); err != nil {
					b.Fatal(err)
				}
				if i%batch == batch-1 {
					b.StopTimer()
					w.drainLane(b, batch)
					b.StartTimer()
				}
			}
		})
		b.Run("Next"+sizeName(size), func(b *testing.B) {
			w, _ := newEvacuatingLane(b, batch, wire.PolicyDropOldest, 10_000, 1<<30)
			ctx := context.Background()
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i++ {
				if i%batch == 0 {
					b.StopTimer()
					for range batch {
						if err := w.out.Send(ctx, payload); err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
				}
				ev, err := w.receiver.Next(ctx)
				if err != nil {
					b.Fatal(err)
				}
				ev.Message.Release()
			}
		})
		b.Run("Both"+sizeName(size), func(b *testing.B) {
			w, _ := newEvacuatingLane(b, batch, wire.PolicyDropOldest, 10_000, 1<<30)
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if err := w.out.Send(ctx, payload); err != nil {
					b.Fatal(err)
				}
				ev, err := w.receiver.Next(ctx)
				if err != nil {
					b.Fatal(err)
				}
				ev.Message.Release()
			}
		})
		b.Run("Full"+sizeName(size), func(b *testing.B) {
			w, _ := newEvacuatingLane(b, batch, wire.PolicyDropOldest, 10_000, 1<<30)
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if err := w.out.Send(ctx, payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLaneStream sends as fast as the receiver takes, each on its own core.
func BenchmarkLaneStream(b *testing.B) {
	w, _ := newEvacuatingLane(b, 128, wire.PolicyBlock, 10_000, 1<<30)
	ctx := context.Background()
	payload := make([]byte, 64)
	b.ReportAllocs()
	b.ResetTimer()
	received := make(chan struct{})
	go func() {
		defer close(received)
		for range b.N {
			ev, err := w.receiver.Next(ctx)
			if err != nil {
				b.Error(err)
				return
			}
			ev.Message.Release()
		}
	}()
	for range b.N {
		if err := w.out.Send(ctx, payload); err != nil {
			b.Fatal(err)
		}
	}
	<-received
}

func sizeName(size int) string {
	if size < 1024 {
		return "64B"
	}
	return "4KiB"
}

func (w *laneWorld) drainLane(b *testing.B, n int) {
	for range n {
		ev, err := w.receiver.Next(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		ev.Message.Release()
	}
}
