package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

func frameOf(body []byte) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(body))), body...)
}

// However a stream is cut into reads, the same bodies come out.
func TestAssemblerCuts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	var bodies [][]byte
	var stream []byte
	for i := range 300 {
		n := 1 + rnd.IntN(300)
		if i%50 == 0 {
			n = 60_000
		}
		body := make([]byte, n)
		for j := range body {
			body[j] = byte(rnd.Uint32())
		}
		bodies = append(bodies, body)
		stream = append(stream, frameOf(body)...)
	}
	for _, most := range []int{1, 7, 100, 5000, len(stream)} {
		got, rest := 0, bytes.Clone(stream)
		a := assembler{bytesMax: func() uint64 { return 1 << 20 }, each: func(body []byte, owned bool) error {
			if !bytes.Equal(body, bodies[got]) {
				t.Fatalf("reads of up to %d: body %d is wrong", most, got)
			}
			if owned {
				clear(body) // ours: the assembler must not need it again
			}
			got++
			return nil
		}}
		for len(rest) > 0 {
			n := 1 + rnd.IntN(min(most, len(rest)))
			piece := bytes.Clone(rest[:n])
			if err := a.feed(piece); err != nil {
				t.Fatal(err)
			}
			clear(piece)
			rest = rest[n:]
		}
		if got != len(bodies) {
			t.Fatalf("reads of up to %d: %d bodies of %d", most, got, len(bodies))
		}
	}
}

// A length prefix is judged as soon as it is there, and costs no memory.
func TestAssemblerLength(t *testing.T) {
	for _, c := range []struct {
		length uint64
		want   error
	}{{0, wire.ErrFrameEmpty}, {1001, wire.ErrFrameTooLong}, {1 << 63, wire.ErrFrameTooLong}, {^uint64(0), wire.ErrFrameTooLong}} {
		prefix := binary.LittleEndian.AppendUint64(nil, c.length)
		for cut := 1; cut <= len(prefix); cut++ {
			a := assembler{
				bytesMax: func() uint64 { return 1000 },
				each:     func([]byte, bool) error { t.Fatal("a body"); return nil },
			}
			err := a.feed(prefix[:cut])
			if err == nil {
				err = a.feed(prefix[cut:])
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("length %d cut at %d: %v", c.length, cut, err)
			}
			if cap(a.partial) > 64 {
				t.Fatalf("length %d cost %d bytes", c.length, cap(a.partial))
			}
		}
	}
}

// Memory grows with what has arrived, not with what was announced.
func TestAssemblerMemory(t *testing.T) {
	const announced = 64 << 20
	a := assembler{
		bytesMax: func() uint64 { return announced },
		each:     func([]byte, bool) error { return nil },
	}
	if err := a.feed(binary.LittleEndian.AppendUint64(nil, announced)); err != nil {
		t.Fatal(err)
	}
	arrived := 0
	for range 40 {
		piece := make([]byte, 10_000)
		if err := a.feed(piece); err != nil {
			t.Fatal(err)
		}
		arrived += len(piece)
		if cap(a.partial) > 2*arrived+assemblerKeepBytes {
			t.Fatalf("%d bytes have arrived, %d are in use", arrived, cap(a.partial))
		}
	}
}

// kindOf agrees with the decoder on everything that the decoder accepts.
func TestKindOf(t *testing.T) {
	for _, m := range []wire.Message{
		&wire.Hello{}, &wire.Attach{}, &wire.Publish{}, &wire.Next{}, &wire.Done{Tokens: []wire.Token{1}},
		&wire.Ping{Nonce: 7}, &wire.Pong{}, &wire.Bye{}, &wire.Error{Code: 1}, &wire.Request{}, &wire.Reject{},
	} {
		body := wire.NewEncoder().Append(nil, m)[wire.FrameHeaderBytes:]
		if k := kindOf(body); k != m.Kind() {
			t.Errorf("%s: kind %d", m, k)
		}
	}
	for _, body := range [][]byte{
		{0x92, 0xcc, 23, 1}, {0x92, 0xcd, 0, 23, 1}, {0x92, 0xce, 0, 0, 0, 23, 1}, {0x92, 0xcf, 0, 0, 0, 0, 0, 0, 0, 23, 1},
		{0x92, 0xd0, 23, 1}, {0x92, 0xd3, 0, 0, 0, 0, 0, 0, 0, 23, 1}, {0xdc, 0, 2, 23, 1}, {0xdd, 0, 0, 0, 2, 23, 1},
	} {
		if _, err := wire.NewDecoder().Decode(body); err != nil {
			t.Fatalf("% x: %v", body, err)
		}
		if k := kindOf(body); k != wire.KindPing {
			t.Errorf("% x: kind %d", body, k)
		}
	}
	for _, body := range [][]byte{nil, {0x90}, {0x91}, {0x01}, {0xdc, 0}, {0x91, 0xcc}, {0x91, 0xce, 1, 0, 0, 0}, {0x91, 0xa1, 'x'}, {0x91, 0xff}} {
		if k := kindOf(body); k != 0 {
			t.Errorf("% x: kind %d, want none", body, k)
		}
	}
}
