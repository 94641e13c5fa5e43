package node

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/wire"
)

const (
	// chunkBytes is the receive buffer: one read fills it with as many frames as
	// there are. Messages that arrived inline keep their chunk from being used
	// again until they are released.
	chunkBytes = 64 << 10
	// chunkRoomBytesMin: with less room than this at its end a chunk is left to
	// the messages in it, and reading goes on in another.
	chunkRoomBytesMin = 4 << 10
	// trustBytesMax is the longest frame that gets its buffer before it is there.
	trustBytesMax = 1 << 20
)

// chunk is a reference-counted receive buffer. The reader holds one reference,
// each message with metadata or payload in it another.
type chunk struct {
	data []byte
	refs atomic.Int32
	// leaked is set when a message in it was garbage collected unreleased:
	// somebody may still read a slice of it, so it must not be written again.
	leaked atomic.Bool
}

var chunkPool = sync.Pool{New: func() any { return &chunk{data: make([]byte, chunkBytes)} }}

func newChunk(size int) *chunk {
	var c *chunk
	if size <= chunkBytes {
		c = chunkPool.Get().(*chunk)
	} else {
		c = &chunk{data: make([]byte, size)}
	}
	c.refs.Store(1)
	return c
}

func (c *chunk) release() {
	switch left := c.refs.Add(-1); {
	case left < 0:
		panic("node: receive buffer released twice")
	case left == 0 && len(c.data) == chunkBytes && !c.leaked.Load():
		chunkPool.Put(c)
	}
}

// frameReader cuts frames out of a connection. It is used by one goroutine.
type frameReader struct {
	conn  net.Conn
	max   uint64 // bytes of a body
	chunk *chunk
	start int // of what is not cut yet
	end   int // of what was read

	begun  time.Time
	readAt atomic.Int64 // nanoseconds since begun, of the last read; for the heartbeat
}

func newFrameReader(conn net.Conn) *frameReader {
	return &frameReader{conn: conn, max: wire.HandshakeFrameBytesMax, chunk: newChunk(chunkBytes), begun: time.Now()}
}

// next returns the body of the next frame. It is part of r.chunk, and valid until
// the call after: whoever needs it longer takes a reference on the chunk.
func (r *frameReader) next() ([]byte, error) {
	for {
		have := r.chunk.data[r.start:r.end]
		body, rest, err := wire.NextFrame(have, r.max)
		if err != nil {
			return nil, err
		}
		if body != nil {
			r.start = r.end - len(rest)
			return body, nil
		}
		r.makeRoom()
		n, err := r.conn.Read(r.chunk.data[r.end:])
		if n > 0 {
			r.end += n
			r.readAt.Store(int64(time.Since(r.begun)))
			continue
		}
		if errors.Is(err, io.EOF) && r.start != r.end {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
}

// makeRoom sees to it that the chunk has room at its end.
func (r *frameReader) makeRoom() {
	have := r.end - r.start
	if have == 0 && r.chunk.refs.Load() == 1 && len(r.chunk.data) <= bufferBytesKept {
		r.start, r.end = 0, 0
		return
	}
	if len(r.chunk.data)-r.end >= chunkRoomBytesMin && (have > 0 || len(r.chunk.data) == chunkBytes) {
		return
	}
	next := newChunk(r.sizeFor(r.chunk.data[r.start:r.end]))
	copy(next.data, r.chunk.data[r.start:r.end])
	r.chunk.release()
	r.chunk, r.start, r.end = next, 0, have
}

// sizeFor returns the size of the chunk that a frame which has begun with have
// goes on in. Past trustBytesMax it doubles with what has really arrived: an
// announced length alone gets no memory.
func (r *frameReader) sizeFor(have []byte) int {
	if len(have) < wire.FrameHeaderBytes {
		return chunkBytes
	}
	need := wire.FrameHeaderBytes + int(binary.LittleEndian.Uint64(have)) // ≤ r.max, NextFrame has checked
	if need <= chunkBytes {
		return chunkBytes
	}
	return min(need, max(2*len(have), trustBytesMax)) + chunkRoomBytesMin
}

// silence returns for how long nothing has arrived. Any goroutine may call it.
func (r *frameReader) silence() time.Duration {
	return time.Since(r.begun) - time.Duration(r.readAt.Load())
}

func (r *frameReader) close() {
	r.chunk.release()
	r.chunk = nil
}
