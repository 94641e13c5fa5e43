package wire

import (
	"encoding/hex"
	"math"
	"strconv"
)

// line builds a text form: the kind's name, then key=value pairs.
type line []byte

func (l line) uint(key string, v uint64) line {
	l = append(append(append(l, ' '), key...), '=')
	return strconv.AppendUint(l, v, 10)
}

func (l line) int(key string, v int64) line {
	l = append(append(append(l, ' '), key...), '=')
	return strconv.AppendInt(l, v, 10)
}

// str writes strings in quotes: they may hold anything a peer chose to send.
func (l line) str(key, v string) line {
	l = append(append(append(l, ' '), key...), '=')
	return strconv.AppendQuote(l, v)
}

func (l line) word(key, v string) line {
	l = append(append(append(l, ' '), key...), '=')
	return append(l, v...)
}

func (l line) bool(key string, v bool) line { return l.word(key, strconv.FormatBool(v)) }

// set writes true and leaves false out.
func (l line) set(key string, v bool) line {
	if !v {
		return l
	}
	return l.bool(key, v)
}

func (l line) hex(key string, v uint64) line {
	l = append(append(append(l, ' '), key...), "=0x"...)
	return strconv.AppendUint(l, v, 16)
}

// metadata writes nothing if there is none.
func (l line) metadata(m RawMetadata) line {
	if len(m) == 0 {
		return l
	}
	l = append(l, " meta{"...)
	first := true
	for key, v := range m.All() {
		if !first {
			l = append(l, ' ')
		}
		first = false
		l = appendKey(l, key)
		l = append(l, '=')
		l = v.appendText(l)
	}
	return append(l, '}')
}

// appendKey writes a key, in quotes if it is not a plain word.
func appendKey(b []byte, key string) []byte {
	if CheckID(key) == nil {
		return append(b, key...)
	}
	return strconv.AppendQuote(b, key)
}

func (v Value) appendText(b []byte) []byte {
	switch v.typ {
	case TypeBool:
		return strconv.AppendBool(b, v.bits == 1)
	case TypeInt:
		return strconv.AppendInt(b, int64(v.bits), 10)
	case TypeFloat:
		return strconv.AppendFloat(b, v.Float(), 'g', -1, 64)
	case TypeString:
		return strconv.AppendQuote(b, string(v.data))
	case TypeBytes:
		return append(hex.AppendEncode(append(b, "h'"...), v.data), '\'')
	}
	return append(b, "null"...)
}

// String returns the value's text form.
func (v Value) String() string { return string(v.appendText(nil)) }

// String returns the text form of all entries.
func (m RawMetadata) String() string {
	if len(m) == 0 {
		return "meta{}"
	}
	return string(line(nil).metadata(m)[1:])
}

func (l line) tokens(key string, ts []Token) line {
	l = append(append(append(l, ' '), key...), "=["...)
	for i, t := range ts {
		if i > 0 {
			l = append(l, ' ')
		}
		l = strconv.AppendUint(l, uint64(t), 10)
	}
	return append(l, ']')
}

// descriptor writes where a payload is and how long it is. A zero time is left
// out.
func (l line) descriptor(seq Seq, timeNS int64, t Token, region RegionID, offset, length uint64) line {
	l = l.uint("seq", uint64(seq))
	if timeNS != 0 {
		l = l.int("time", timeNS)
	}
	if t == 0 && region == 0 && offset == 0 {
		return append(l, " inline"...).uint("len", length)
	}
	return l.uint("token", uint64(t)).uint("region", uint64(region)).uint("off", offset).uint("len", length)
}

// lanes writes nothing if there are none.
func (l line) lanes(mask uint64) line {
	if mask == 0 {
		return l
	}
	return l.hex("lanes", mask)
}

func text(m Message) string { return string(m.appendText(nil)) }

func start(b []byte, k Kind) line { return append(b, k.String()...) }

func (m *Hello) appendText(b []byte) []byte {
	return start(b, KindHello).uint("version_min", uint64(m.VersionMin)).uint("version_max", uint64(m.VersionMax)).
		hex("features", uint64(m.Features)).word("role", m.Role.String()).uint("auth_len", uint64(len(m.Auth))).
		str("dataflow", m.Dataflow).str("node", m.Node).str("client", m.Client).hex("flags", uint64(m.Flags))
}

func (m *Welcome) appendText(b []byte) []byte {
	l := start(b, KindWelcome).uint("version", uint64(m.Version)).hex("features", uint64(m.Features)).
		str("instance", m.Instance).uint("session", uint64(m.Session)).uint("frame_max", m.FrameMax).
		uint("inline_max", uint64(m.InlineMax)).uint("heartbeat_ms", uint64(m.HeartbeatMS)).
		str("probe", m.ProbeName).uint("probe_off", m.ProbeOffset).uint("probe_len", uint64(m.ProbeLength))
	if m.HeldMax != 0 {
		l = l.uint("held_max", m.HeldMax)
	}
	return l
}

func (m *Attach) appendText(b []byte) []byte {
	return start(b, KindAttach).uint("nonce_len", uint64(len(m.Nonce))).set("adopting", m.Adopting)
}

func (m *Ready) appendText(b []byte) []byte {
	return start(b, KindReady).bool("local", m.Local).str("reason", m.Reason)
}

func (m *Ports) appendText(b []byte) []byte {
	l := append(start(b, KindPorts), " outputs=["...)
	for i, p := range m.Outputs {
		if i > 0 {
			l = append(l, ' ')
		}
		l = append(strconv.AppendQuote(append(l, '{'), p.ID), openText(p.Open)...)
	}
	l = append(l, "] inputs=["...)
	for i, p := range m.Inputs {
		if i > 0 {
			l = append(l, ' ')
		}
		l = strconv.AppendQuote(append(l, '{'), p.ID)
		l = l.str("source", p.Source).uint("queue", uint64(p.QueueSize)).word("policy", p.Policy.String()).
			uint("hold_ms", uint64(p.HoldTimeoutMS))
		l = append(l, openText(p.Open)...)
	}
	return append(l, ']')
}

// openText ends the text of a port.
func openText(open bool) string {
	if open {
		return "}"
	}
	return " closed}"
}

func (m *Publish) appendText(b []byte) []byte {
	return start(b, KindPublish).uint("out", uint64(m.Output)).uint("epoch", uint64(m.Epoch)).
		descriptor(m.Seq, m.TimeNS, m.Token, m.Region, m.Offset, m.Length).lanes(m.Lanes).metadata(m.Metadata)
}

func (m *Inputs) appendText(b []byte) []byte {
	l := start(b, KindInputs).uint("n", uint64(len(m.Items)))
	for i := range m.Items {
		in := &m.Items[i]
		l = append(l, " {in="...)
		l = strconv.AppendUint(l, uint64(in.Input), 10)
		l = l.uint("dropped", in.Dropped).
			descriptor(in.Seq, in.TimeNS, in.Token, in.Region, in.Offset, in.Length).metadata(in.Metadata)
		l = append(l, '}')
	}
	return l
}

func (m *Next) appendText(b []byte) []byte {
	return start(b, KindNext).uint("limit", m.Limit).uint("consumed", m.Consumed).tokens("done", m.Done)
}

func (m *Done) appendText(b []byte) []byte { return start(b, KindDone).tokens("tokens", m.Tokens) }

func (m *Flow) appendText(b []byte) []byte {
	l := start(b, KindFlow).uint("out", uint64(m.Output)).uint("epoch", uint64(m.Epoch)).
		uint("receivers", uint64(m.Receivers))
	if m.Window == math.MaxUint64 {
		l = l.word("window", "unlimited")
	} else {
		l = l.uint("window", m.Window)
	}
	if m.Brokered != flowBrokeredUsual {
		l = l.uint("brokered", uint64(m.Brokered))
	}
	return l
}

func (m *RegionRequest) appendText(b []byte) []byte {
	return start(b, KindRegionRequest).uint("request", uint64(m.Request)).uint("slot_bytes", m.SlotBytes).
		uint("slots", uint64(m.Slots))
}

func (m *RegionGrant) appendText(b []byte) []byte {
	return start(b, KindRegionGrant).uint("request", uint64(m.Request)).
		region(m.Region, m.Name, m.Bytes, m.SlotBytes, m.Slots)
}

func (l line) region(id RegionID, name string, bytes, slotBytes uint64, slots uint32) line {
	return l.uint("region", uint64(id)).str("name", name).uint("bytes", bytes).
		uint("slot_bytes", slotBytes).uint("slots", uint64(slots))
}

func (m *RegionDenied) appendText(b []byte) []byte {
	return start(b, KindRegionDenied).uint("request", uint64(m.Request)).word("code", m.Code.String()).str("text", m.Text)
}

func (m *RegionReturn) appendText(b []byte) []byte {
	return start(b, KindRegionReturn).uint("region", uint64(m.Region))
}

func (m *RegionRetire) appendText(b []byte) []byte {
	return start(b, KindRegionRetire).uint("region", uint64(m.Region))
}

func (m *RegionOpen) appendText(b []byte) []byte {
	l := start(b, KindRegionOpen).region(m.Region, m.Name, m.Bytes, m.SlotBytes, m.Slots)
	if m.Owner != 0 {
		l = l.uint("owner", uint64(m.Owner))
	}
	return l
}

func (m *RegionClose) appendText(b []byte) []byte {
	return start(b, KindRegionClose).uint("region", uint64(m.Region))
}

func (m *SendFailed) appendText(b []byte) []byte {
	return start(b, KindSendFailed).uint("out", uint64(m.Output)).word("reason", m.Reason.String()).
		uint("count", m.Count).uint("bytes", m.Bytes).
		uint("seq_first", uint64(m.SeqFirst)).uint("seq_last", uint64(m.SeqLast))
}

func (m *OutputClose) appendText(b []byte) []byte {
	return start(b, KindOutputClose).uint("out", uint64(m.Output))
}

func (m *InputClosed) appendText(b []byte) []byte {
	return start(b, KindInputClosed).uint("in", uint64(m.Input)).str("reason", m.Reason)
}

func (m *Stop) appendText(b []byte) []byte { return start(b, KindStop).str("reason", m.Reason) }
func (m *Bye) appendText(b []byte) []byte  { return start(b, KindBye).str("reason", m.Reason) }
func (m *Ping) appendText(b []byte) []byte { return start(b, KindPing).uint("nonce", m.Nonce) }
func (m *Pong) appendText(b []byte) []byte { return start(b, KindPong).uint("nonce", m.Nonce) }

func (m *Error) appendText(b []byte) []byte {
	return start(b, KindError).word("code", m.Code.String()).str("text", m.Text)
}

func (m *Request) appendText(b []byte) []byte {
	return start(b, KindRequest).uint("id", uint64(m.ID)).str("verb", m.Verb).uint("body_len", uint64(len(m.Body)))
}

func (m *Reply) appendText(b []byte) []byte {
	return start(b, KindReply).uint("id", uint64(m.ID)).word("code", m.Code.String()).str("text", m.Text).
		bool("more", m.More).uint("body_len", uint64(len(m.Body)))
}

func (m *Reject) appendText(b []byte) []byte {
	return start(b, KindReject).uint("token", uint64(m.Token)).word("reason", m.Reason.String())
}

func (m *Hello) String() string         { return text(m) }
func (m *Welcome) String() string       { return text(m) }
func (m *Attach) String() string        { return text(m) }
func (m *Ready) String() string         { return text(m) }
func (m *Ports) String() string         { return text(m) }
func (m *Publish) String() string       { return text(m) }
func (m *Inputs) String() string        { return text(m) }
func (m *Next) String() string          { return text(m) }
func (m *Done) String() string          { return text(m) }
func (m *Flow) String() string          { return text(m) }
func (m *RegionRequest) String() string { return text(m) }
func (m *RegionGrant) String() string   { return text(m) }
func (m *RegionDenied) String() string  { return text(m) }
func (m *RegionReturn) String() string  { return text(m) }
func (m *RegionRetire) String() string  { return text(m) }
func (m *RegionOpen) String() string    { return text(m) }
func (m *RegionClose) String() string   { return text(m) }
func (m *SendFailed) String() string    { return text(m) }
func (m *OutputClose) String() string   { return text(m) }
func (m *InputClosed) String() string   { return text(m) }
func (m *Stop) String() string          { return text(m) }
func (m *Bye) String() string           { return text(m) }
func (m *Ping) String() string          { return text(m) }
func (m *Pong) String() string          { return text(m) }
func (m *Error) String() string         { return text(m) }
func (m *Request) String() string       { return text(m) }
func (m *Reply) String() string         { return text(m) }
func (m *Reject) String() string        { return text(m) }
