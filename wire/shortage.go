package wire

// FeatureInline in Hello says that the node can send a message that gets no shared
// memory inside the frame, in Welcome that it may.
const FeatureInline Features = 1 << 2

// Shortage says that a message of an output has to go inline for want of shared
// memory, and that the output has lanes, which cannot carry it. The broker closes
// them, so that the order is kept, and grants others when no more messages come
// like that.
type Shortage struct {
	Output OutputIndex
	Bytes  uint64 // of the message's payload
}

// Kind implements Message.
func (*Shortage) Kind() Kind { return KindShortage }

func (m *Shortage) encode(w *writer) {
	w.message(KindShortage, 2)
	w.uint(uint64(m.Output))
	w.uint(m.Bytes)
}

func (m *Shortage) decode(r *reader) {
	m.Output = OutputIndex(r.u32("output"))
	m.Bytes = r.u64("bytes")
}

func (m *Shortage) appendText(b []byte) []byte {
	return start(b, KindShortage).uint("out", uint64(m.Output)).uint("bytes", m.Bytes)
}

// String implements Message.
func (m *Shortage) String() string { return text(m) }
