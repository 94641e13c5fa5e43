package wire

// FeatureEvacuation in Hello says that the node moves what it holds for too long
// to memory of its own, in Welcome that the broker wants that.
const FeatureEvacuation Features = 1 << 1

// EvacuatedMax is how many messages one Evacuated may report.
const EvacuatedMax = 1 << 20

// Evacuated reports messages of one input that the node has held for its hold
// timeout, and has moved out of shared memory: their slots are free as far as this
// receiver is concerned. The user still has them.
type Evacuated struct {
	Input InputIndex
	// Tokens of the messages that came through the broker, which gives them back.
	// Empty: they came on a lane, and the ledger says so.
	Tokens []Token
	Region RegionID // that the oldest of them lay in
	Seq    Seq      // of the oldest
	Bytes  uint64   // of payload, all of them
	HeldMS uint64   // milliseconds, the oldest
	Count  uint32   // messages; as many as tokens if there are any
}

// Kept says what a node has in memory of its own instead of shared memory. It comes
// when that has changed, about once a second.
type Kept struct {
	Messages uint64 // that were moved, and not released yet
	Bytes    uint64 // of memory that they take
	// Stuck messages are held for too long, and could not be moved.
	Stuck uint64
	Text  string // why; empty if there are none
}

// Kind implements Message.
func (*Evacuated) Kind() Kind { return KindEvacuated }

// Kind implements Message.
func (*Kept) Kind() Kind { return KindKept }

func (m *Evacuated) encode(w *writer) {
	w.message(KindEvacuated, 7)
	w.uint(uint64(m.Input))
	w.b = appendTokens(w.b, "tokens", m.Tokens)
	w.uint(uint64(m.Region))
	w.uint(uint64(m.Seq))
	w.uint(m.Bytes)
	w.uint(m.HeldMS)
	w.uint(uint64(m.Count))
}

func (m *Evacuated) decode(r *reader) {
	m.Input = InputIndex(r.u32("input"))
	m.Tokens = r.tokens("tokens", nil)
	m.Region = r.laneID("region")
	m.Seq = r.seq("seq")
	m.Bytes = r.u64("bytes")
	m.HeldMS = r.u64("held_ms")
	m.Count = uint32(r.uint("count", EvacuatedMax))
	switch n := len(m.Tokens); {
	case m.Count == 0:
		r.fail("count", "is 0")
	case n > 0 && uint64(n) != uint64(m.Count):
		r.fail("count", "%d, and %d tokens", m.Count, n)
	}
}

func (m *Kept) encode(w *writer) {
	w.message(KindKept, 4)
	w.uint(m.Messages)
	w.uint(m.Bytes)
	w.uint(m.Stuck)
	w.text(m.Text)
}

func (m *Kept) decode(r *reader) {
	m.Messages = r.u64("messages")
	m.Bytes = r.u64("bytes")
	m.Stuck = r.u64("stuck")
	m.Text = r.text("text")
}

func (m *Evacuated) appendText(b []byte) []byte {
	return start(b, KindEvacuated).uint("in", uint64(m.Input)).tokens("tokens", m.Tokens).uint("region", uint64(m.Region)).
		uint("seq", uint64(m.Seq)).uint("bytes", m.Bytes).uint("held_ms", m.HeldMS).uint("count", uint64(m.Count))
}

func (m *Kept) appendText(b []byte) []byte {
	return start(b, KindKept).uint("messages", m.Messages).uint("bytes", m.Bytes).
		uint("stuck", m.Stuck).str("text", m.Text)
}

// String implements Message.
func (m *Evacuated) String() string { return text(m) }

// String implements Message.
func (m *Kept) String() string { return text(m) }
