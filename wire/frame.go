package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// readChunkBytes is how much ReadFrame makes room for before anything of a body
// has arrived.
const readChunkBytes = 64 << 10

// FrameLength reads the length of a body out of the first bytes of a frame.
// It returns 0 if fewer than FrameHeaderBytes are there. A length of zero or over
// max bytes is a *ProtocolError that wraps ErrFrameEmpty or ErrFrameTooLong.
func FrameLength(b []byte, max uint64) (int, error) {
	if len(b) < FrameHeaderBytes {
		return 0, nil
	}
	n := binary.LittleEndian.Uint64(b)
	if n == 0 {
		return 0, &ProtocolError{Field: "frame", Code: CodeProtocol, cause: ErrFrameEmpty,
			Reason: "length 0"}
	}
	if n > max || n > math.MaxInt-FrameHeaderBytes {
		return 0, &ProtocolError{Field: "frame", Code: CodeFrameTooLong, cause: ErrFrameTooLong,
			Reason: fmt.Sprintf("length %d, the limit is %d", n, max)}
	}
	return int(n), nil
}

// NextFrame cuts the first frame off b. body is nil while the frame is not
// complete; rest is what follows the frame, or all of b. Both alias b. A length
// that is not allowed is an error as soon as it is known, before the body comes.
func NextFrame(b []byte, max uint64) (body, rest []byte, err error) {
	n, err := FrameLength(b, max)
	if err != nil {
		return nil, b, err
	}
	if n == 0 || len(b)-FrameHeaderBytes < n {
		return nil, b, nil
	}
	end := FrameHeaderBytes + n
	return b[FrameHeaderBytes:end:end], b[end:], nil
}

// ReadFrame reads one frame from r and returns its body, in buf if that is large
// enough; pass the result as the next buf. The buffer grows with what really
// arrives, not with what the peer announces.
//
// It returns io.EOF if the stream ends before a frame, io.ErrUnexpectedEOF if it
// ends inside one, and the errors of FrameLength.
func ReadFrame(r io.Reader, max uint64, buf []byte) ([]byte, error) {
	if cap(buf) < FrameHeaderBytes {
		buf = make([]byte, 512)
	}
	head := buf[:FrameHeaderBytes]
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	n, err := FrameLength(head, max)
	if err != nil {
		return nil, err
	}
	have := 0
	for have < n {
		if have == cap(buf) || cap(buf) < min(n, readChunkBytes) {
			room := min(n, roomier(cap(buf)))
			bigger := make([]byte, room)
			copy(bigger, buf[:have])
			buf = bigger
		}
		want := min(n, cap(buf))
		m, err := io.ReadFull(r, buf[have:want])
		have += m
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
	return buf[:n], nil
}

// roomier is the next size of a buffer of n bytes that is full.
func roomier(n int) int { return max(2*n, readChunkBytes) }
