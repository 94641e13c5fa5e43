package wire

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
)

// hostileFrameMax is the limit under which the hostile frames are read.
const hostileFrameMax = HandshakeFrameBytesMax

// hostile is one frame that has to be refused.
type hostile struct {
	name  string
	frame []byte
	// features are those without which a peer need not look at what is wrong.
	features Features
}

func framed(body []byte) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(body))), body...)
}

// publishWith is a publish body whose field at is something else. Fields count
// from 1 behind the kind.
func publishWith(at int, v any) []byte {
	fields := []any{6, 0, 1, 2, 3, 4, 5, 4096, 100, nil, nil}
	fields[at] = v
	return body(fields...)
}

func itemWith(at int, v any) []byte {
	item := []any{0, 0, 2, 3, 4, 5, 4096, 100, nil, nil}
	item[at] = v
	return body(7, list(list(0, 0, 1, 0, 0, 0, 0, 0, nil, nil), list(item...)))
}

func helloWith(at int, v any) []byte {
	fields := []any{1, "brokerd", 1, 1, 0, 0, []byte{}, "d", "n", "c", 0}
	fields[at] = v
	return body(fields...)
}

// hostileFrames has every way we know to break the wire format.
func hostileFrames() []hostile {
	var all []hostile
	add := func(name string, body []byte) { all = append(all, hostile{name: name, frame: framed(body)}) }
	all = append(all,
		hostile{name: "frame of length 0", frame: make([]byte, 8)},
		hostile{name: "frame over the limit", frame: binary.LittleEndian.AppendUint64(nil, hostileFrameMax+1)},
		hostile{name: "frame of 2^63 bytes", frame: binary.LittleEndian.AppendUint64(nil, 1<<63)},
		hostile{name: "frame of 2^64-1 bytes", frame: binary.LittleEndian.AppendUint64(nil, math.MaxUint64)},
		hostile{name: "HTTP instead of frames", frame: []byte("GET / HTTP/1.1\r\n")},
		hostile{name: "big-endian length", frame: binary.BigEndian.AppendUint64(nil, 3)})

	add("body is nil", []byte{0xc0})
	add("body is an integer", []byte{5})
	add("body is a map", []byte{0x81, 1, 2})
	add("body is the unused byte", []byte{0xc1})
	add("empty array", []byte{0x90})
	add("array 32 of 2^32-1 elements", []byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	add("array 16 cut short", []byte{0xdc, 0})
	add("array longer than the body", []byte{0x93, 23, 5})
	add("kind is a string", body("ping", 5))
	add("kind 0", body(0))
	add("kind negative", body(-1))
	add("kind over all kinds", body(128))
	add("kind that would wrap to ping", body(256+23, 5))
	add("kind of 2^64-1", body(uint64(math.MaxUint64)))
	add("unknown mandatory kind", body(63))
	add("unknown optional kind, bytes behind it", append(body(64), 0))
	add("unknown optional kind, nested too deep", body(64, nested(NestingMax)))
	add("unknown optional kind, lying length", body(64, raw{0xc6, 0xff, 0xff, 0xff, 0xff}))
	add("too few fields", body(8, 1, 2))
	add("bytes behind the message", append(body(23, 5), 0xc0))
	add("a second message in the frame", append(body(23, 5), body(23, 5)...))

	add("integer too large for u8", body(18, 0, 256, 0, 0, 0, 0))
	add("integer too large for u16", body(25, 65_536, ""))
	add("integer too large for u32", body(19, uint64(1)<<32))
	add("integer negative", body(14, -1))
	add("integer negative, int 64", body(14, raw{0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0}))
	add("integer is a float", body(23, raw{0xcb, 0x40, 0, 0, 0, 0, 0, 0, 0}))
	add("integer is nil", body(23, nil))
	add("integer is a string", body(23, "5"))
	add("integer cut short", []byte{0x92, 23, 0xcf, 0, 0})
	add("field announced but missing", []byte{0x92, 23})
	add("boolean is nil", body(4, nil, ""))
	add("boolean is an integer", body(4, 1, ""))

	add("string too long", body(21, strings.Repeat("x", TextBytesMax+1)))
	add("id too long", body(26, 1, strings.Repeat("x", IDBytesMax+1), []byte{}))
	add("string not UTF-8", body(21, raw{0xa2, 0xff, 0xfe}))
	add("string cut by a surrogate", body(21, raw{0xa3, 0xed, 0xa0, 0x80}))
	add("string of 2^32-1 bytes", body(21, raw{0xdb, 0xff, 0xff, 0xff, 0xff}))
	add("string longer than the body", body(21, raw{0xa5, 'a'}))
	add("string is bytes", body(21, []byte("ok")))
	add("bytes are a string", body(3, "nonce"))
	add("bytes too long", body(3, make([]byte, NonceBytesMax+1)))
	add("bytes of 2^32-1", body(3, raw{0xc6, 0xff, 0xff, 0xff, 0xff}))
	add("bytes are an extension", body(3, raw{0xc7, 1, 1, 1}))

	add("array of tokens is nil", body(9, nil))
	add("tokens: 2^32-1 announced", body(9, raw{0xdd, 0xff, 0xff, 0xff, 0xff}))
	add("tokens: more than bytes", body(9, raw{0x93, 1, 2}))
	add("tokens: over the limit", body(9, append(raw{0xdd, 0, 1, 0, 1}, make([]byte, TokensMax+1)...)))
	add("tokens: one negative", body(9, list(1, 2, -3)))
	add("tokens: one is an array", body(8, 1, 2, list(1, list())))
	add("items: 65,536 announced", body(7, raw{0xdd, 0, 1, 0, 0}))
	add("items: one too short", itemsOf(list(0, 0, 1, 0, 0, 0, 0, 0, nil)))
	add("items: one is nil", itemsOf(nil))
	add("ports: 65,535 announced", body(5, raw{0xdc, 0xff, 0xff}, list()))
	add("ports: over the limit", body(5, append(raw{0xdc, 0x10, 0x01}, bytes.Repeat([]byte{0xc0}, PortsMax+1)...), list()))
	add("ports: unknown policy", body(5, list(), list(list("i", "a/b", 1, 3, 0, true))))
	add("ports: id too long", body(5, list(list(strings.Repeat("x", IDBytesMax+1), true)), list()))

	add("extra nested too deep", body(23, 5, nested(NestingMax)))
	add("extra nested very deep", body(23, 5, nested(60_000)))
	add("extra maps nested very deep", body(23, 5, raw(bytes.Repeat([]byte{0x81, 0xc0}, 30_000))))
	add("extra map of 2^31 pairs", body(23, 5, raw{0xdf, 0x80, 0, 0, 0}))
	add("extra extension lies", body(23, 5, raw{0xc9, 0xff, 0xff, 0xff, 0xff, 0}))
	add("extra is the unused byte", body(23, 5, raw{0xc1}))

	add("hello: wrong magic", helloWith(1, "broken"))
	add("hello: versions reversed", helloWith(2, 2))
	add("hello: unknown role", helloWith(5, 2))
	add("hello: secret too long", helloWith(6, make([]byte, AuthBytesMax+1)))
	add("send_failed: unknown reason", body(18, 0, 11, 1, 1, 1, 1))
	add("reject: reason 0", body(28, 1, 0))
	add("welcome: probe longer than a nonce", body(2, 1, 0, "i", 1, 1, 1, 1, "p", 0, NonceBytesMax+1))

	addDescriptors(add)
	addMetadata(add)
	older := len(all)
	addLanes(add)
	addAdopt(add)
	for i := older; i < len(all); i++ {
		all[i].features = FeatureLanes
	}
	older = len(all)
	addEvacuation(add)
	for i := older; i < len(all); i++ {
		all[i].features = FeatureEvacuation
	}
	older = len(all)
	addShortage(add)
	for i := older; i < len(all); i++ {
		all[i].features = FeatureInline
	}
	return all
}

func itemsOf(v any) []byte { return body(7, list(v, "padding for two items")) }

func addDescriptors(add func(string, []byte)) {
	add("publish: region without token", publishWith(5, 0))
	add("publish: token without region", publishWith(6, 0))
	add("publish: payload besides a region", publishWith(10, []byte{1}))
	add("publish: empty payload besides a region", publishWith(10, []byte{}))
	add("publish: end of the range overflows", publishWith(8, uint64(math.MaxUint64)))
	add("publish: offset over all files", publishWith(7, uint64(math.MaxUint64)))
	add("publish: output over u32", publishWith(1, uint64(1)<<32))
	add("publish: epoch over u32", publishWith(2, uint64(1)<<32))
	add("publish: time over int 64", publishWith(4, uint64(1)<<63))
	add("publish: sequence number negative", publishWith(3, -1))
	add("publish: payload is a string", body(6, 0, 0, 1, 0, 0, 0, 0, 1, nil, "x"))
	add("publish: length without payload", body(6, 0, 0, 1, 0, 0, 0, 0, 1, nil, nil))
	add("publish: length is not the payload's", body(6, 0, 0, 1, 0, 0, 0, 0, 2, nil, []byte{1}))
	add("publish: offset without region", body(6, 0, 0, 1, 0, 0, 0, 1, 0, nil, nil))
	add("publish: payload lies", body(6, 0, 0, 1, 0, 0, 0, 0, 1, nil, raw{0xc6, 0xff, 0xff, 0xff, 0xff, 1}))
	add("inputs: region without token", itemWith(4, 0))
	add("inputs: time over int 64", itemWith(3, uint64(1)<<63))
	add("inputs: dropped negative", itemWith(1, -1))
}

func addMetadata(add func(string, []byte)) {
	meta := func(name string, m raw) { add("metadata: "+name, publishWith(9, m)) }
	meta("is an array", list())
	meta("is bytes", raw{0xc4, 0})
	meta("nested map", raw{0x81, 0xa1, 'k', 0x80})
	meta("nested array", raw{0x81, 0xa1, 'k', 0x90})
	meta("extension", raw{0x81, 0xa1, 'k', 0xd4, 1, 1})
	meta("key is an integer", raw{0x81, 1, 1})
	meta("key not UTF-8", raw{0x81, 0xa1, 0xff, 1})
	meta("key too long", AppendMetadata(nil, []Attr{Int(strings.Repeat("k", MetadataKeyBytesMax+1), 1)}))
	meta("value not UTF-8", raw{0x81, 0xa1, 'k', 0xa1, 0xff})
	meta("value over int 64", raw{0x81, 0xa1, 'k', 0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0})
	meta("value is the unused byte", raw{0x81, 0xa1, 'k', 0xc1})
	meta("value missing", raw{0x81, 0xa1, 'k'}) // takes the payload's nil, which is then missing
	meta("2^32-1 entries", raw{0xdf, 0xff, 0xff, 0xff, 0xff})
	many := append(raw{0xde, 0, MetadataEntriesMax + 1}, bytes.Repeat([]byte{0xa1, 'k', 1}, MetadataEntriesMax+1)...)
	meta("too many entries", many)
	meta("too long", AppendMetadata(nil, []Attr{Bytes("k", make([]byte, MetadataBytesMax))}))
	meta("string lies", raw{0x81, 0xa1, 'k', 0xdb, 0xff, 0xff, 0xff, 0xff})
}
