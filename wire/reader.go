package wire

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// reader reads msgpack values out of one body. The msgpack decoder reads from it
// through Read and ReadByte, but only after reader has looked at the value's
// first byte and found that the value is of the right type and lies inside the
// body: the decoder alone would wrap integers, trust lengths and recurse without
// end.
//
// The first error stays; afterwards every read returns zero values.
type reader struct {
	b  []byte
	i  int
	mp *msgpack.Decoder

	kind Kind
	more int    // elements of the body behind those that every version has
	list string // the array that is being read, for error messages
	item int    // the position in it; -1: outside of arrays
	err  *ProtocolError
}

func newReader() *reader {
	r := new(reader)
	r.mp = msgpack.NewDecoder(r)
	return r
}

func (r *reader) reset(b []byte) {
	r.b, r.i, r.kind, r.more, r.list, r.item, r.err = b, 0, 0, 0, "", -1, nil
}

// Read implements io.Reader for the msgpack decoder.
func (r *reader) Read(p []byte) (int, error) {
	n := copy(p, r.b[r.i:])
	r.i += n
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// ReadByte implements io.ByteReader for the msgpack decoder.
func (r *reader) ReadByte() (byte, error) {
	if r.i >= len(r.b) {
		return 0, io.EOF
	}
	c := r.b[r.i]
	r.i++
	return c, nil
}

// UnreadByte implements io.ByteScanner for the msgpack decoder.
func (r *reader) UnreadByte() error {
	r.i--
	return nil
}

func (r *reader) left() int { return len(r.b) - r.i }

func (r *reader) fail(field, format string, args ...any) {
	r.failWith(nil, field, format, args...)
}

func (r *reader) failWith(cause error, field, format string, args ...any) {
	if r.err != nil {
		return
	}
	if r.item >= 0 {
		p := r.list + "[" + strconv.Itoa(r.item) + "]"
		if field != "" {
			p += "." + field
		}
		field = p
	}
	r.err = &ProtocolError{Kind: r.kind, Field: field, Code: CodeProtocol,
		Reason: fmt.Sprintf(format, args...), cause: cause}
}

// peek returns the first byte of the next value, if there is one.
func (r *reader) peek(field string) (byte, bool) {
	if r.err != nil {
		return 0, false
	}
	if r.i >= len(r.b) {
		r.fail(field, "the body ends before it")
		return 0, false
	}
	return r.b[r.i], true
}

// need reports whether the next value's head of n bytes is inside the body.
func (r *reader) need(field string, n int) bool {
	if r.left() < n {
		r.fail(field, "the body ends inside it")
		return false
	}
	return true
}

// uint reads an unsigned integer of at most max, in any msgpack form.
func (r *reader) uint(field string, max uint64) uint64 {
	c, ok := r.peek(field)
	if !ok {
		return 0
	}
	if c <= msgpcode.PosFixedNumHigh { // the frequent case, before everything else
		r.i++
		if uint64(c) > max {
			r.fail(field, "%d is over %d", c, max)
			return 0
		}
		return uint64(c)
	}
	width := intWidth(c)
	if width < 0 {
		r.fail(field, "is %s, not an integer", typeName(c))
		return 0
	}
	if !r.need(field, 1+width) {
		return 0
	}
	v, _ := r.mp.DecodeUint64()
	if c >= msgpcode.Int8 && int64(v) < 0 { // the signed codes are the highest
		r.fail(field, "%d is negative", int64(v))
		return 0
	}
	if v > max {
		r.fail(field, "%d is over %d", v, max)
		return 0
	}
	return v
}

// int reads a signed integer.
func (r *reader) int(field string) int64 {
	c, ok := r.peek(field)
	if !ok {
		return 0
	}
	width := intWidth(c)
	if width < 0 {
		r.fail(field, "is %s, not an integer", typeName(c))
		return 0
	}
	if !r.need(field, 1+width) {
		return 0
	}
	v, _ := r.mp.DecodeInt64()
	if c == msgpcode.Uint64 && v < 0 { // the msgpack package has wrapped it
		r.fail(field, "%d is over %d", uint64(v), int64(math.MaxInt64))
		return 0
	}
	return v
}

func (r *reader) bool(field string) bool {
	c, ok := r.peek(field)
	if !ok {
		return false
	}
	if c != msgpcode.True && c != msgpcode.False {
		r.fail(field, "is %s, not a boolean", typeName(c))
		return false
	}
	v, _ := r.mp.DecodeBool()
	return v
}

// array reads the head of an array of at least min and at most max elements.
// Each element takes at least one byte, so that a count over the bytes left is a
// lie.
func (r *reader) array(field string, min, max int) int {
	c, ok := r.peek(field)
	if !ok {
		return 0
	}
	head := arrayHead(c)
	if head < 0 {
		r.fail(field, "is %s, not an array", typeName(c))
		return 0
	}
	if !r.need(field, head) {
		return 0
	}
	n, _ := r.arrayLen(c)
	switch {
	case n < 0 || n > r.left():
		r.fail(field, "%d elements announced, %d bytes left", uint32(n), r.left())
	case n < min:
		r.fail(field, "%d elements, at least %d are needed", n, min)
	case n > max:
		r.fail(field, "%d elements, the limit is %d", n, max)
	default:
		return n
	}
	return 0
}

// arrayLen reads the head of an array, which is there. The short form is on every
// hot path and does without the msgpack package.
func (r *reader) arrayLen(c byte) (int, error) {
	if msgpcode.IsFixedArray(c) {
		r.i++
		return int(c & msgpcode.FixedArrayMask), nil
	}
	return r.mp.DecodeArrayLen()
}

// str reads a string of at most max bytes and copies it.
func (r *reader) str(field string, max int) string {
	c, ok := r.peek(field)
	if !ok {
		return ""
	}
	head := strHead(c)
	if head < 0 {
		r.fail(field, "is %s, not a string", typeName(c))
		return ""
	}
	b := r.span(field, head, max)
	if !utf8.Valid(b) {
		r.fail(field, "is not valid UTF-8")
		return ""
	}
	return string(b)
}

// bin reads bytes, at most max. They alias the body and are never nil, except
// after an error.
func (r *reader) bin(field string, max int) []byte {
	c, ok := r.peek(field)
	if !ok {
		return nil
	}
	head := binHead(c)
	if head < 0 {
		r.fail(field, "is %s, not bytes", typeName(c))
		return nil
	}
	return r.span(field, head, max)
}

// binCopy is bin with memory of its own; nil if there are no bytes.
func (r *reader) binCopy(field string, max int) []byte {
	return append([]byte(nil), r.bin(field, max)...)
}

// span reads a length with its head and returns the bytes behind it.
func (r *reader) span(field string, head, max int) []byte {
	if !r.need(field, head) {
		return nil
	}
	announced := headLength(r.b[r.i:], msgpcode.FixedStrMask)
	if announced > uint64(r.left()-head) {
		r.fail(field, "%d bytes announced, %d bytes left", announced, r.left()-head)
		return nil
	}
	n := int(announced)
	if n > max {
		r.fail(field, "%d bytes, the limit is %d", n, max)
		return nil
	}
	r.i += head
	b := r.b[r.i : r.i+n : r.i+n]
	r.i += n
	return b
}

// payload reads bytes or nil.
func (r *reader) payload() []byte {
	if r.skipNil() {
		return nil
	}
	return r.bin("payload", math.MaxInt)
}

// metadata finds the span of a metadata map and checks it; nil for nil and for
// an empty map.
func (r *reader) metadata() RawMetadata {
	if r.err != nil || r.skipNil() {
		return nil
	}
	if n := plainMetadata(r.b[r.i:]); n > 0 {
		r.i += n
		return r.b[r.i-n : r.i : r.i]
	}
	n, entries, err := scanMetadata(r.b[r.i:])
	if err != nil {
		r.failWith(ErrMetadata, "metadata", "%s", err.Error())
		return nil
	}
	span := r.b[r.i : r.i+n : r.i+n]
	r.i += n
	if entries == 0 {
		return nil
	}
	return span
}

func (r *reader) skipNil() bool {
	if r.err == nil && r.i < len(r.b) && r.b[r.i] == msgpcode.Nil {
		r.i++
		return true
	}
	return false
}

// tokens reads an array of tokens into the memory of ts.
func (r *reader) tokens(field string, ts []Token) []Token {
	n := r.array(field, 0, TokensMax)
	ts = slices.Grow(ts[:0], n)[:n] // array has seen that a byte is there for each
	if end := readUints(ts, r.b, r.i); end >= 0 {
		r.i = end
		return ts
	}
	r.list = field
	for r.item = 0; r.item < n && r.err == nil; r.item++ {
		ts[r.item] = Token(r.uint("", math.MaxUint64))
	}
	r.item = -1
	return ts
}

// appended reports whether the body has one more element than the first form of
// its kind had; the caller reads it.
func (r *reader) appended() bool {
	if r.more == 0 {
		return false
	}
	r.more--
	return true
}

// extras skips elements that a later version of the protocol has appended: have
// elements were announced, known of them are read. depth is that of the array.
func (r *reader) extras(have, known, depth int) {
	for i := known; i < have && r.err == nil; i++ {
		n, err := skipValue(r.b[r.i:], depth+1)
		if err != nil {
			r.fail("element "+strconv.Itoa(i), "%s", err.Error())
			return
		}
		r.i += n
	}
}

func (r *reader) id(field string) string   { return r.str(field, IDBytesMax) }
func (r *reader) text(field string) string { return r.str(field, TextBytesMax) }
func (r *reader) u8(field string) uint8    { return uint8(r.uint(field, math.MaxUint8)) }
func (r *reader) u16(field string) uint16  { return uint16(r.uint(field, math.MaxUint16)) }
func (r *reader) u32(field string) uint32  { return uint32(r.uint(field, math.MaxUint32)) }
func (r *reader) u64(field string) uint64  { return r.uint(field, math.MaxUint64) }
func (r *reader) token() Token             { return Token(r.u64("token")) }
func (r *reader) outputIndex() OutputIndex { return OutputIndex(r.u32("output")) }
func (r *reader) seq(field string) Seq     { return Seq(r.u64(field)) }
func (r *reader) region(field string) RegionID {
	return RegionID(r.u64(field))
}
func (r *reader) policy() Policy {
	v := Policy(r.u8("policy"))
	if r.err == nil && !v.Valid() {
		r.fail("policy", "%d is not a policy", uint8(v))
	}
	return v
}
func (r *reader) dropReason(field string) DropReason {
	v := DropReason(r.u8(field))
	if r.err == nil && !v.Valid() {
		r.fail(field, "%d is not a drop reason", uint8(v))
	}
	return v
}
