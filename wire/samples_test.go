package wire

import (
	"bytes"
	"fmt"
	"math"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// sample is one message of the hex vectors.
type sample struct {
	name string
	msg  Message
}

// features are those that both sides need for it to be sent.
func (s sample) features() Features {
	switch m := s.msg.(type) {
	case *Publish:
		if m.Lanes != 0 {
			return FeatureLanes
		}
	case *Flow:
		if m.Brokered != flowBrokeredUsual {
			return FeatureLanes
		}
	case *Attach:
		if m.Adopting {
			return FeatureLanes
		}
	case *RegionOpen:
		if m.Owner != 0 {
			return FeatureLanes
		}
	}
	switch m := s.msg.(type) {
	case *Welcome:
		if m.HeldMax != 0 {
			return FeatureEvacuation
		}
	case *LaneGrant:
		if m.GraceMS != 0 {
			return FeatureLanes | FeatureEvacuation
		}
	case *Evacuated, *Kept:
		return FeatureEvacuation
	case *Shortage:
		return FeatureInline
	}
	if s.msg.Kind() >= KindLaneGrant {
		return FeatureLanes
	}
	return 0
}

// samples has each kind at least once, and the edges of its fields.
func samples() []sample {
	meta := AppendMetadata(nil, []Attr{Int("frame", 7), Float("gain", 1.5), Bool("key", true),
		String("format", "rgb8"), Bytes("id", []byte{0xca, 0xfe}), Null("mask")})
	return append([]sample{
		{"hello", &Hello{VersionMin: 1, VersionMax: 1, Dataflow: "vision", Node: "camera", Client: "brokerd-go/0.1"}},
		{"hello with everything", &Hello{VersionMin: 1, VersionMax: 3, Features: 5, Role: RoleControl,
			Auth: []byte("secret"), Client: "größer 1.0", Flags: FlagTakeover}},
		{"welcome", &Welcome{Version: 1, Instance: "5f3a9c01", Session: 3, FrameMax: 67_108_864, InlineMax: 4096,
			HeartbeatMS: 5000, ProbeName: "brokerd-5f3a9c01-probe", ProbeLength: 32}},
		{"welcome without shared memory", &Welcome{Version: 1, Instance: "5f3a9c01", Session: 4,
			FrameMax: 67_108_864, InlineMax: 4096}},
		{"attach", &Attach{Nonce: bytes.Repeat([]byte{0xa5}, 32)}},
		{"attach without shared memory", &Attach{}},
		{"ready local", &Ready{Local: true}},
		{"ready remote", &Ready{Reason: "nonce does not match"}},
		{"ports", &Ports{Outputs: []OutputPort{{ID: "image", Open: true}, {ID: "old"}},
			Inputs: []InputPort{
				{ID: "tick", Source: "timer/millis/100", QueueSize: 1, Open: true},
				{ID: "frame", Source: "camera/image", QueueSize: 10, Policy: PolicyBlock, HoldTimeoutMS: 10_000, Open: true},
				{ID: "gone", Source: "x/y", QueueSize: 65_536, Policy: PolicyDropNewest}}}},
		{"ports of a node without any", &Ports{}},
		{"publish in shared memory", &Publish{Epoch: 1, Seq: 7, TimeNS: 1_750_000_000_000_000_000, Token: 3,
			Region: 2, Offset: 4096, Length: 921_600, Metadata: meta}},
		{"publish inline", &Publish{Output: 1, Epoch: 2, Seq: 8, TimeNS: 1_750_000_000_000_000_001, Length: 5,
			Payload: []byte("hello")}},
		{"publish inline, empty", &Publish{Seq: 9, Payload: []byte{}}},
		{"publish inline, no payload", &Publish{Seq: 10}},
		{"publish inline, 300 bytes", &Publish{Seq: 11, Length: 300, Payload: bytes.Repeat([]byte{1, 2, 3}, 100)}},
		{"publish, largest integers", &Publish{Output: math.MaxUint32, Epoch: math.MaxUint32, Seq: math.MaxUint64,
			TimeNS: math.MinInt64, Token: math.MaxUint64, Region: math.MaxUint64, Offset: math.MaxInt64 - 1, Length: 1}},
		{"inputs", &Inputs{Items: []Input{
			{Input: 1, Dropped: 2, Seq: 7, TimeNS: 1_750_000_000_000_000_000, Token: 900, Region: 2, Offset: 4096,
				Length: 921_600, Metadata: meta},
			{Input: 0, Seq: 70_000, TimeNS: -1, Length: 3, Payload: []byte{0, 1, 2}}}}},
		{"inputs, none", &Inputs{}},
		{"next", &Next{Limit: 12, Consumed: 10, Done: []Token{900, 901, 70_000}}},
		{"next without tokens", &Next{Limit: 1}},
		{"done", &Done{Tokens: []Token{3, 4, 255, 256, 65_535, 65_536, math.MaxUint64}}},
		{"done, 20 tokens", &Done{Tokens: manyTokens(20)}},
		{"flow", &Flow{Output: 0, Epoch: 1, Receivers: 2, Window: WindowUnlimited, Brokered: 1}},
		{"flow with a window", &Flow{Output: 3, Epoch: 4, Receivers: 1, Window: 110, Brokered: 1}},
		{"region_request", &RegionRequest{Request: 1, SlotBytes: 1_048_576, Slots: 8}},
		{"region_grant", &RegionGrant{Request: 1, Region: 2, Name: "brokerd-5f3a9c01-2-00112233445566ff",
			Bytes: 8_392_704, SlotBytes: 1_048_576, Slots: 8}},
		{"region_denied", &RegionDenied{Request: 2, Code: CodeQuota, Text: "512 MiB of 512 MiB used"}},
		{"region_return", &RegionReturn{Region: 2}},
		{"region_retire", &RegionRetire{Region: 2}},
		{"region_open", &RegionOpen{Region: 2, Name: "brokerd-5f3a9c01-2-00112233445566ff", Bytes: 8_392_704,
			SlotBytes: 1_048_576, Slots: 8}},
		{"region_close", &RegionClose{Region: 2}},
		{"send_failed", &SendFailed{Output: 0, Reason: DropNoMemory, Count: 3, Bytes: 2_764_800, SeqFirst: 20, SeqLast: 22}},
		{"output_close", &OutputClose{Output: 1}},
		{"input_closed", &InputClosed{Input: 1, Reason: "camera left"}},
		{"stop", &Stop{Reason: "operator"}},
		{"bye", &Bye{Reason: "done"}},
		{"ping", &Ping{Nonce: 0x0123456789abcdef}},
		{"pong", &Pong{Nonce: 0x0123456789abcdef}},
		{"error", &Error{Code: CodeDuplicateNode, Text: "node \"camera\" is connected from 127.0.0.1:4000"}},
		{"request", &Request{ID: 1, Verb: VerbDrops, Body: []byte(`{"follow":true}`)}},
		{"reply", &Reply{ID: 1, More: true, Body: []byte(`[]`)}},
		{"reply, refused", &Reply{ID: 2, Code: CodeNotFound, Text: "no dataflow \"x\""}},
		{"reject", &Reject{Token: 900, Reason: DropBadDescriptor}},
	}, append(laneSamples(meta), append(evacuationSamples(), shortageSamples()...)...)...)
}

func manyTokens(n int) []Token {
	ts := make([]Token, n)
	for i := range ts {
		ts[i] = Token(i + 1)
	}
	return ts
}

// raw is msgpack that goes into a body as it is.
type raw []byte

// body encodes the elements of a body by hand, so that it can be wrong.
func body(elements ...any) []byte {
	b := appendArray(nil, len(elements))
	for _, e := range elements {
		switch v := e.(type) {
		case int:
			b = appendInt(b, int64(v))
		case uint64:
			b = appendUint(b, v)
		case string:
			b = appendStr(b, v)
		case []byte:
			b = appendBin(b, v)
		case bool:
			flag := Bool("", v)
			b = appendValue(b, &flag.Value)
		case nil:
			b = append(b, msgpcode.Nil)
		case raw:
			b = append(b, v...)
		default:
			panic(fmt.Sprintf("body: %T", e))
		}
	}
	return b
}

// list is body for an array inside a body.
func list(elements ...any) raw { return raw(body(elements...)) }

// accepted are bodies in other than the usual form that have to be understood.
// want nil: an unknown optional message, to be ignored.
func accepted() []struct {
	name string
	body []byte
	want Message
} {
	type row = struct {
		name string
		body []byte
		want Message
	}
	extra := list(1, list("later", nil), raw{0x81, 0xa1, 'k', 0xc2})
	return []row{
		{"fields of a later version behind the known ones", body(23, 5, extra, "more"), &Ping{Nonce: 5}},
		{"the same in a publish", body(6, 0, 1, 2, 3, 0, 0, 0, 0, nil, nil, 0, extra, raw{0xd4, 1, 2}), &Publish{Epoch: 1, Seq: 2, TimeNS: 3}},
		{"the same in an item", body(7, list(list(1, 0, 1, 0, 0, 0, 0, 0, nil, nil, extra))), &Inputs{Items: []Input{{Input: 1, Seq: 1}}}},
		{"the same in a port", body(5, list(list("image", true, 3)), list()), &Ports{Outputs: []OutputPort{{ID: "image", Open: true}}}},
		{"extra nested as deep as allowed", body(23, 5, nested(NestingMax-1)), &Ping{Nonce: 5}},
		{"unsigned integer as int 64", body(23, raw{0xd3, 0, 0, 0, 0, 0, 0, 0, 5}), &Ping{Nonce: 5}},
		{"unsigned integer as int 8", body(23, raw{0xd0, 5}), &Ping{Nonce: 5}},
		{"integer longer than needed", body(23, raw{0xcf, 0, 0, 0, 0, 0, 0, 0, 5}), &Ping{Nonce: 5}},
		{"kind longer than needed", body(raw{0xcd, 0, 23}, 5), &Ping{Nonce: 5}},
		{"publish with signed forms", body(6, raw{0xd0, 0}, raw{0xd1, 0, 1}, raw{0xd2, 0, 0, 0, 2}, raw{0xd3, 0, 0, 0, 0, 0, 0, 0, 3}, 0, 0, 0, 0, nil, nil),
			&Publish{Epoch: 1, Seq: 2, TimeNS: 3}},
		{"token with a signed form", body(9, list(1, raw{0xd1, 1, 0})), &Done{Tokens: []Token{1, 256}}},
		{"body as array 32", append([]byte{0xdd, 0, 0, 0, 2}, body(23, 5)[1:]...), &Ping{Nonce: 5}},
		{"string as str 32", body(21, raw{0xdb, 0, 0, 0, 2, 'o', 'k'}), &Stop{Reason: "ok"}},
		{"payload as bin 32", body(6, 0, 0, 1, 0, 0, 0, 0, 1, nil, raw{0xc6, 0, 0, 0, 1, 9}), &Publish{Seq: 1, Length: 1, Payload: []byte{9}}},
		{"empty metadata map", body(6, 0, 0, 1, 0, 0, 0, 0, 0, raw{0x80}, nil), &Publish{Seq: 1}},
		{"metadata as map 32, float 32", body(6, 0, 0, 1, 0, 0, 0, 0, 0, raw{0xdf, 0, 0, 0, 1, 0xa1, 'f', 0xca, 0x3f, 0x80, 0, 0}, nil),
			&Publish{Seq: 1, Metadata: RawMetadata{0xdf, 0, 0, 0, 1, 0xa1, 'f', 0xca, 0x3f, 0x80, 0, 0}}},
		{"error code of a later version", body(25, 999, "new"), &Error{Code: 999, Text: "new"}},
		{"unknown feature and flag bits", body(1, "brokerd", 1, 1, uint64(math.MaxUint64), 0, []byte{}, "d", "n", "c", uint64(math.MaxUint32)),
			&Hello{VersionMin: 1, VersionMax: 1, Features: math.MaxUint64, Dataflow: "d", Node: "n", Client: "c", Flags: math.MaxUint32}},
		{"unknown optional kind", body(64, "anything", extra), nil},
		{"unknown optional kind without fields", body(127), nil},
		{"lanes of a publish on the wire, and none", body(6, 0, 1, 2, 3, 0, 0, 0, 0, nil, nil, 0), &Publish{Epoch: 1, Seq: 2, TimeNS: 3}},
		{"brokered of a flow on the wire, and usual", body(10, 3, 4, 1, 110, 1), &Flow{Output: 3, Epoch: 4, Receivers: 1, Window: 110, Brokered: 1}},
		{"adopting of an attach on the wire, and not", body(3, []byte{1}, false), &Attach{Nonce: []byte{1}}},
		{"fields of a later version behind those that may be left out", body(10, 3, 4, 1, 110, 2, extra), &Flow{Output: 3, Epoch: 4, Receivers: 1, Window: 110, Brokered: 2}},
		{"the same in a lane's own message", body(33, 1<<33, extra), &LaneDone{Lane: 1 << 33}},
		{"the same in regions and lanes on offer", body(36, "i", 0, "", list(list(1, "n", 4096, 1, extra)),
			list(list(2, 1, "frame", "camera/image", 0, 1, 0, 0, "m", 2048, 3, extra)), extra),
			&Adopt{Instance: "i", Regions: []AdoptRegion{{Region: 1, Name: "n", SlotBytes: 4096, Slots: 1}},
				Lanes: []AdoptLane{{Lane: 2, Role: LaneReceiver, Port: "frame", Peer: "camera/image", QueueSize: 1, Name: "m",
					SlotBytes: 2048, PeerBellRegion: 3}}}},
	}
}

// nested is a tower of n arrays.
func nested(n int) raw {
	b := bytes.Repeat([]byte{0x91}, n)
	b[n-1] = 0x90
	return raw(b)
}
