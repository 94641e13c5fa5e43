package broker

import (
	"bufio"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// One message at a time, from a sender through the broker to a receiver, inline,
// with raw clients: what sockets, sessions, router and outbox cost together.
func BenchmarkOneWay(b *testing.B) {
	for _, loops := range []int{1, 2} {
		for _, size := range []int{64, 4096, 1 << 20} {
			b.Run(fmt.Sprintf("loops=%d/%d", loops, size), func(b *testing.B) {
				tb := startBroker(b, func(cfg *Config) { cfg.EventLoops = loops })
				camera, sink := tb.join("camera"), tb.join("sink")
				camera.SetDeadline(time.Time{})
				sink.SetDeadline(time.Time{})
				sink.send(&wire.Next{Limit: 1 << 40})
				payload := make([]byte, size)
				enc, out := wire.NewEncoder(), []byte(nil)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				var seq uint64
				for b.Loop() {
					seq++
					out = enc.Append(out[:0], &wire.Publish{Seq: wire.Seq(seq), Length: uint64(size), Payload: payload})
					if _, err := camera.Write(out); err != nil {
						b.Fatal(err)
					}
					until[*wire.Inputs](sink)
					out = enc.Append(out[:0], &wire.Next{Limit: 1 << 40, Consumed: seq})
					if _, err := sink.Write(out); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// The same over one TCP connection without a broker, for comparison.
func BenchmarkOneWayDirect(b *testing.B) {
	for _, size := range []int{64, 4096, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer listener.Close()
			there, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer there.Close()
			here, err := listener.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer here.Close()
			got := make(chan struct{})
			go func() {
				var buf []byte
				for {
					body, err := wire.ReadFrame(here, 1<<30, buf)
					if err != nil {
						close(got)
						return
					}
					buf = body
					got <- struct{}{}
				}
			}()
			frame := wire.NewEncoder().Append(nil, &wire.Publish{Length: uint64(size), Payload: make([]byte, size)})
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := there.Write(frame); err != nil {
					b.Fatal(err)
				}
				<-got
			}
		})
	}
}

// As many small messages as go through, with credits for all.
func BenchmarkThroughput(b *testing.B) {
	for _, loops := range []int{1, 2} {
		b.Run(fmt.Sprintf("loops=%d", loops), func(b *testing.B) {
			tb := startBroker(b, func(cfg *Config) { cfg.EventLoops = loops })
			camera, sink := tb.join("camera"), tb.join("sink")
			camera.SetDeadline(time.Time{})
			sink.SetDeadline(time.Time{})
			sink.send(&wire.Next{Limit: 1 << 40})
			total := b.N
			b.ResetTimer()
			go func() {
				// At most so many are under way: fewer than the queue holds, so
				// that none is dropped.
				w := bufio.NewWriterSize(camera, 64<<10)
				enc, out, payload := wire.NewEncoder(), []byte(nil), make([]byte, 64)
				for seq := 1; seq <= total; seq++ {
					out = enc.Append(out[:0], &wire.Publish{Seq: wire.Seq(seq), Length: 64, Payload: payload})
					if _, err := w.Write(out); err != nil {
						return
					}
				}
				_ = w.Flush()
			}()
			enc, out := wire.NewEncoder(), []byte(nil)
			r := bufio.NewReaderSize(sink, 64<<10)
			dec, buf := wire.NewDecoder(), []byte(nil)
			var received uint64
			for last := wire.Seq(0); last < wire.Seq(total); {
				body, err := wire.ReadFrame(r, 1<<30, buf)
				if err != nil {
					b.Fatal(err)
				}
				buf = body
				m, err := dec.Decode(body)
				if err != nil {
					b.Fatal(err)
				}
				inputs, ok := m.(*wire.Inputs)
				if !ok {
					continue
				}
				received += uint64(len(inputs.Items))
				last = inputs.Items[len(inputs.Items)-1].Seq
				out = enc.Append(out[:0], &wire.Next{Limit: 1 << 40, Consumed: received})
				if _, err := sink.Write(out); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(received)/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric(float64(uint64(total)-received)/float64(total), "dropped/op")
		})
	}
}
