package wire

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// RawMetadata is the encoded metadata of a message: a msgpack map from strings
// to nil, booleans, integers, floats, strings or bytes, as it travels. The broker
// forwards it untouched. Nil is no metadata. Keys should be unique; readers take
// the first.
type RawMetadata []byte

// ValueType is the type of a metadata value.
type ValueType uint8

// The types of metadata values.
const (
	TypeNull ValueType = iota
	TypeBool
	TypeInt
	TypeFloat
	TypeString
	TypeBytes
)

// Value is one metadata value. The zero Value is null.
type Value struct {
	typ  ValueType
	bits uint64 // bool, int64, float64
	data []byte // string, bytes
}

// Attr is one metadata entry, for sending.
type Attr struct {
	Key   string // at most MetadataKeyBytesMax bytes of UTF-8
	Value Value
}

// Null makes an entry without a value.
func Null(key string) Attr { return Attr{Key: key} }

// Bool makes a boolean entry.
func Bool(key string, v bool) Attr {
	a := Attr{Key: key, Value: Value{typ: TypeBool}}
	if v {
		a.Value.bits = 1
	}
	return a
}

// Int makes an integer entry.
func Int(key string, v int64) Attr { return Attr{key, Value{typ: TypeInt, bits: uint64(v)}} }

// Float makes a floating-point entry.
func Float(key string, v float64) Attr {
	return Attr{key, Value{typ: TypeFloat, bits: math.Float64bits(v)}}
}

// String makes a text entry.
func String(key, v string) Attr { return Attr{key, Value{typ: TypeString, data: []byte(v)}} }

// Bytes makes a binary entry. v is not copied.
func Bytes(key string, v []byte) Attr { return Attr{key, Value{typ: TypeBytes, data: v}} }

// Type returns the value's type.
func (v Value) Type() ValueType { return v.typ }

// Bool returns a boolean; false for other types.
func (v Value) Bool() bool { return v.typ == TypeBool && v.bits == 1 }

// Int returns an integer; 0 for other types.
func (v Value) Int() int64 {
	if v.typ != TypeInt {
		return 0
	}
	return int64(v.bits)
}

// Float returns a float, or an integer as a float; 0 for other types.
func (v Value) Float() float64 {
	switch v.typ {
	case TypeFloat:
		return math.Float64frombits(v.bits)
	case TypeInt:
		return float64(int64(v.bits))
	}
	return 0
}

// Bytes returns bytes, or the bytes of a string; nil for other types. They may
// alias the message.
func (v Value) Bytes() []byte { return v.data }

// Text returns a string; "" for other types.
func (v Value) Text() string {
	if v.typ != TypeString {
		return ""
	}
	return string(v.data)
}

// AppendMetadata appends the encoded map of attrs to dst; nothing if there are
// none. Check attrs of foreign origin with ValidateMetadata afterwards.
func AppendMetadata(dst []byte, attrs []Attr) []byte {
	if len(attrs) == 0 {
		return dst
	}
	if len(attrs) < 16 {
		dst = append(dst, msgpcode.FixedMapLow|byte(len(attrs)))
	} else {
		dst = append(dst, msgpcode.Map16)
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(attrs)))
	}
	for i := range attrs {
		dst = appendStr(dst, attrs[i].Key)
		dst = appendValue(dst, &attrs[i].Value)
	}
	return dst
}

func appendValue(dst []byte, v *Value) []byte {
	switch v.typ {
	case TypeBool:
		if v.bits == 1 {
			return append(dst, msgpcode.True)
		}
		return append(dst, msgpcode.False)
	case TypeInt:
		return appendInt(dst, int64(v.bits))
	case TypeFloat:
		return binary.BigEndian.AppendUint64(append(dst, msgpcode.Double), v.bits)
	case TypeString:
		return appendStr(dst, v.data)
	case TypeBytes:
		return appendBin(dst, v.data)
	}
	return append(dst, msgpcode.Nil)
}

// ValidateMetadata checks that raw is one metadata map within the limits and
// nothing else. Its error wraps ErrMetadata. Empty is valid.
func ValidateMetadata(raw RawMetadata) error {
	if len(raw) == 0 {
		return nil
	}
	n, _, err := scanMetadata(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	if n != len(raw) {
		return fmt.Errorf("%w: %d bytes behind the map", ErrMetadata, len(raw)-n)
	}
	return nil
}

// Len is the number of entries; 0 if the metadata is not valid.
func (m RawMetadata) Len() int {
	if len(m) == 0 || mapHead(m[0]) < 0 || len(m) < mapHead(m[0]) {
		return 0
	}
	return int(headLength(m, msgpcode.FixedMapMask))
}

// All ranges over the entries in the order of the wire, up to the first that is
// not valid.
func (m RawMetadata) All() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		b, n := m.entries()
		for ; n > 0; n-- {
			key, value, end, err := scanEntry(b)
			if err != nil || !yield(string(b[key:value]), scalar(b[value:end:end])) {
				return
			}
			b = b[end:]
		}
	}
}

// Lookup finds the first value of a key.
func (m RawMetadata) Lookup(key string) (Value, bool) {
	b, n := m.entries()
	for ; n > 0; n-- {
		at, value, end, err := scanEntry(b)
		if err != nil {
			break
		}
		if string(b[at:value]) == key {
			return scalar(b[value:end:end]), true
		}
		b = b[end:]
	}
	return Value{}, false
}

// entries returns what is behind the map's head, and the number of entries.
func (m RawMetadata) entries() ([]byte, int) {
	n := m.Len()
	if n == 0 {
		return nil, 0
	}
	return m[mapHead(m[0]):], n
}

// scanMetadata checks the metadata map at the start of b, and returns its length
// and its number of entries.
func scanMetadata(b []byte) (size, entries int, err error) {
	if len(b) == 0 {
		return 0, 0, errEnds
	}
	head := mapHead(b[0])
	if head < 0 {
		return 0, 0, fmt.Errorf("is %s, not a map", typeName(b[0]))
	}
	if len(b) < head {
		return 0, 0, errEnds
	}
	n := headLength(b, msgpcode.FixedMapMask)
	if n > MetadataEntriesMax {
		return 0, 0, fmt.Errorf("%d entries, the limit is %d", n, MetadataEntriesMax)
	}
	size = head
	for i := range int(n) {
		_, _, end, err := scanEntry(b[size:])
		if err != nil {
			return 0, 0, fmt.Errorf("entry %d: %w", i, err)
		}
		size += end
	}
	if size > MetadataBytesMax {
		return 0, 0, fmt.Errorf("%d bytes, the limit is %d", size, MetadataBytesMax)
	}
	return size, int(n), nil
}

// scanEntry checks the key and value at the start of b. The key's characters are
// b[key:value], the value is b[value:end].
func scanEntry(b []byte) (key, value, end int, err error) {
	key, value, err = scanStr(b)
	if err == nil && value-key > MetadataKeyBytesMax {
		err = fmt.Errorf("%d bytes, the limit is %d", value-key, MetadataKeyBytesMax)
	}
	if err != nil {
		return 0, 0, 0, fmt.Errorf("key: %w", err)
	}
	size, err := scanScalar(b[value:])
	if err != nil {
		return 0, 0, 0, fmt.Errorf("value of %.40q: %w", b[key:value], err)
	}
	return key, value, value + size, nil
}

// scanStr checks the string at the start of b. Its characters are b[head:size].
func scanStr(b []byte) (head, size int, err error) {
	if len(b) == 0 {
		return 0, 0, errEnds
	}
	if c := b[0]; msgpcode.IsFixedString(c) && len(b) > int(c&msgpcode.FixedStrMask) {
		head, size = 1, 1+int(c&msgpcode.FixedStrMask)
	} else {
		if head = strHead(c); head < 0 {
			return 0, 0, fmt.Errorf("is %s, not a string", typeName(c))
		}
		if size, err = skipValue(b, 1); err != nil {
			return 0, 0, err
		}
	}
	if !utf8.Valid(b[head:size]) {
		return 0, 0, errUTF8
	}
	return head, size, nil
}

// scanScalar checks a value that is not an array, a map or an extension, and
// returns its length.
func scanScalar(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, errEnds
	}
	c := b[0]
	switch {
	case c <= msgpcode.PosFixedNumHigh:
		return 1, nil
	case strHead(c) >= 0:
		_, size, err := scanStr(b)
		return size, err
	case arrayHead(c) >= 0 || mapHead(c) >= 0 || extHead(c) >= 0:
		return 0, fmt.Errorf("is %s, which metadata cannot hold", typeName(c))
	case c == msgpcode.Uint64 && len(b) >= 9 && b[1] > math.MaxInt8:
		return 0, fmt.Errorf("%d is over %d", binary.BigEndian.Uint64(b[1:]), int64(math.MaxInt64))
	}
	return skipValue(b, 1)
}

// scalar reads a value that scanScalar has checked.
func scalar(b []byte) Value {
	c := b[0]
	switch {
	case intWidth(c) >= 0:
		return Value{typ: TypeInt, bits: uint64(bigEndianInt(b))}
	case strHead(c) >= 0:
		return Value{typ: TypeString, data: b[strHead(c):]}
	case binHead(c) >= 0:
		return Value{typ: TypeBytes, data: b[binHead(c):]}
	case c == msgpcode.True:
		return Value{typ: TypeBool, bits: 1}
	case c == msgpcode.False:
		return Value{typ: TypeBool}
	case c == msgpcode.Double:
		return Value{typ: TypeFloat, bits: binary.BigEndian.Uint64(b[1:])}
	case c == msgpcode.Float:
		f := float64(math.Float32frombits(binary.BigEndian.Uint32(b[1:])))
		return Value{typ: TypeFloat, bits: math.Float64bits(f)}
	}
	return Value{}
}
