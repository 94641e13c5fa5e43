package wire

import "math"

// Handshake, ends, and control messages.

func (m *Hello) encode(w *writer) {
	w.message(KindHello, 10)
	w.name("magic", Magic, IDBytesMax)
	w.uint(uint64(m.VersionMin))
	w.uint(uint64(m.VersionMax))
	w.uint(uint64(m.Features))
	w.uint(uint64(m.Role))
	w.bin("auth", m.Auth, AuthBytesMax)
	w.name("dataflow", m.Dataflow, IDBytesMax)
	w.name("node", m.Node, IDBytesMax)
	w.text(m.Client)
	w.uint(uint64(m.Flags))
}

func (m *Hello) decode(r *reader) {
	if magic := r.id("magic"); r.err == nil && magic != Magic {
		r.fail("magic", "%q, not %q", magic, Magic)
	}
	m.VersionMin = r.u16("version_min")
	m.VersionMax = r.u16("version_max")
	m.Features = Features(r.u64("features"))
	m.Role = Role(r.u8("role"))
	m.Auth = r.binCopy("auth", AuthBytesMax)
	m.Dataflow = r.id("dataflow")
	m.Node = r.id("node")
	m.Client = r.text("client")
	m.Flags = HelloFlags(r.u32("flags"))
	switch {
	case r.err != nil:
	case m.VersionMin > m.VersionMax:
		r.fail("version_min", "%d is over version_max, %d", m.VersionMin, m.VersionMax)
	case m.Role > RoleControl:
		r.fail("role", "%d is not a role", uint8(m.Role))
	}
}

func (m *Welcome) encode(w *writer) {
	n := 10
	if m.HeldMax != 0 {
		n++
	}
	w.message(KindWelcome, n)
	w.uint(uint64(m.Version))
	w.uint(uint64(m.Features))
	w.name("instance", m.Instance, IDBytesMax)
	w.uint(uint64(m.Session))
	w.uint(m.FrameMax)
	w.uint(uint64(m.InlineMax))
	w.uint(uint64(m.HeartbeatMS))
	w.name("probe_name", m.ProbeName, TextBytesMax)
	w.uint(m.ProbeOffset)
	w.uint(uint64(m.ProbeLength))
	if m.HeldMax != 0 {
		w.uint(m.HeldMax)
	}
}

func (m *Welcome) decode(r *reader) {
	m.Version = r.u16("version")
	m.Features = Features(r.u64("features"))
	m.Instance = r.id("instance")
	m.Session = SessionID(r.u64("session"))
	m.FrameMax = r.u64("frame_max")
	m.InlineMax = r.u32("inline_max")
	m.HeartbeatMS = r.u32("heartbeat_ms")
	m.ProbeName = r.text("probe_name")
	m.ProbeOffset = r.uint("probe_offset", math.MaxInt64)
	m.ProbeLength = uint32(r.uint("probe_length", NonceBytesMax))
	if r.appended() {
		m.HeldMax = r.u64("held_max")
	}
}

func (m *Attach) encode(w *writer) {
	n := 1
	if m.Adopting {
		n++
	}
	w.message(KindAttach, n)
	w.bin("nonce", m.Nonce, NonceBytesMax)
	if m.Adopting {
		w.bool(true)
	}
}

func (m *Attach) decode(r *reader) {
	m.Nonce = r.binCopy("nonce", NonceBytesMax)
	if r.appended() {
		m.Adopting = r.bool("adopting")
	}
}

func (m *Ready) encode(w *writer) {
	w.message(KindReady, 2)
	w.bool(m.Local)
	w.text(m.Reason)
}

func (m *Ready) decode(r *reader) {
	m.Local = r.bool("local")
	m.Reason = r.text("reason")
}

const (
	outputPortFields = 2
	inputPortFields  = 6
)

func (m *Ports) encode(w *writer) {
	if len(m.Outputs) > PortsMax || len(m.Inputs) > PortsMax {
		panic("wire: ports: more than PortsMax outputs or inputs")
	}
	w.message(KindPorts, 2)
	w.array(len(m.Outputs))
	for i := range m.Outputs {
		w.array(outputPortFields)
		w.name("id", m.Outputs[i].ID, IDBytesMax)
		w.bool(m.Outputs[i].Open)
	}
	w.array(len(m.Inputs))
	for i := range m.Inputs {
		in := &m.Inputs[i]
		w.array(inputPortFields)
		w.name("id", in.ID, IDBytesMax)
		w.name("source", in.Source, TextBytesMax)
		w.uint(uint64(in.QueueSize))
		w.uint(uint64(in.Policy))
		w.uint(uint64(in.HoldTimeoutMS))
		w.bool(in.Open)
	}
}

func (m *Ports) decode(r *reader) {
	n := r.array("outputs", 0, PortsMax)
	r.list = "outputs"
	for r.item = 0; r.item < n && r.err == nil; r.item++ {
		have := r.array("", outputPortFields, math.MaxInt)
		m.Outputs = append(m.Outputs, OutputPort{ID: r.id("id"), Open: r.bool("open")})
		r.extras(have, outputPortFields, 3)
	}
	r.item = -1
	n = r.array("inputs", 0, PortsMax)
	r.list = "inputs"
	for r.item = 0; r.item < n && r.err == nil; r.item++ {
		m.Inputs = append(m.Inputs, r.inputPort())
	}
	r.item = -1
}

func (r *reader) inputPort() InputPort {
	have := r.array("", inputPortFields, math.MaxInt)
	p := InputPort{
		ID:            r.id("id"),
		Source:        r.text("source"),
		QueueSize:     r.u32("queue_size"),
		Policy:        r.policy(),
		HoldTimeoutMS: r.u32("hold_timeout_ms"),
		Open:          r.bool("open"),
	}
	r.extras(have, inputPortFields, 3)
	return p
}

func (m *SendFailed) encode(w *writer) {
	w.message(KindSendFailed, 6)
	w.uint(uint64(m.Output))
	w.uint(uint64(m.Reason))
	w.uint(m.Count)
	w.uint(m.Bytes)
	w.uint(uint64(m.SeqFirst))
	w.uint(uint64(m.SeqLast))
}

func (m *SendFailed) decode(r *reader) {
	m.Output = r.outputIndex()
	m.Reason = r.dropReason("reason")
	m.Count = r.u64("count")
	m.Bytes = r.u64("bytes")
	m.SeqFirst = r.seq("seq_first")
	m.SeqLast = r.seq("seq_last")
}

func (m *OutputClose) encode(w *writer) {
	w.message(KindOutputClose, 1)
	w.uint(uint64(m.Output))
}

func (m *OutputClose) decode(r *reader) { m.Output = r.outputIndex() }

func (m *InputClosed) encode(w *writer) {
	w.message(KindInputClosed, 2)
	w.uint(uint64(m.Input))
	w.text(m.Reason)
}

func (m *InputClosed) decode(r *reader) {
	m.Input = InputIndex(r.u32("input"))
	m.Reason = r.text("reason")
}

func (m *Stop) encode(w *writer) {
	w.message(KindStop, 1)
	w.text(m.Reason)
}

func (m *Stop) decode(r *reader) { m.Reason = r.text("reason") }

func (m *Bye) encode(w *writer) {
	w.message(KindBye, 1)
	w.text(m.Reason)
}

func (m *Bye) decode(r *reader) { m.Reason = r.text("reason") }

func (m *Ping) encode(w *writer) {
	w.message(KindPing, 1)
	w.uint(m.Nonce)
}

func (m *Ping) decode(r *reader) { m.Nonce = r.u64("nonce") }

func (m *Pong) encode(w *writer) {
	w.message(KindPong, 1)
	w.uint(m.Nonce)
}

func (m *Pong) decode(r *reader) { m.Nonce = r.u64("nonce") }

func (m *Error) encode(w *writer) {
	w.message(KindError, 2)
	w.uint(uint64(m.Code))
	w.text(m.Text)
}

func (m *Error) decode(r *reader) {
	m.Code = Code(r.u16("code"))
	m.Text = r.text("text")
}

func (m *Request) encode(w *writer) {
	w.message(KindRequest, 3)
	w.uint(uint64(m.ID))
	w.name("verb", m.Verb, IDBytesMax)
	w.bin("body", m.Body, math.MaxInt32)
}

func (m *Request) decode(r *reader) {
	m.ID = r.u32("id")
	m.Verb = r.id("verb")
	m.Body = r.binCopy("body", math.MaxInt)
}

func (m *Reply) encode(w *writer) {
	w.message(KindReply, 5)
	w.uint(uint64(m.ID))
	w.uint(uint64(m.Code))
	w.text(m.Text)
	w.bool(m.More)
	w.bin("body", m.Body, math.MaxInt32)
}

func (m *Reply) decode(r *reader) {
	m.ID = r.u32("id")
	m.Code = Code(r.u16("code"))
	m.Text = r.text("text")
	m.More = r.bool("more")
	m.Body = r.binCopy("body", math.MaxInt)
}

func (m *Reject) encode(w *writer) {
	w.message(KindReject, 2)
	w.uint(uint64(m.Token))
	w.uint(uint64(m.Reason))
}

func (m *Reject) decode(r *reader) {
	m.Token = Token(r.u64("token"))
	m.Reason = r.dropReason("reason")
}
