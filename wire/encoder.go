package wire

import "encoding/binary"

// Encoder appends whole frames, length and body, to byte slices. It allocates
// nothing but what the destination has to grow. It is not safe for concurrent
// use.
//
// Encoding a message cannot fail. Texts for humans that are too long are cut;
// ids, names, secrets and arrays over their limit are a broken invariant of the
// caller, and it panics.
type Encoder struct {
	w *writer

	// A streamed Inputs frame, between BeginInputs and EndInputs.
	inputsOpen  bool
	inputsStart int // where the frame starts
	inputsAt    int // where the count is
	inputsCount uint32
}

// NewEncoder returns an Encoder.
func NewEncoder() *Encoder { return &Encoder{w: newWriter()} }

// Append appends one frame with m to dst.
func (e *Encoder) Append(dst []byte, m Message) []byte {
	start := e.w.begin(dst)
	m.encode(e.w)
	return e.w.end(start)
}

// BeginInputs starts an Inputs frame at the end of dst. Between it and EndInputs
// only AppendInput may be called on this Encoder.
func (e *Encoder) BeginInputs(dst []byte) []byte {
	if e.inputsOpen {
		panic("wire: BeginInputs inside BeginInputs")
	}
	e.inputsOpen, e.inputsCount, e.inputsStart = true, 0, len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	dst, e.inputsAt = appendInputsHead(dst)
	return dst
}

// AppendInput adds one item to the frame that BeginInputs started.
func (e *Encoder) AppendInput(dst []byte, in *Input) []byte {
	e.countItem()
	return in.append(dst)
}

// EndInputs completes the frame that BeginInputs started.
func (e *Encoder) EndInputs(dst []byte) []byte {
	if !e.inputsOpen {
		panic("wire: EndInputs without BeginInputs")
	}
	e.inputsOpen = false
	binary.BigEndian.PutUint32(dst[e.inputsAt:], e.inputsCount)
	binary.LittleEndian.PutUint64(dst[e.inputsStart:], uint64(len(dst)-e.inputsStart-FrameHeaderBytes))
	return dst
}

func (e *Encoder) countItem() {
	if !e.inputsOpen || e.inputsCount == ItemsMax {
		panic("wire: AppendInput without BeginInputs, or more than ItemsMax items")
	}
	e.inputsCount++
}

// inputHeadBytesMax bounds an encoded Input without metadata and payload: array
// header, u32, four u64-sized and three more, nil, nil or bin header.
const inputHeadBytesMax = 1 + 5 + 7*9 + 1 + 5

// EncodedBytesMax is an upper bound of what AppendInput adds to a frame.
func (in *Input) EncodedBytesMax() int {
	return inputHeadBytesMax + len(in.Metadata) + len(in.Payload)
}

// InputsOverheadBytes is the size of a body of Inputs without items.
const InputsOverheadBytes = 1 + 1 + 5
