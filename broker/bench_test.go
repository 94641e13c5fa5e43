package broker

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/dataflow"
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

// As many small messages as go through without loss: the receiver's policy is
// block, so the sender keeps to its window.
func BenchmarkThroughput(b *testing.B) {
	for _, loops := range []int{1, 2} {
		b.Run(fmt.Sprintf("loops=%d", loops), func(b *testing.B) {
			yaml := strings.Replace(testFlow, "2000", "2000, policy: block", 1)
			tb := startBroker(b, func(cfg *Config) {
				cfg.EventLoops = loops
				cfg.Flows = []*dataflow.Flow{parseFlow(b, yaml)}
			})
			camera, sink := tb.join("camera"), tb.join("sink")
			_, _ = camera.SetDeadline(time.Time{}), sink.SetDeadline(time.Time{})
			sink.send(&wire.Next{Limit: 1 << 40})
			total := uint64(b.N)
			b.ResetTimer()
			go publishAll(camera, total)
			received, err := receiveAll(sink, total)
			b.StopTimer()
			if err != nil || received != total {
				b.Fatalf("%d of %d messages, %v", received, total, err)
			}
			b.ReportMetric(float64(received)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// publishAll sends as fast as the window allows.
func publishAll(p *peer, total uint64) {
	windows := make(chan *wire.Flow, 1024)
	go func() {
		defer close(windows)
		for {
			m, err := p.next()
			if err != nil {
				return
			}
			if flow, ok := m.(*wire.Flow); ok {
				f := *flow
				windows <- &f
			}
		}
	}()
	var now wire.Flow
	enc, out, payload := wire.NewEncoder(), []byte(nil), make([]byte, 64)
	for seq := uint64(0); seq < total; {
		for f := now; f.Window <= seq || f.Receivers == 0 || len(windows) > 0; f = now {
			next, ok := <-windows
			if !ok {
				return
			}
			now = *next
		}
		out = out[:0]
		for ; seq < min(now.Window, total) && len(out) < 32<<10; seq++ {
			out = enc.Append(out, &wire.Publish{Epoch: now.Epoch, Seq: wire.Seq(seq + 1), Length: 64, Payload: payload})
		}
		if _, err := p.Write(out); err != nil {
			return
		}
	}
}

// receiveAll takes messages and gives credits until it has seen the last one.
func receiveAll(p *peer, total uint64) (received uint64, err error) {
	enc, out := wire.NewEncoder(), []byte(nil)
	r := bufio.NewReaderSize(p, 64<<10)
	dec, buf := wire.NewDecoder(), []byte(nil)
	for received < total {
		if buf, err = wire.ReadFrame(r, 1<<30, buf); err != nil {
			return received, err
		}
		m, err := dec.Decode(buf)
		if err != nil {
			return received, err
		}
		inputs, ok := m.(*wire.Inputs)
		if !ok {
			continue
		}
		received += uint64(len(inputs.Items))
		out = enc.Append(out[:0], &wire.Next{Limit: 1 << 40, Consumed: received})
		if _, err := p.Write(out); err != nil {
			return received, err
		}
	}
	return received, nil
}
