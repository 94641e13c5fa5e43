package wire

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
)

// writer appends msgpack values to b. The msgpack encoder writes to it through
// Write and WriteByte, which cannot fail; so its errors are not looked at.
type writer struct {
	b  []byte
	mp *msgpack.Encoder
}

func newWriter() *writer {
	w := new(writer)
	w.mp = msgpack.NewEncoder(w)
	return w
}

// Write implements io.Writer for the msgpack encoder.
func (w *writer) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// WriteByte implements io.ByteWriter for the msgpack encoder.
func (w *writer) WriteByte(c byte) error {
	w.b = append(w.b, c)
	return nil
}

func (w *writer) uint(v uint64) { _ = w.mp.EncodeUint(v) }
func (w *writer) bool(v bool)   { _ = w.mp.EncodeBool(v) }
func (w *writer) array(n int)   { _ = w.mp.EncodeArrayLen(n) }

// message starts the body of a message: its array and its kind. n counts the
// fields behind the kind.
func (w *writer) message(k Kind, n int) {
	w.array(n + 1)
	w.uint(uint64(k))
}

// name writes a string that a program relies on. Callers check such strings
// where they come in; one that is too long here is a broken invariant.
func (w *writer) name(field, s string, bytesMax int) {
	if len(s) > bytesMax || !utf8.ValidString(s) {
		panic(fmt.Sprintf("wire: %s: %d bytes, the limit is %d, or not UTF-8: %.40q", field, len(s), bytesMax, s))
	}
	_ = w.mp.EncodeString(s)
}

// text writes a string for humans. It often carries what somebody else said, so
// that it is mended and cut instead of refused.
func (w *writer) text(s string) {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > TextBytesMax {
		n := TextBytesMax
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	_ = w.mp.EncodeString(s)
}

// bin writes bytes, never nil.
func (w *writer) bin(field string, p []byte, bytesMax int) {
	if len(p) > bytesMax {
		panic(fmt.Sprintf("wire: %s: %d bytes, the limit is %d", field, len(p), bytesMax))
	}
	_ = w.mp.EncodeBytesLen(len(p))
	w.b = append(w.b, p...)
}

// begin starts a frame and returns where it starts.
func (w *writer) begin(dst []byte) int {
	w.b = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	return len(dst)
}

// end patches the frame's length in and hands the buffer back.
func (w *writer) end(start int) []byte {
	b := w.b
	w.b = nil
	binary.LittleEndian.PutUint64(b[start:], uint64(len(b)-start-FrameHeaderBytes))
	return b
}
