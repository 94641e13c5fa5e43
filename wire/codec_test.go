package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// The hot paths allocate nothing.
func TestHotPathsDoNotAllocate(t *testing.T) {
	for name, m := range benchMessages() {
		e, d := NewEncoder(), NewDecoder()
		buf := e.Append(nil, m)
		body := bytes.Clone(buf[FrameHeaderBytes:])
		if n := testing.AllocsPerRun(100, func() { buf = e.Append(buf[:0], m) }); n != 0 {
			t.Errorf("encode %s: %v allocations", name, n)
		}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := d.Decode(body); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("decode %s: %v allocations", name, n)
		}
	}
	e, in, buf := NewEncoder(), benchInput(), make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		buf = e.BeginInputs(buf[:0])
		for range 10 {
			buf = e.AppendInput(buf, in)
		}
		buf = e.EndInputs(buf)
	}); n != 0 {
		t.Errorf("stream of inputs: %v allocations", n)
	}
	stream, frame := bytes.NewReader(nil), NewEncoder().Append(nil, benchInputs())
	buf = make([]byte, 4096)
	if n := testing.AllocsPerRun(100, func() {
		stream.Reset(frame)
		if _, err := ReadFrame(stream, 1<<20, buf); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("ReadFrame: %v allocations", n)
	}
	raw := benchMetadata()
	if n := testing.AllocsPerRun(100, func() {
		if _, ok := raw.Lookup("format"); !ok {
			t.Error("not found")
		}
	}); n != 0 {
		t.Errorf("metadata lookup: %v allocations", n)
	}
}

// Items encoded one by one are the same as all at once.
func TestStreamedFormAgrees(t *testing.T) {
	e := NewEncoder()
	m := &Inputs{Items: []Input{*benchInput(), {Input: 1, Seq: 2, Length: 5, Payload: []byte("hello")}}}
	want := e.Append([]byte("before"), m)

	got := e.BeginInputs([]byte("before"))
	got = e.AppendInput(got, &m.Items[0])
	got = e.AppendInput(got, &m.Items[1])
	if got := e.EndInputs(got); !bytes.Equal(got, want) {
		t.Errorf("stream:\n got %x\nwant %x", got, want)
	}
	if got, most := len(want)-len("before")-FrameHeaderBytes-InputsOverheadBytes,
		m.Items[0].EncodedBytesMax()+m.Items[1].EncodedBytesMax(); got > most {
		t.Errorf("%d bytes, EncodedBytesMax says %d", got, most)
	}
}

func TestEncodedBytesMaxOfTheLargestItem(t *testing.T) {
	most := uint64(1<<64 - 1)
	in := &Input{Input: 1<<32 - 1, Dropped: most, Seq: Seq(most), TimeNS: -1 << 63, Token: Token(most),
		Region: RegionID(most), Offset: most, Length: most, Metadata: benchMetadata(), Payload: make([]byte, 70_000)}
	e := NewEncoder()
	head := e.BeginInputs(nil)
	if got := len(e.AppendInput(head, in)) - len(head); got > in.EncodedBytesMax() {
		t.Errorf("%d bytes, EncodedBytesMax says %d", got, in.EncodedBytesMax())
	}
}

// Texts for humans are mended, because they quote what peers sent.
func TestTextsAreMended(t *testing.T) {
	d := NewDecoder()
	for _, text := range []string{strings.Repeat("ä", TextBytesMax), "bad \xff byte", strings.Repeat("\xff", 5000)} {
		m, err := d.Decode(NewEncoder().Append(nil, &Stop{Reason: text})[FrameHeaderBytes:])
		if err != nil {
			t.Errorf("%.20q: %v", text, err)
		} else if got := m.(*Stop).Reason; len(got) > TextBytesMax || got == "" {
			t.Errorf("%.20q became %d bytes", text, len(got))
		}
	}
}

func TestEncoderPanics(t *testing.T) {
	for name, m := range map[string]Message{
		"id too long":        &Hello{Node: strings.Repeat("x", IDBytesMax+1)},
		"id not UTF-8":       &Hello{Node: "\xff"},
		"secret too long":    &Hello{Auth: make([]byte, AuthBytesMax+1)},
		"too many tokens":    &Done{Tokens: make([]Token, TokensMax+1)},
		"too many items":     &Inputs{Items: make([]Input, ItemsMax+1)},
		"too many ports":     &Ports{Outputs: make([]OutputPort, PortsMax+1)},
		"metadata too long":  &Publish{Metadata: make([]byte, MetadataBytesMax+1)},
		"too many regions":   &Adopt{Regions: make([]AdoptRegion, AdoptRegionsMax+1)},
		"too many lanes":     &Adopt{Lanes: make([]AdoptLane, AdoptLanesMax+1)},
		"too many adopted":   &Adopted{Regions: make([]AdoptedRegion, AdoptedNamesMax+1)},
		"port too long":      &Adopt{Lanes: []AdoptLane{{Port: strings.Repeat("x", IDBytesMax+1)}}},
		"name of the region": &RegionOpen{Name: strings.Repeat("x", TextBytesMax+1)},
	} {
		mustPanic(t, name, func() { NewEncoder().Append(nil, m) })
	}
	mustPanic(t, "item outside", func() { NewEncoder().AppendInput(nil, &Input{}) })
	mustPanic(t, "end outside", func() { NewEncoder().EndInputs(nil) })
	mustPanic(t, "begin twice", func() { e := NewEncoder(); e.BeginInputs(e.BeginInputs(nil)) })
}

func mustPanic(t *testing.T, name string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", name)
		}
	}()
	f()
}

// A message from the decoder is valid until the next Decode and no longer; a
// message of a kind that owns its memory stays.
func TestOwnership(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	body := e.Append(nil, &Request{ID: 1, Verb: "load", Body: []byte("{}")})[FrameHeaderBytes:]
	m, err := d.Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	clear(body)
	if got := m.(*Request); got.Verb != "load" || string(got.Body) != "{}" {
		t.Errorf("request changed with its body: %v %q", got, got.Body)
	}
	body = e.Append(nil, &Publish{Seq: 1, Length: 2, Payload: []byte("ab")})[FrameHeaderBytes:]
	m, err = d.Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	p := m.(*Publish)
	if &p.Payload[0] != &body[len(body)-2] || cap(p.Payload) != 2 {
		t.Error("payload does not alias the body, or reaches behind itself")
	}
}

// A batch that was larger than usual does not stay in memory.
func TestDecoderLetsGoOfLargeScratch(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	for _, m := range []Message{&Done{Tokens: make([]Token, TokensMax)}, &Inputs{Items: make([]Input, 10_000)},
		&Done{Tokens: make([]Token, 3)}, &Inputs{Items: make([]Input, 3)}} {
		if _, err := d.Decode(e.Append(nil, m)[FrameHeaderBytes:]); err != nil {
			t.Fatal(err)
		}
	}
	if cap(d.done.Tokens) > scratchMax || cap(d.inputs.Items) > scratchMax {
		t.Errorf("room for %d tokens and %d items is kept", cap(d.done.Tokens), cap(d.inputs.Items))
	}
}

func TestReadFrame(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789"), 30_000)
	stream := append(append(framed([]byte("a")), framed(large)...), framed([]byte("ccc"))...)
	for name, r := range map[string]io.Reader{
		"at once":       bytes.NewReader(stream),
		"byte by byte":  iotest.OneByteReader(bytes.NewReader(stream)),
		"with an error": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		var buf []byte
		var err error
		for i, want := range [][]byte{[]byte("a"), large, []byte("ccc")} {
			if buf, err = ReadFrame(r, 1<<20, buf); err != nil || !bytes.Equal(buf, want) {
				t.Fatalf("%s: frame %d: %d bytes, %v", name, i, len(buf), err)
			}
		}
		if _, err = ReadFrame(r, 1<<20, buf); err != io.EOF {
			t.Errorf("%s: at the end: %v", name, err)
		}
	}
	for n := 1; n < 12; n++ {
		if _, err := ReadFrame(bytes.NewReader(framed([]byte("abcd"))[:n]), 100, nil); err != io.ErrUnexpectedEOF {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
}

// What a peer announces costs nothing before it arrives.
func TestReadFrameGrowsWithWhatArrives(t *testing.T) {
	announced := framed(nil)
	announced[3] = 0x40 // 1 GiB
	stream := append(announced, make([]byte, 100_000)...)
	var sizes []int
	r := readerFunc(func(p []byte) (int, error) {
		sizes = append(sizes, len(p))
		n := copy(p, stream)
		stream = stream[n:]
		if n == 0 {
			return 0, io.EOF
		}
		return n, nil
	})
	if _, err := ReadFrame(r, 1<<40, nil); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	for _, n := range sizes {
		if n > 2*100_000 {
			t.Errorf("room for %d bytes after at most 100000 arrived", n)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestNextFrame(t *testing.T) {
	stream := append(framed([]byte("ab")), framed([]byte("c"))...)
	for n := range len(stream) {
		body, rest, err := NextFrame(stream[:n], 2)
		complete := n >= FrameHeaderBytes+2
		if err != nil || (body != nil) != complete {
			t.Fatalf("%d bytes: %q, %v", n, body, err)
		}
		if complete && (string(body) != "ab" || len(rest) != n-10 || cap(body) != 2) || !complete && len(rest) != n {
			t.Fatalf("%d bytes: body %q, rest %q", n, body, rest)
		}
	}
	if _, _, err := NextFrame(stream, 1); !errors.Is(err, ErrFrameTooLong) || !errors.Is(err, ErrProtocol) || CodeOf(err) != CodeFrameTooLong {
		t.Errorf("over the limit: %v", err)
	}
	if _, _, err := NextFrame(make([]byte, 8), 1); !errors.Is(err, ErrFrameEmpty) || !errors.Is(err, ErrProtocol) {
		t.Errorf("empty: %v", err)
	}
}
