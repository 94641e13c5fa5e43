package lane

import (
	"testing"

	"github.com/brokerd/brokerd/wire"
)

func BenchmarkMessage(b *testing.B) {
	cfg := Config{Lane: 7, QueueSize: 64, Policy: wire.PolicyDropOldest}
	words := make([]uint64, Bytes(64)/8)
	if err := Init(words, cfg); err != nil {
		b.Fatal(err)
	}
	p, err := NewProducer(words, cfg)
	if err != nil {
		b.Fatal(err)
	}
	c, err := NewConsumer(words, cfg)
	if err != nil {
		b.Fatal(err)
	}
	ledger := NewLedger(make([]uint64, 8))
	d := Descriptor{Seq: 1, TimeNS: 2, Region: 3, Offset: 4096, Length: 64}
	var got Descriptor
	b.Run("push+pop+lend+clear", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ledger.Lend(3, 1<<5)
			if v, _, _ := p.Push(&d, 1); v != Pushed {
				b.Fatal(v)
			}
			if v, _, _ := c.Pop(&got); v != Got {
				b.Fatal(v)
			}
			ledger.Clear(3, 5)
		}
	})
	b.Run("push+pop", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.Push(&d, 1)
			c.Pop(&got)
		}
	})
	b.Run("lend+clear", func(b *testing.B) {
		for b.Loop() {
			ledger.Lend(3, 1<<5)
			ledger.Clear(3, 5)
		}
	})
	b.Run("held", func(b *testing.B) {
		for b.Loop() {
			ledger.Held(3, 1)
		}
	})
	b.Run("empty", func(b *testing.B) {
		for b.Loop() {
			c.Pop(&got)
		}
	})
	b.Run("ready", func(b *testing.B) {
		for b.Loop() {
			c.Ready()
		}
	})
	b.Run("ring-awake", func(b *testing.B) {
		bell := NewBell(make([]uint64, 16))
		for b.Loop() {
			bell.Ring()
		}
	})
	b.Run("push-evict", func(b *testing.B) {
		for b.Loop() {
			p.Push(&d, 1)
		}
	})
}
