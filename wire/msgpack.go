package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// intWidth is the number of bytes behind the first byte of an integer; -1 if c
// does not start an integer.
func intWidth(c byte) int {
	switch {
	case c <= msgpcode.PosFixedNumHigh || c >= msgpcode.NegFixedNumLow:
		return 0
	case c >= msgpcode.Uint8 && c <= msgpcode.Uint64:
		return 1 << (c - msgpcode.Uint8)
	case c >= msgpcode.Int8 && c <= msgpcode.Int64:
		return 1 << (c - msgpcode.Int8)
	}
	return -1
}

// arrayHead is the length of an array's head; -1 if c does not start an array.
func arrayHead(c byte) int {
	switch {
	case msgpcode.IsFixedArray(c):
		return 1
	case c == msgpcode.Array16:
		return 3
	case c == msgpcode.Array32:
		return 5
	}
	return -1
}

// mapHead is the length of a map's head; -1 if c does not start a map.
func mapHead(c byte) int {
	switch {
	case msgpcode.IsFixedMap(c):
		return 1
	case c == msgpcode.Map16:
		return 3
	case c == msgpcode.Map32:
		return 5
	}
	return -1
}

// strHead is the length of a string's head; -1 if c does not start a string.
func strHead(c byte) int {
	switch {
	case msgpcode.IsFixedString(c):
		return 1
	case c == msgpcode.Str8:
		return 2
	case c == msgpcode.Str16:
		return 3
	case c == msgpcode.Str32:
		return 5
	}
	return -1
}

// binHead is the length of the head of bytes; -1 if c does not start bytes.
func binHead(c byte) int {
	switch c {
	case msgpcode.Bin8:
		return 2
	case msgpcode.Bin16:
		return 3
	case msgpcode.Bin32:
		return 5
	}
	return -1
}

// extHead is the length of an extension's head, its type byte included; -1 if c
// does not start an extension.
func extHead(c byte) int {
	switch c {
	case msgpcode.FixExt1, msgpcode.FixExt2, msgpcode.FixExt4, msgpcode.FixExt8, msgpcode.FixExt16:
		return 2
	case msgpcode.Ext8:
		return 3
	case msgpcode.Ext16:
		return 4
	case msgpcode.Ext32:
		return 6
	}
	return -1
}

// headLength reads the length or count that the head at the start of b
// announces. b has all bytes of the head. The fixed forms carry it in the first
// byte; mask says which of its bits.
func headLength(b []byte, mask byte) uint64 {
	switch b[0] {
	case msgpcode.Str8, msgpcode.Bin8, msgpcode.Ext8:
		return uint64(b[1])
	case msgpcode.Str16, msgpcode.Bin16, msgpcode.Array16, msgpcode.Map16, msgpcode.Ext16:
		return uint64(binary.BigEndian.Uint16(b[1:]))
	case msgpcode.Str32, msgpcode.Bin32, msgpcode.Array32, msgpcode.Map32, msgpcode.Ext32:
		return uint64(binary.BigEndian.Uint32(b[1:]))
	case msgpcode.FixExt1, msgpcode.FixExt2, msgpcode.FixExt4, msgpcode.FixExt8, msgpcode.FixExt16:
		return 1 << (b[0] - msgpcode.FixExt1)
	}
	return uint64(b[0] & mask)
}

// typeName names the type of a value by its first byte, for error messages.
func typeName(c byte) string {
	switch {
	case intWidth(c) >= 0:
		return "an integer"
	case strHead(c) >= 0:
		return "a string"
	case binHead(c) >= 0:
		return "bytes"
	case arrayHead(c) >= 0:
		return "an array"
	case mapHead(c) >= 0:
		return "a map"
	case extHead(c) >= 0:
		return "an extension"
	case c == msgpcode.Nil:
		return "nil"
	case c == msgpcode.True || c == msgpcode.False:
		return "a boolean"
	case c == msgpcode.Float || c == msgpcode.Double:
		return "a float"
	}
	return fmt.Sprintf("the unused byte %#02x", c)
}

var (
	errEnds   = errors.New("the body ends inside it")
	errUTF8   = errors.New("is not valid UTF-8")
	errNested = fmt.Errorf("nested deeper than %d", NestingMax)
)

// skipValue returns the length of the value at the start of b. depth is the
// nesting depth of the value, 1 for a body. The work is bounded by len(b), the
// stack by NestingMax.
func skipValue(b []byte, depth int) (int, error) {
	if len(b) == 0 {
		return 0, errEnds
	}
	c := b[0]
	if w := intWidth(c); w >= 0 {
		return within(b, 1+w)
	}
	switch c {
	case msgpcode.Nil, msgpcode.True, msgpcode.False:
		return 1, nil
	case msgpcode.Float:
		return within(b, 5)
	case msgpcode.Double:
		return within(b, 9)
	}
	if head := arrayHead(c); head >= 0 {
		return skipElements(b, head, msgpcode.FixedArrayMask, 1, depth)
	}
	if head := mapHead(c); head >= 0 {
		return skipElements(b, head, msgpcode.FixedMapMask, 2, depth)
	}
	head := max(strHead(c), binHead(c), extHead(c))
	if head < 0 {
		return 0, fmt.Errorf("is %s", typeName(c))
	}
	if len(b) < head {
		return 0, errEnds
	}
	n := headLength(b, msgpcode.FixedStrMask)
	if n > uint64(len(b)-head) {
		return 0, fmt.Errorf("%d bytes announced, %d bytes left", n, len(b)-head)
	}
	return head + int(n), nil
}

// skipElements skips an array or a map: perEntry values for each announced one.
func skipElements(b []byte, head int, mask byte, perEntry uint64, depth int) (int, error) {
	if depth > NestingMax {
		return 0, errNested
	}
	if len(b) < head {
		return 0, errEnds
	}
	n := headLength(b, mask) * perEntry
	if n > uint64(len(b)-head) {
		return 0, fmt.Errorf("%d elements announced, %d bytes left", n, len(b)-head)
	}
	at := head
	for ; n > 0; n-- {
		m, err := skipValue(b[at:], depth+1)
		if err != nil {
			return 0, err
		}
		at += m
	}
	return at, nil
}

func within(b []byte, n int) (int, error) {
	if len(b) < n {
		return 0, errEnds
	}
	return n, nil
}
