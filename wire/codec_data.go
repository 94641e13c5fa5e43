package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// The frequent messages. They allocate nothing, in either direction, and go
// around the msgpack package (primitives.go).

const (
	publishFields = 10 // behind the kind
	inputFields   = 10 // of an item of Inputs
	flowFields    = 4

	// flowBrokeredUsual is Flow.Brokered when it is not on the wire.
	flowBrokeredUsual = 1
)

func (m *Publish) encode(w *writer) {
	head := byte(msgpcode.FixedArrayLow | (1 + publishFields))
	if m.Lanes != 0 {
		head++
	}
	b := append(w.b, head, byte(KindPublish))
	b = appendUint(b, uint64(m.Output))
	b = appendUint(b, uint64(m.Epoch))
	b = appendDescriptor(b, m.Seq, m.TimeNS, m.Token, m.Region, m.Offset, m.Length, m.Metadata)
	b = appendPayload(b, m.Payload)
	if m.Lanes != 0 {
		b = appendUint(b, m.Lanes)
	}
	w.b = b
}

func (m *Publish) decode(r *reader) {
	var v [8]uint64
	if end := readUints(v[:], r.b, r.i); end >= 0 && v[0]|v[1] <= math.MaxUint32 && v[3] <= math.MaxInt64 {
		r.i = end
		m.Output, m.Epoch, m.Seq, m.TimeNS = OutputIndex(v[0]), uint32(v[1]), Seq(v[2]), int64(v[3])
		m.Token, m.Region, m.Offset, m.Length = Token(v[4]), RegionID(v[5]), v[6], v[7]
	} else {
		m.Output = r.outputIndex()
		m.Epoch = r.u32("epoch")
		m.Seq = r.seq("seq")
		m.TimeNS = r.int("time_ns")
		m.Token = r.token()
		m.Region = r.region("region")
		m.Offset = r.u64("offset")
		m.Length = r.u64("length")
	}
	m.Metadata = r.metadata()
	m.Payload = r.payload()
	m.Lanes = 0
	if r.appended() {
		m.Lanes = r.lanes()
	}
	r.descriptor(m.Token, m.Region, m.Offset, m.Length, m.Payload)
}

// lanes reads the lanes that have a message. Bit 63 is no lane's.
func (r *reader) lanes() uint64 {
	var v [1]uint64
	if end := readUints(v[:], r.b, r.i); r.err == nil && end >= 0 && v[0] <= math.MaxInt64 {
		r.i = end
		return v[0]
	}
	return r.uint("lanes", math.MaxInt64)
}

// appendDescriptor appends what Publish and Input have in common, without the
// payload.
func appendDescriptor(b []byte, seq Seq, timeNS int64, t Token, region RegionID, offset, length uint64, m RawMetadata) []byte {
	b = appendUint(b, uint64(seq))
	b = appendInt(b, timeNS)
	b = appendUint(b, uint64(t))
	b = appendUint(b, uint64(region))
	b = appendUint(b, offset)
	b = appendUint(b, length)
	if len(m) == 0 {
		return append(b, msgpcode.Nil)
	}
	if len(m) > MetadataBytesMax {
		panic(fmt.Sprintf("wire: metadata: %d bytes, the limit is %d", len(m), MetadataBytesMax))
	}
	return append(b, m...)
}

func appendPayload(b, p []byte) []byte {
	if p == nil {
		return append(b, msgpcode.Nil)
	}
	return append(appendBinHead(b, len(p)), p...)
}

func appendTokens(b []byte, field string, ts []Token) []byte {
	if len(ts) > TokensMax {
		panic(fmt.Sprintf("wire: %s: %d tokens, the limit is %d", field, len(ts), TokensMax))
	}
	b = appendArray(b, len(ts))
	for _, t := range ts {
		b = appendUint(b, uint64(t))
	}
	return b
}

// descriptor checks that a message is either inline or in shared memory, and
// that its bytes can exist. Whether they lie in a slot is the broker's to know.
func (r *reader) descriptor(t Token, region RegionID, offset, length uint64, payload []byte) {
	switch {
	case r.err != nil:
	case region == 0 && t != 0:
		r.fail("token", "%d without a region", t)
	case region == 0 && offset != 0:
		r.fail("offset", "%d without a region", offset)
	case region == 0 && length != uint64(len(payload)):
		r.fail("length", "%d, but %d bytes of payload", length, len(payload))
	case region != 0 && t == 0:
		r.fail("token", "0 with a region")
	case region != 0 && payload != nil:
		r.fail("payload", "%d bytes besides a region", len(payload))
	case offset > math.MaxInt64 || length > math.MaxInt64-offset:
		r.fail("length", "%d bytes from %d on pass the end of any region", length, offset)
	}
}

func (m *Inputs) encode(w *writer) {
	if len(m.Items) > ItemsMax {
		panic("wire: inputs: more than ItemsMax items")
	}
	b, at := appendInputsHead(w.b)
	for i := range m.Items {
		b = m.Items[i].append(b)
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(m.Items)))
	w.b = b
}

// appendInputsHead appends the body up to the first item, and returns where the
// number of items goes. That number has a fixed width, so that it can be put in
// when it is known.
func appendInputsHead(b []byte) (head []byte, countAt int) {
	b = append(b, msgpcode.FixedArrayLow|2, byte(KindInputs), msgpcode.Array32, 0, 0, 0, 0)
	return b, len(b) - 4
}

func (in *Input) append(b []byte) []byte {
	b = append(b, msgpcode.FixedArrayLow|inputFields)
	b = appendUint(b, uint64(in.Input))
	b = appendUint(b, in.Dropped)
	b = appendDescriptor(b, in.Seq, in.TimeNS, in.Token, in.Region, in.Offset, in.Length, in.Metadata)
	return appendPayload(b, in.Payload)
}

func (m *Inputs) decode(r *reader) {
	n := r.array("items", 0, ItemsMax)
	if n*(1+inputFields) > r.left() {
		r.fail("items", "%d elements announced, %d bytes left", n, r.left())
		return
	}
	r.list = "items"
	for r.item = 0; r.item < n && r.err == nil; r.item++ {
		if len(m.Items) == cap(m.Items) {
			m.Items = append(m.Items, Input{})
		} else {
			m.Items = m.Items[:len(m.Items)+1] // decode writes every field
		}
		m.Items[r.item].decode(r)
	}
	r.item = -1
}

func (in *Input) decode(r *reader) {
	n := r.array("", inputFields, math.MaxInt)
	var v [8]uint64
	if end := readUints(v[:], r.b, r.i); end >= 0 && v[0] <= math.MaxUint32 && v[3] <= math.MaxInt64 {
		r.i = end
		in.Input, in.Dropped, in.Seq, in.TimeNS = InputIndex(v[0]), v[1], Seq(v[2]), int64(v[3])
		in.Token, in.Region, in.Offset, in.Length = Token(v[4]), RegionID(v[5]), v[6], v[7]
	} else {
		in.Input = InputIndex(r.u32("input"))
		in.Dropped = r.u64("dropped")
		in.Seq = r.seq("seq")
		in.TimeNS = r.int("time_ns")
		in.Token = r.token()
		in.Region = r.region("region")
		in.Offset = r.u64("offset")
		in.Length = r.u64("length")
	}
	in.Metadata = r.metadata()
	in.Payload = r.payload()
	r.descriptor(in.Token, in.Region, in.Offset, in.Length, in.Payload)
	r.extras(n, inputFields, 3)
}

func (m *Next) encode(w *writer) {
	b := append(w.b, msgpcode.FixedArrayLow|4, byte(KindNext))
	b = appendUint(b, m.Limit)
	b = appendUint(b, m.Consumed)
	w.b = appendTokens(b, "done", m.Done)
}

func (m *Next) decode(r *reader) {
	var v [2]uint64
	if end := readUints(v[:], r.b, r.i); end >= 0 {
		r.i = end
		m.Limit, m.Consumed = v[0], v[1]
	} else {
		m.Limit = r.u64("limit")
		m.Consumed = r.u64("consumed")
	}
	m.Done = r.tokens("done", m.Done)
}

func (m *Done) encode(w *writer) {
	w.b = appendTokens(append(w.b, msgpcode.FixedArrayLow|2, byte(KindDone)), "tokens", m.Tokens)
}

func (m *Done) decode(r *reader) {
	m.Tokens = r.tokens("tokens", m.Tokens)
}

func (m *Flow) encode(w *writer) {
	n := flowFields
	if m.Brokered != flowBrokeredUsual {
		n++
	}
	w.message(KindFlow, n)
	w.uint(uint64(m.Output))
	w.uint(uint64(m.Epoch))
	w.uint(uint64(m.Receivers))
	w.uint(m.Window)
	if m.Brokered != flowBrokeredUsual {
		w.uint(uint64(m.Brokered))
	}
}

func (m *Flow) decode(r *reader) {
	m.Output = r.outputIndex()
	m.Epoch = r.u32("epoch")
	m.Receivers = r.u32("receivers")
	m.Window = r.u64("window")
	m.Brokered = flowBrokeredUsual
	if r.appended() {
		m.Brokered = r.u32("brokered")
	}
}
