package wire

import "testing"

// Messages of the hot paths, with the field sizes of real traffic.
func benchMetadata() RawMetadata {
	return AppendMetadata(nil, []Attr{Int("frame", 123456), String("format", "rgb8")})
}

func benchPublishShared() *Publish {
	return &Publish{Output: 1, Epoch: 3, Seq: 1_234_567, TimeNS: 1_750_000_000_123_456_789, Token: 98_765,
		Region: 12, Offset: 4096 + 3*1048576, Length: 921_600, Metadata: benchMetadata()}
}

func benchPublishInline() *Publish {
	return &Publish{Output: 1, Epoch: 3, Seq: 1_234_567, TimeNS: 1_750_000_000_123_456_789,
		Length: 64, Payload: make([]byte, 64)}
}

// benchPublishLanes has two receivers on lanes and at least one with the broker.
func benchPublishLanes() *Publish {
	m := benchPublishShared()
	m.Lanes = 1<<0 | 1<<40
	return m
}

func benchInput() *Input {
	return &Input{Input: 2, Dropped: 1, Seq: 1_234_567, TimeNS: 1_750_000_000_123_456_789, Token: 98_765,
		Region: 12, Offset: 4096 + 3*1048576, Length: 921_600, Metadata: benchMetadata()}
}

func benchTokens() []Token {
	ts := make([]Token, 10)
	for i := range ts {
		ts[i] = Token(98_765 + i)
	}
	return ts
}

func benchInputs() *Inputs {
	m := &Inputs{}
	for range 10 {
		m.Items = append(m.Items, *benchInput())
	}
	return m
}

func benchMessages() map[string]Message {
	return map[string]Message{
		"PublishShared": benchPublishShared(),
		"PublishInline": benchPublishInline(),
		"Inputs10":      benchInputs(),
		"Next":          &Next{Limit: 100_010, Consumed: 100_000, Done: benchTokens()},
		"Done10":        &Done{Tokens: benchTokens()},
		"PublishLanes":  benchPublishLanes(),
		"Flow":          &Flow{Output: 1, Epoch: 3, Receivers: 2, Window: 100_000, Brokered: 1},
	}
}

var benchOrder = []string{"PublishShared", "PublishInline", "PublishLanes", "Inputs10", "Next", "Done10", "Flow"}

func BenchmarkEncode(b *testing.B) {
	for _, name := range benchOrder {
		m := benchMessages()[name]
		b.Run(name, func(b *testing.B) {
			e := NewEncoder()
			buf := e.Append(nil, m)
			b.ReportAllocs()
			for b.Loop() {
				buf = e.Append(buf[:0], m)
			}
		})
	}
}

func BenchmarkEncodeInputsStream(b *testing.B) {
	e, in := NewEncoder(), benchInput()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.BeginInputs(buf[:0])
		for range 10 {
			buf = e.AppendInput(buf, in)
		}
		buf = e.EndInputs(buf)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, name := range benchOrder {
		body := NewEncoder().Append(nil, benchMessages()[name])[FrameHeaderBytes:]
		b.Run(name, func(b *testing.B) {
			d := NewDecoder()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Decode(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMetadataLookup(b *testing.B) {
	raw := benchMetadata()
	b.ReportAllocs()
	for b.Loop() {
		if v, ok := raw.Lookup("format"); !ok || len(v.Bytes()) != 4 {
			b.Fatal("not found")
		}
	}
}
