package wire

import "math"

// The frequent messages. They allocate nothing, in either direction.

func (m *Publish) encode(w *writer) {
	m.encodeHead(w)
	w.payload(m.Payload)
}

// encodeHead writes everything but the payload.
func (m *Publish) encodeHead(w *writer) {
	w.message(KindPublish, 10)
	w.uint(uint64(m.Output))
	w.uint(uint64(m.Epoch))
	w.uint(uint64(m.Seq))
	w.int(m.TimeNS)
	w.uint(uint64(m.Token))
	w.uint(uint64(m.Region))
	w.uint(m.Offset)
	w.uint(m.Length)
	w.metadata(m.Metadata)
}

func (m *Publish) decode(r *reader) {
	m.Output = r.outputIndex()
	m.Epoch = r.u32("epoch")
	m.Seq = r.seq("seq")
	m.TimeNS = r.int("time_ns")
	m.Token = Token(r.u64("token"))
	m.Region = r.region()
	m.Offset = r.u64("offset")
	m.Length = r.u64("length")
	m.Metadata = r.metadata()
	m.Payload = r.payload()
	r.descriptor(m.Token, m.Region, m.Offset, m.Length, m.Payload)
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
	w.message(KindInputs, 1)
	at := w.array32()
	for i := range m.Items {
		m.Items[i].encode(w)
	}
	putCount(w.b[at:], len(m.Items))
}

func (in *Input) encode(w *writer) {
	in.encodeHead(w)
	w.payload(in.Payload)
}

// inputFields is the number of elements of an item.
const inputFields = 10

// encodeHead writes everything but the payload.
func (in *Input) encodeHead(w *writer) {
	w.array(inputFields)
	w.uint(uint64(in.Input))
	w.uint(in.Dropped)
	w.uint(uint64(in.Seq))
	w.int(in.TimeNS)
	w.uint(uint64(in.Token))
	w.uint(uint64(in.Region))
	w.uint(in.Offset)
	w.uint(in.Length)
	w.metadata(in.Metadata)
}

func (m *Inputs) decode(r *reader) {
	n := r.array("items", 0, ItemsMax)
	if n*(1+inputFields) > r.left() {
		r.fail("items", "%d elements announced, %d bytes left", n, r.left())
		return
	}
	r.list = "items"
	for r.item = 0; r.item < n && r.err == nil; r.item++ {
		m.Items = append(m.Items, Input{})
		m.Items[r.item].decode(r)
	}
	r.item = -1
}

func (in *Input) decode(r *reader) {
	n := r.array("", inputFields, math.MaxInt)
	in.Input = InputIndex(r.u32("input"))
	in.Dropped = r.u64("dropped")
	in.Seq = r.seq("seq")
	in.TimeNS = r.int("time_ns")
	in.Token = Token(r.u64("token"))
	in.Region = r.region()
	in.Offset = r.u64("offset")
	in.Length = r.u64("length")
	in.Metadata = r.metadata()
	in.Payload = r.payload()
	r.descriptor(in.Token, in.Region, in.Offset, in.Length, in.Payload)
	r.extras(n, inputFields, 3)
}

func (m *Next) encode(w *writer) {
	w.message(KindNext, 3)
	w.uint(m.Limit)
	w.uint(m.Consumed)
	w.tokens("done", m.Done)
}

func (m *Next) decode(r *reader) {
	m.Limit = r.u64("limit")
	m.Consumed = r.u64("consumed")
	m.Done = r.tokens("done", m.Done)
}

func (m *Done) encode(w *writer) {
	w.message(KindDone, 1)
	w.tokens("tokens", m.Tokens)
}

func (m *Done) decode(r *reader) {
	m.Tokens = r.tokens("tokens", m.Tokens)
}

func (m *Flow) encode(w *writer) {
	w.message(KindFlow, 4)
	w.uint(uint64(m.Output))
	w.uint(uint64(m.Epoch))
	w.uint(uint64(m.Receivers))
	w.uint(m.Window)
}

func (m *Flow) decode(r *reader) {
	m.Output = r.outputIndex()
	m.Epoch = r.u32("epoch")
	m.Receivers = r.u32("receivers")
	m.Window = r.u64("window")
}
