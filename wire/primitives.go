package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// Single msgpack values over byte slices, written by hand for the frequent
// messages and for metadata. Through the msgpack package's interfaces a Publish
// took 130 ns to encode and 480 ns to decode; its values are the same, which
// TestPrimitivesAgree and FuzzPrimitives hold these to.

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

func appendBin(dst, p []byte) []byte { return append(appendBinHead(dst, len(p)), p...) }

func appendBinHead(dst []byte, n int) []byte {
	switch {
	case n <= math.MaxUint8:
		return append(dst, msgpcode.Bin8, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, msgpcode.Bin16), uint16(n))
	case uint64(n) <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(dst, msgpcode.Bin32), uint32(n))
	}
	panic(fmt.Sprintf("wire: %d bytes do not fit into msgpack", n))
}

func appendArray(dst []byte, n int) []byte {
	switch {
	case n < 16:
		return append(dst, msgpcode.FixedArrayLow|byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, msgpcode.Array16), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, msgpcode.Array32), uint32(n))
}

// bigEndianInt reads an integer of any form, all of whose bytes are in b. An
// unsigned one over MaxInt64 comes out as its bits.
func bigEndianInt(b []byte) int64 {
	switch b[0] {
	case msgpcode.Uint8:
		return int64(b[1])
	case msgpcode.Uint16:
		return int64(binary.BigEndian.Uint16(b[1:]))
	case msgpcode.Uint32:
		return int64(binary.BigEndian.Uint32(b[1:]))
	case msgpcode.Int8:
		return int64(int8(b[1]))
	case msgpcode.Int16:
		return int64(int16(binary.BigEndian.Uint16(b[1:])))
	case msgpcode.Int32:
		return int64(int32(binary.BigEndian.Uint32(b[1:])))
	case msgpcode.Uint64, msgpcode.Int64:
		return int64(binary.BigEndian.Uint64(b[1:]))
	}
	return int64(int8(b[0])) // the fixed forms are their own value
}

// readUints reads len(dst) unsigned integers of b from position i on, and returns
// the position behind them. It knows only the forms that encoders choose; it
// returns -1 for anything else, and the caller reads again, value by value, with
// the reader that tells what is wrong.
func readUints[T ~uint64](dst []T, b []byte, i int) int {
	for k := range dst {
		if i >= len(b) {
			return -1
		}
		c := b[i]
		if c <= msgpcode.PosFixedNumHigh {
			dst[k] = T(c)
			i++
			continue
		}
		if c < msgpcode.Uint8 || c > msgpcode.Uint64 {
			return -1
		}
		width := 1 << (c - msgpcode.Uint8)
		switch left := b[i+1:]; {
		case len(left) >= 8:
			dst[k] = T(binary.BigEndian.Uint64(left) >> (64 - 8*width))
		case len(left) < width:
			return -1
		case width == 4:
			dst[k] = T(binary.BigEndian.Uint32(left))
		case width == 2:
			dst[k] = T(binary.BigEndian.Uint16(left))
		default:
			dst[k] = T(left[0])
		}
		i += 1 + width
	}
	return i
}

// plainSize is the length of a metadata value by its first byte, for those of
// fixed length that are always valid; 0 for all others.
var plainSize = func() (size [256]uint8) {
	for c := range 256 {
		if w := intWidth(byte(c)); w >= 0 && byte(c) != msgpcode.Uint64 {
			size[c] = uint8(1 + w)
		}
	}
	size[msgpcode.Nil], size[msgpcode.True], size[msgpcode.False] = 1, 1, 1
	size[msgpcode.Float], size[msgpcode.Double] = 5, 9
	return size
}()

// plainMetadata returns the length of the metadata map at the start of b, if it
// is one of up to 15 entries whose strings are short ASCII. It returns 0 for
// everything else, which scanMetadata then judges.
func plainMetadata(b []byte) int {
	if len(b) == 0 || !msgpcode.IsFixedMap(b[0]) || b[0] == msgpcode.FixedMapLow {
		return 0
	}
	i := 1
	for n := b[0] & msgpcode.FixedMapMask; n > 0; n-- {
		key := plainString(b, i)
		if key == 0 || i+key >= len(b) {
			return 0
		}
		i += key
		size := int(plainSize[b[i]])
		if size == 0 {
			size = plainString(b, i)
		}
		if size == 0 || size > len(b)-i {
			return 0
		}
		i += size
	}
	return i
}

// plainString returns the length of the string at position i of b, if it is short
// and ASCII; 0 otherwise.
func plainString(b []byte, i int) int {
	if i >= len(b) || !msgpcode.IsFixedString(b[i]) {
		return 0
	}
	size := 1 + int(b[i]&msgpcode.FixedStrMask)
	if size > len(b)-i {
		return 0
	}
	var all byte
	for _, c := range b[i+1 : i+size] {
		all |= c
	}
	if all >= 0x80 {
		return 0
	}
	return size
}
