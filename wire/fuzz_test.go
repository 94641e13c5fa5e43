package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// NextFrame and ReadFrame cut the same frames out of any stream.
func FuzzFrames(f *testing.F) {
	for _, s := range samples() {
		f.Add(NewEncoder().Append(nil, s.msg))
	}
	for _, h := range hostileFrames() {
		f.Add(h.frame)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		const limit = 4096
		r := bytes.NewReader(stream)
		var buf []byte
		for rest := stream; ; {
			body, next, err := NextFrame(rest, limit)
			read, readErr := ReadFrame(r, limit, buf)
			switch {
			case err != nil:
				if readErr == nil || readErr.Error() != err.Error() || !errors.Is(err, ErrProtocol) {
					t.Fatalf("NextFrame %v, ReadFrame %v", err, readErr)
				}
				return
			case body == nil:
				if readErr != io.EOF && readErr != io.ErrUnexpectedEOF || (readErr == io.EOF) != (len(rest) == 0) {
					t.Fatalf("%d bytes of a frame, ReadFrame %v", len(rest), readErr)
				}
				return
			case readErr != nil || !bytes.Equal(body, read) || len(body) > limit:
				t.Fatalf("NextFrame %x, ReadFrame %x %v", body, read, readErr)
			}
			rest, buf = next, read
		}
	})
}

// Whatever decodes is encoded to something that decodes to the same, and whose
// encoding is the same; the msgpack package reads the same numbers out of it.
func FuzzDecode(f *testing.F) {
	for _, s := range samples() {
		f.Add(NewEncoder().Append(nil, s.msg)[FrameHeaderBytes:])
	}
	for _, a := range accepted() {
		f.Add(a.body)
	}
	for _, h := range hostileFrames() {
		if len(h.frame) > FrameHeaderBytes {
			f.Add(h.frame[FrameHeaderBytes:])
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d, e := NewDecoder(), NewEncoder()
		m, err := d.Decode(body)
		if c := 8*cap(d.done.Tokens) + 8*cap(d.next.Done) + 136*cap(d.inputs.Items); c > 64*len(body)+1024 {
			t.Fatalf("%d bytes of scratch for %d bytes", c, len(body))
		}
		if err != nil {
			if m != nil || !errors.Is(err, ErrProtocol) && err != ErrUnknownOptional {
				t.Fatalf("%v, %v", m, err)
			}
			_ = err.Error()
			return
		}
		text := m.String()
		agreeWithPackage(t, m, body)
		first := e.Append(nil, m)
		again, err := NewDecoder().Decode(first[FrameHeaderBytes:])
		if err != nil || again.String() != text {
			t.Fatalf("%s\nencoded and decoded: %v, %v", text, again, err)
		}
		if second := e.Append(nil, again); !bytes.Equal(first, second) {
			t.Fatalf("%s\nfirst  %x\nsecond %x", text, first, second)
		}
	})
}

// agreeWithPackage compares the frequent messages with what the msgpack package
// makes of the same body. Bodies that got here announce no more than they hold.
func agreeWithPackage(t *testing.T, m Message, body []byte) {
	d := msgpack.NewDecoder(bytes.NewReader(body))
	next := func() uint64 { v, err := d.DecodeUint64(); fatal(t, err); return v }
	list := func() int { n, err := d.DecodeArrayLen(); fatal(t, err); return n }
	fields := list()
	got := []uint64{next()}
	want := []uint64{uint64(m.Kind())}
	switch m := m.(type) {
	case *Publish:
		for range 8 {
			got = append(got, next())
		}
		want = append(want, uint64(m.Output), uint64(m.Epoch), uint64(m.Seq), uint64(m.TimeNS), uint64(m.Token),
			uint64(m.Region), m.Offset, m.Length)
		if span, err := d.DecodeRaw(); err != nil || m.Metadata != nil && !bytes.Equal(span, m.Metadata) {
			t.Fatalf("metadata %x, the package has %x, %v", m.Metadata, span, err)
		}
		if p, err := d.DecodeBytes(); err != nil || !bytes.Equal(p, m.Payload) {
			t.Fatalf("payload %x, the package has %x, %v", m.Payload, p, err)
		}
		if fields > 1+publishFields {
			got, want = append(got, next()), append(want, m.Lanes)
		} else if m.Lanes != 0 {
			t.Fatalf("lanes %x, the body has none", m.Lanes)
		}
	case *Inputs:
		if n := list(); n > 0 { // the first one: extras make the way to the others long
			list()
			for range 8 {
				got = append(got, next())
			}
			in := &m.Items[0]
			want = append(want, uint64(in.Input), in.Dropped, uint64(in.Seq), uint64(in.TimeNS), uint64(in.Token),
				uint64(in.Region), in.Offset, in.Length)
		}
	case *Next:
		got, want = append(got, next(), next()), append(want, m.Limit, m.Consumed)
		got, want = readTokens(list(), next, got), appendTokenValues(want, m.Done)
	case *Done:
		got, want = readTokens(list(), next, got), appendTokenValues(want, m.Tokens)
	case *Flow:
		got = append(got, next(), next(), next(), next(), flowBrokeredUsual)
		if fields > 1+flowFields {
			got[len(got)-1] = next()
		}
		want = append(want, uint64(m.Output), uint64(m.Epoch), uint64(m.Receivers), m.Window, uint64(m.Brokered))
	case *Adopt:
		agreeAdopt(t, m, d)
	}
	if len(got) != len(want) {
		t.Fatalf("%v, the package has %v", want, got)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%v, the package has %v", want, got)
		}
	}
}

// agreeAdopt goes on behind the kind. It looks at the first region and lane:
// extras make the way to the others long.
func agreeAdopt(t *testing.T, m *Adopt, d *msgpack.Decoder) {
	number := func(want uint64) {
		if got, err := d.DecodeUint64(); err != nil || got != want {
			t.Fatalf("%s\nthe package has %d, %v instead of %d", m, got, err, want)
		}
	}
	str := func(want string) {
		if got, err := d.DecodeString(); err != nil || got != want {
			t.Fatalf("%s\nthe package has %q, %v instead of %q", m, got, err, want)
		}
	}
	count := func(want int) {
		if got, err := d.DecodeArrayLen(); err != nil || got < want {
			t.Fatalf("%s\nthe package has %d elements, %v instead of %d", m, got, err, want)
		}
	}
	str(m.Instance)
	number(uint64(m.BellRegion))
	str(m.BellName)
	count(len(m.Regions))
	if len(m.Regions) > 1 {
		return
	}
	for _, g := range m.Regions {
		extra, err := d.DecodeArrayLen()
		fatal(t, err)
		number(uint64(g.Region))
		str(g.Name)
		number(g.SlotBytes)
		number(uint64(g.Slots))
		for range extra - adoptRegionFields {
			_, err := d.DecodeRaw()
			fatal(t, err)
		}
	}
	count(len(m.Lanes))
	if len(m.Lanes) == 0 {
		return
	}
	l := m.Lanes[0]
	count(adoptLaneFields)
	number(uint64(l.Lane))
	number(uint64(l.Role))
	str(l.Port)
	str(l.Peer)
	for _, v := range []uint64{uint64(l.Bit), uint64(l.QueueSize), uint64(l.Policy), uint64(l.HoldTimeoutMS)} {
		number(v)
	}
	str(l.Name)
	number(l.SlotBytes)
	number(uint64(l.PeerBellRegion))
}

func readTokens(n int, next func() uint64, to []uint64) []uint64 {
	for range n {
		to = append(to, next())
	}
	return to
}

func appendTokenValues(to []uint64, ts []Token) []uint64 {
	for _, t := range ts {
		to = append(to, uint64(t))
	}
	return to
}

func fatal(t *testing.T, err error) {
	if err != nil {
		t.Fatalf("the package says %v", err)
	}
}

// The quick and the thorough judge of metadata agree, the readers stay inside
// it, and the msgpack package reads the same.
func FuzzMetadata(f *testing.F) {
	for _, s := range samples() {
		if p, ok := s.msg.(*Publish); ok && p.Metadata != nil {
			f.Add([]byte(p.Metadata))
		}
	}
	f.Add([]byte{0x81, 0xa1, 'k', 0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xde, 0, 1, 0xd9, 1, 'k', 0xca, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		size, entries, err := scanMetadata(b)
		if quick := plainMetadata(b); quick > 0 && (err != nil || quick != size) {
			t.Fatalf("quick %d, thorough %d %v", quick, size, err)
		}
		n := 0
		for key := range RawMetadata(b).All() {
			if _, ok := RawMetadata(b).Lookup(key); !ok {
				t.Fatalf("%q is not found", key)
			}
			n++
		}
		_ = RawMetadata(b).String()
		if err != nil {
			return
		}
		if n != entries || size > len(b) {
			t.Fatalf("%d of %d entries, %d of %d bytes", n, entries, size, len(b))
		}
		d := msgpack.NewDecoder(bytes.NewReader(b[:size]))
		if got, err := d.DecodeRaw(); err != nil || !bytes.Equal(got, b[:size]) {
			t.Fatalf("span %x, the package has %x, %v", b[:size], got, err)
		}
		var attrs []Attr
		for key, v := range RawMetadata(b[:size]).All() {
			attrs = append(attrs, Attr{key, v})
		}
		if again := RawMetadata(AppendMetadata(nil, attrs)); len(again) <= MetadataBytesMax && ValidateMetadata(again) != nil {
			t.Fatalf("%x is valid, written again it is not: %x", b[:size], []byte(again))
		}
	})
}

// The hand-written values are those of the msgpack package.
func FuzzPrimitives(f *testing.F) {
	f.Add(uint64(0), []byte{})
	for shift := range 64 {
		f.Add(uint64(1)<<shift, []byte("x"))
		f.Add(^(uint64(1) << shift), bytes.Repeat([]byte{'y'}, 1<<(shift/4)))
	}
	f.Fuzz(checkPrimitives)
}

func TestPrimitivesAgree(t *testing.T) {
	for shift := range 64 {
		for delta := range uint64(5) {
			checkPrimitives(t, uint64(1)<<shift+delta-2, make([]byte, 1<<(shift/4)+int(delta)))
			checkPrimitives(t, -(uint64(1)<<shift)+delta-2, nil)
		}
	}
}

func checkPrimitives(t *testing.T, v uint64, p []byte) {
	var want bytes.Buffer
	e := msgpack.NewEncoder(&want)
	fatal(t, e.EncodeUint(v))
	fatal(t, e.EncodeInt(int64(v)))
	fatal(t, e.EncodeBytesLen(len(p)))
	fatal(t, e.EncodeArrayLen(len(p)))
	fatal(t, e.EncodeString(string(p)))
	got := appendStr(appendArray(appendBinHead(appendInt(appendUint(nil, v), int64(v)), len(p)), len(p)), p)
	if !bytes.Equal(got, want.Bytes()) {
		t.Fatalf("%d, %d bytes:\n got %x\nwant %x", v, len(p), got, want.Bytes())
	}
	one := make([]uint64, 1)
	if end := readUints(one, got, 0); end != 1+intWidth(got[0]) || one[0] != v {
		t.Fatalf("%d is read as %d, %d bytes", v, one[0], end)
	}
	short := got[:1+intWidth(got[0])]
	if end := readUints(one, short, 0); end != len(short) || one[0] != v {
		t.Fatalf("%d at the end is read as %d, %d bytes", v, one[0], end)
	}
	if i := got[len(short):]; bigEndianInt(i) != int64(v) {
		t.Fatalf("%d is read as %d", int64(v), bigEndianInt(i))
	}
}
