package actors

import (
	"github.com/brokerd/brokerd/wire"
)

// message is one published message inside the broker, shared by every queue
// place and every hold that refers to it. The core owns it: refs needs no
// atomics. The last unref settles it: its sender is told that the token is free
// and the memory goes back to the stock.
type message struct {
	refs   int
	sender *session // nil for timer ticks
	token  wire.Token
	region *region // nil: the payload is inline
	seq    wire.Seq
	timeNS int64
	slot   uint32 // of region
	offset uint64
	length uint64

	metadata wire.RawMetadata
	payload  []byte

	// buf is the pooled memory behind metadata and payload; class names its
	// free list, or noClass when the memory is not pooled.
	buf   []byte
	class int
}

// inlineBytes is what the message occupies in the broker's own heap.
func (m *message) inlineBytes() uint64 { return uint64(len(m.metadata) + len(m.payload)) }

// bufferClasses are the sizes of pooled message buffers: most control messages,
// inline payloads up to the default inline_max, the same with the largest
// metadata. Anything larger is left to the garbage collector, because it is
// rare and would pin too much in a free list.
var bufferClasses = [...]int{256, 1024, 5 * 1024, 24 * 1024}

const noClass = -1

// stockBytesMax bounds what each free list of buffers keeps.
const stockBytesMax = 4 << 20

// stock recycles messages and their buffers, so that routing a message in
// steady state allocates nothing.
type stock struct {
	messages []*message
	buffers  [len(bufferClasses)][][]byte
}

func (st *stock) message() *message {
	if n := len(st.messages); n > 0 {
		m := st.messages[n-1]
		st.messages = st.messages[:n-1]
		return m
	}
	return &message{class: noClass}
}

// fill copies metadata and payload into memory that m owns.
func (st *stock) fill(m *message, metadata wire.RawMetadata, payload []byte) {
	n := len(metadata) + len(payload)
	if n == 0 {
		return
	}
	m.class = classOf(n)
	switch {
	case m.class == noClass:
		m.buf = make([]byte, n)
	case len(st.buffers[m.class]) > 0:
		list := st.buffers[m.class]
		m.buf = list[len(list)-1]
		st.buffers[m.class] = list[:len(list)-1]
	default:
		m.buf = make([]byte, bufferClasses[m.class])
	}
	k := copy(m.buf, metadata)
	copy(m.buf[k:], payload)
	// Empty is nil: a message in shared memory must have no payload in its frame.
	if k > 0 {
		m.metadata = wire.RawMetadata(m.buf[:k:k])
	}
	if n > k {
		m.payload = m.buf[k:n:n]
	}
}

func (st *stock) recycle(m *message) {
	if m.class != noClass && (len(st.buffers[m.class])+1)*bufferClasses[m.class] <= stockBytesMax {
		st.buffers[m.class] = append(st.buffers[m.class], m.buf)
	}
	*m = message{class: noClass}
	if len(st.messages) < stockMessagesMax {
		st.messages = append(st.messages, m)
	}
}

const stockMessagesMax = 16 << 10

// trim gives most of the stock back, for a broker that has become idle.
func (st *stock) trim() {
	*st = stock{}
}

func classOf(n int) int {
	for i, size := range bufferClasses {
		if n <= size {
			return i
		}
	}
	return noClass
}
