package wire

import (
	"encoding/binary"
	"math"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// Hand-written forms of single msgpack values over byte slices.

func putCount(b []byte, n int) { binary.BigEndian.PutUint32(b, uint32(n)) }

// appendUint appends v in its shortest form.
func appendUint(dst []byte, v uint64) []byte {
	switch {
	case v <= math.MaxInt8:
		return append(dst, byte(v))
	case v <= math.MaxUint8:
		return append(dst, msgpcode.Uint8, byte(v))
	case v <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, msgpcode.Uint16), uint16(v))
	case v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(dst, msgpcode.Uint32), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(dst, msgpcode.Uint64), v)
}

// appendInt appends v in its shortest form.
func appendInt(dst []byte, v int64) []byte {
	switch {
	case v >= 0:
		return appendUint(dst, uint64(v))
	case v >= -32:
		return append(dst, byte(v))
	case v >= math.MinInt8:
		return append(dst, msgpcode.Int8, byte(v))
	case v >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(dst, msgpcode.Int16), uint16(v))
	case v >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(dst, msgpcode.Int32), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(dst, msgpcode.Int64), uint64(v))
}

func appendStr[S string | []byte](dst []byte, s S) []byte {
	switch n := len(s); {
	case n < 32:
		dst = append(dst, msgpcode.FixedStrLow|byte(n))
	case n <= math.MaxUint8:
		dst = append(dst, msgpcode.Str8, byte(n))
	case n <= math.MaxUint16:
		dst = binary.BigEndian.AppendUint16(append(dst, msgpcode.Str16), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, msgpcode.Str32), uint32(n))
	}
	return append(dst, s...)
}

func appendBin(dst, p []byte) []byte {
	switch n := len(p); {
	case n <= math.MaxUint8:
		dst = append(dst, msgpcode.Bin8, byte(n))
	case n <= math.MaxUint16:
		dst = binary.BigEndian.AppendUint16(append(dst, msgpcode.Bin16), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, msgpcode.Bin32), uint32(n))
	}
	return append(dst, p...)
}

// bigEndianInt reads an integer of any form, all of whose bytes are in b. It is
// false for one that only fits a uint64, whose bits it returns.
func bigEndianInt(b []byte) (int64, bool) {
	switch b[0] {
	case msgpcode.Uint8:
		return int64(b[1]), true
	case msgpcode.Uint16:
		return int64(binary.BigEndian.Uint16(b[1:])), true
	case msgpcode.Uint32:
		return int64(binary.BigEndian.Uint32(b[1:])), true
	case msgpcode.Uint64:
		v := int64(binary.BigEndian.Uint64(b[1:]))
		return v, v >= 0
	case msgpcode.Int8:
		return int64(int8(b[1])), true
	case msgpcode.Int16:
		return int64(int16(binary.BigEndian.Uint16(b[1:]))), true
	case msgpcode.Int32:
		return int64(int32(binary.BigEndian.Uint32(b[1:]))), true
	case msgpcode.Int64:
		return int64(binary.BigEndian.Uint64(b[1:])), true
	}
	return int64(int8(b[0])), true // the fixed forms are their own value
}
