//go:build linux

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

const hostileFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: sink
    path: dynamic
    inputs:
      frames: {source: source/frames, policy: block, queue_size: 8}
  - id: guest
    path: dynamic
    outputs: [words]
    inputs:
      frames: {source: source/frames, queue_size: 8}
`

// bystanders are two nodes that must not notice anything.
type bystanders struct {
	w            *world
	source, sink *child
	reply        <-chan answer
	late         time.Duration // that the whole machine stood still meanwhile
}

// stand starts them: the node of that id, and sink, which blocks it.
func (w *world) stand(source string) *bystanders {
	w.t.Helper()
	b := &bystanders{w: w, sink: w.start("sink", program{Receive: true}), source: w.start(source, program{})}
	b.source.do(order{Do: "await", Output: "frames", Count: 1})
	b.reply = b.source.begin(order{Do: "send", Output: "frames", Sizes: []int{100, 50_000}, Every: 2 * time.Millisecond})
	return b
}

// check ends them and looks at what they got.
func (b *bystanders) check() {
	b.w.t.Helper()
	b.source.do(order{Do: "halt"})
	s := b.source.result(b.reply)
	var in *inputReport
	b.w.eventually("the bystanders' last message", func(status wire.Status) error {
		if in = b.sink.report().Inputs["frames"]; in == nil || in.Lives[0].Count < s.Sent {
			return fmt.Errorf("%d sent, received: %+v", s.Sent, in)
		}
		if e := edgeTo(b.w.t, status, b.sink.id+"/frames"); e.Delivered != s.Sent || e.Dropped != 0 {
			return fmt.Errorf("%d sent, edge %+v", s.Sent, e)
		}
		return nil
	})
	if l := in.Lives[0]; l.Count != s.Sent || l.Dropped != 0 || l.Unexplained != 0 || s.NoMemory != 0 {
		b.w.t.Errorf("bystanders: %+v sent, %+v received", s, l)
	}
	if most := goOnWithin + b.late; s.MaxGap > most || in.MaxGap > most {
		b.w.t.Errorf("bystanders: no message for %v, %v", s.MaxGap, in.MaxGap)
	}
}

// raw is one frame around a body.
func raw(body ...byte) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(body))), body...)
}

func TestHostilePeers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hostileFlow, "--handshake-timeout", "1s")
	bystanders := w.stand("source")
	for _, c := range []struct {
		event string
		join  bool // as guest, before
		say   func(*peer)
		code  wire.Code
	}{
		{"a length that no frame may have, before the handshake", false,
			func(p *peer) { p.write([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) }, wire.CodeFrameTooLong},
		{"a length that no frame may have, after the handshake", true,
			func(p *peer) { p.write(binary.LittleEndian.AppendUint64(nil, 1<<40)) }, wire.CodeFrameTooLong},
		{"bytes that are not msgpack", true,
			func(p *peer) { p.write(raw(0xc1, 0xff, 0x00)) }, wire.CodeProtocol},
		{"a message of an unknown kind", true,
			func(p *peer) { p.write(raw(0x91, 63)) }, wire.CodeProtocol},
		{"a message in the wrong state", false,
			func(p *peer) { p.send(&wire.Publish{Seq: 1, Payload: []byte{}}) }, wire.CodeWrongState},
		{"a message about somebody else's memory", true,
			func(p *peer) { p.send(&wire.Publish{Seq: 1, Token: 7, Region: 1, Offset: 4096, Length: 4096}) }, wire.CodeNotYours},
		{"a connection that says nothing", false, func(*peer) {}, wire.CodeHandshakeTimeout},
		{"a node of another protocol version", false, func(p *peer) {
			h := hello("guest")
			h.VersionMin, h.VersionMax = 7, 9
			p.send(h)
		}, wire.CodeVersion},
		{"a node id that the dataflow does not have", false, func(p *peer) { p.send(hello("gest")) }, wire.CodeUnknownNode},
		{"a node id that is in use", false, func(p *peer) { p.send(hello("sink")) }, wire.CodeDuplicateNode},
	} {
		t.Run(c.event, func(t *testing.T) {
			p := w.peer()
			p.t = t
			if c.join {
				p.join("guest")
			}
			seen := w.broker.log.len()
			c.say(p)
			e := p.refused()
			p.close()
			if e.Code != c.code {
				t.Errorf("refused with %v, want %v", e, c.code)
			}
			line := w.broker.log.await(t, seen, "connection ended by the broker", "code", c.code.String())
			observe(t, c.event, fmt.Sprintf("Error `%s`: %s", e.Code, plain(e.Text)), shown(line, "code"))
			w.gone("guest")
		})
	}
	t.Run("takeover", func(t *testing.T) { takeOver(t, w) })
	t.Run("ignored", func(t *testing.T) {
		p := w.peer()
		p.t = t
		p.join("guest")
		p.write(raw(0x92, 100, 0xc0)) // an optional kind that is unknown
		p.send(&wire.Ping{Nonce: 42})
		for {
			m, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			if pong, ok := m.(*wire.Pong); ok && pong.Nonce == 42 {
				break
			}
		}
		p.close()
		w.gone("guest")
	})
	bystanders.check()
	if s := w.status(); s.Counters.ProtocolErrors < 5 {
		t.Errorf("counters: %+v", s.Counters)
	}
}

func takeOver(t *testing.T, w *world) {
	p := w.peer()
	p.t = t
	p.join("guest")
	seen := w.broker.log.len()
	guest := w.start("guest", program{Receive: true, Takeover: true})
	e := p.refused()
	if e.Code != wire.CodeTakenOver {
		t.Errorf("the first one was told %v", e)
	}
	w.eventually("messages for the second one", func(wire.Status) error {
		if guest.report().Stats.Received == 0 {
			return errors.New("none")
		}
		return nil
	})
	line := w.broker.log.await(t, seen, "connection ended by the broker", "code", e.Code.String())
	observe(t, "a node id that is in use, with takeover",
		fmt.Sprintf("the new node joins; the old one gets Error `%s`: %s", e.Code, plain(e.Text)), shown(line, "code"))
	guest.close()
	w.gone("guest")
}

// A length is not believed before its bytes are there: hundreds of connections
// that announce large frames cost next to nothing.
func TestAnnouncedLengths(t *testing.T) {
	t.Parallel()
	const peers = 150
	w := newWorld(t, hostileFlow)
	before := w.cost()
	for range peers {
		p := w.peer()
		if e := p.control(); e != nil {
			t.Fatal(e)
		}
		p.write(append(binary.LittleEndian.AppendUint64(nil, 60*mib), make([]byte, 1024)...))
	}
	w.status()
	after := w.cost()
	grown := int64(after.own) - int64(before.own)
	t.Logf("%d connections announced %d MiB and sent 1 KiB each: the broker grew by %d KiB", peers, 60, grown>>10)
	if grown > peers*64<<10 && !raceDetector {
		t.Errorf("the broker grew by %d bytes", grown)
	}
	for range 3 { // and a broken one among them
		p := w.peer()
		p.write([]byte{1, 2, 3})
		p.close()
	}
}

// What is left of a frame when its sender goes away is nothing.
func TestHalfFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hostileFlow)
	frame := wire.NewEncoder().Append(nil, hello("guest"))
	for n := 0; n < len(frame); n += 7 {
		p := w.peer()
		p.write(frame[:n])
		p.close()
	}
	// Byte by byte is a handshake too.
	p := w.peer()
	for i := range frame {
		p.write(frame[i : i+1])
	}
	if m, err := p.next(); err != nil || m.Kind() != wire.KindWelcome {
		t.Errorf("%v, %v", m, err)
	}
	if tcp, ok := p.conn.(interface{ CloseWrite() error }); ok {
		_ = tcp.CloseWrite()
	}
	if m, err := p.next(); !errors.Is(err, io.EOF) {
		t.Errorf("after our end: %v, %v", m, err)
	}
}
