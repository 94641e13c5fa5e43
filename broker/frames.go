package broker

import (
	"encoding/binary"

	"github.com/brokerd/brokerd/wire"
)

// assemblerKeepBytes is the largest buffer that an assembler keeps between
// frames. The memory of longer ones is handed on with the frame.
const assemblerKeepBytes = 16 << 10

// assembler cuts frames out of what arrives. Frames that are whole within one
// read are handed on in place. The rest of a read, the beginning of a frame, is
// copied, into memory that grows with what has really arrived: a length prefix
// alone, however large, costs nothing.
type assembler struct {
	// Immutable. bytesMax is the longest body, asked once a frame. each is called
	// for every body; it may use it during the call only, unless owned says that
	// it is the callee's to keep.
	bytesMax func() uint64
	each     func(body []byte, owned bool) error

	partial []byte // beginning of a frame, its length prefix included
}

// feed takes the next bytes and calls each for every frame that is complete with
// them. It ends at the first error: its own, a *wire.ProtocolError about the
// length, or that of each.
func (a *assembler) feed(data []byte) error {
	for len(data) > 0 {
		if len(a.partial) > 0 {
			body, rest, err := a.resume(data, a.bytesMax())
			if err != nil {
				return err
			}
			if data = rest; body == nil {
				return nil
			}
			owned := cap(a.partial) > assemblerKeepBytes
			if a.partial = a.partial[:0]; owned {
				a.partial = nil
			}
			if err := a.each(body, owned); err != nil {
				return err
			}
			continue
		}
		body, rest, err := wire.NextFrame(data, a.bytesMax())
		if err != nil {
			return err
		}
		if body == nil {
			a.partial = append(a.partial, data...)
			return nil
		}
		if err := a.each(body, false); err != nil {
			return err
		}
		data = rest
	}
	return nil
}

// resume moves bytes of data to the partial frame. It returns the body if the
// frame is now complete, and what is left of data.
func (a *assembler) resume(data []byte, bytesMax uint64) (body, rest []byte, err error) {
	if missing := wire.FrameHeaderBytes - len(a.partial); missing > 0 {
		n := min(missing, len(data))
		a.partial, data = append(a.partial, data[:n]...), data[n:]
		if n < missing {
			return nil, data, nil
		}
		// Refuse a bad length now, not when the body begins.
		if _, _, err := wire.NextFrame(a.partial, bytesMax); err != nil {
			return nil, nil, err
		}
	}
	whole := wire.FrameHeaderBytes + int(binary.LittleEndian.Uint64(a.partial))
	n := min(whole-len(a.partial), len(data))
	if need := len(a.partial) + n; need > cap(a.partial) {
		// At most double, and no more than the frame takes in the end.
		grown := make([]byte, len(a.partial), min(max(need, 2*cap(a.partial)), max(whole, need)))
		copy(grown, a.partial)
		a.partial = grown
	}
	a.partial, data = append(a.partial, data[:n]...), data[n:]
	if len(a.partial) < whole {
		return nil, data, nil
	}
	return a.partial[wire.FrameHeaderBytes:], data, nil
}

// kindOf reads the kind of a body without decoding it. 0: the body is not what
// it should be, and decoding will tell why.
func kindOf(body []byte) wire.Kind {
	if len(body) == 0 {
		return 0
	}
	rest := body[1:]
	switch c := body[0]; {
	case c >= 0x90 && c <= 0x9f: // fixarray
	case c == 0xdc && len(rest) >= 2: // array 16
		rest = rest[2:]
	case c == 0xdd && len(rest) >= 4: // array 32
		rest = rest[4:]
	default:
		return 0
	}
	if len(rest) == 0 {
		return 0
	}
	if rest[0] <= 0x7f { // positive fixint: what everybody sends
		return wire.Kind(rest[0])
	}
	var width int
	switch rest[0] {
	case 0xcc, 0xd0:
		width = 1
	case 0xcd, 0xd1:
		width = 2
	case 0xce, 0xd2:
		width = 4
	case 0xcf, 0xd3:
		width = 8
	default:
		return 0
	}
	if len(rest) < 1+width {
		return 0
	}
	var v uint64
	for _, b := range rest[1 : 1+width] {
		v = v<<8 | uint64(b)
	}
	if v > uint64(wire.KindMax) {
		return 0
	}
	return wire.Kind(v)
}
