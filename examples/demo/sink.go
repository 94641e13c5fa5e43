package demo

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/brokerd/brokerd/examples/demo/vision"
	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/wire"
)

// runSink checks what the others made of the pictures.
func runSink(ctx context.Context, p *process) error {
	photos, err := vision.LoadPhotos()
	if err != nil {
		return err
	}
	n, err := node.Connect(ctx, p.cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	checker := newChecker(photos)
	err = p.receive(ctx, n, func(event node.Event) error {
		defer event.Message.Release()
		if event.Input == "edges" {
			checker.edges(event.Message.Seq(), event.Message.Metadata(), event.Message.Payload())
		} else {
			checker.pan(event.Message.Seq(), event.Message.Metadata(), event.Message.Payload())
		}
		p.recorder.checked(checker.report)
		return nil
	})
	return err
}

// checker compares messages with what they must be. It knows the photographs
// and the numbers of the pictures, nothing else of what was sent.
//
// Its rules: an edge picture is right if every byte is. A pan is right if both
// its numbers are; where the camera zooms that is the motion of the picture's
// centre, none; where the photograph changes there is no pan, and the message
// must say so. Pictures and pans must come without a gap, from the first one.
type checker struct {
	camera *vision.Camera
	filter vision.EdgeFilter
	frame  []byte
	want   []byte

	nextEdges, nextPan stream
	report             SinkReport
}

// stream is what must come next on one input.
type stream struct {
	seq   wire.Seq
	frame int64
}

func newChecker(photos []vision.Photo) *checker {
	return &checker{
		camera:    vision.NewCamera(photos),
		frame:     make([]byte, vision.FrameBytes),
		want:      make([]byte, vision.EdgeBytes),
		nextEdges: stream{seq: 1, frame: 0},
		nextPan:   stream{seq: 1, frame: 1}, // the first picture has none before it
	}
}

func (c *checker) edges(seq wire.Seq, metadata wire.RawMetadata, payload []byte) {
	frame, err := intOf(metadata, keyFrame)
	if err != nil || frame < 0 {
		c.wrong(&c.report.EdgesWrong, "edge picture %d: no number", seq)
		return
	}
	c.advance(&c.nextEdges, "edge pictures", seq, frame)
	if len(payload) != vision.EdgeBytes {
		c.wrong(&c.report.EdgesWrong, "edge picture of frame %d: %d bytes instead of %d", frame, len(payload), vision.EdgeBytes)
		return
	}
	c.camera.Render(c.frame, uint64(frame))
	c.filter.Filter(c.want, c.frame)
	if string(payload) != string(c.want) {
		c.wrong(&c.report.EdgesWrong, "edge picture of frame %d: %s", frame, firstDifference(payload, c.want))
		return
	}
	c.report.EdgesVerified++
}

func (c *checker) pan(seq wire.Seq, metadata wire.RawMetadata, payload []byte) {
	frame, err := intOf(metadata, keyFrame)
	previous, err2 := intOf(metadata, keyPrevious)
	if err != nil || err2 != nil || frame < 1 {
		c.wrong(&c.report.PansWrong, "pan %d: no numbers of pictures", seq)
		return
	}
	c.advance(&c.nextPan, "pans", seq, frame)
	if previous != frame-1 || len(payload) != panBytes {
		c.wrong(&c.report.PansWrong, "pan of frame %d: since frame %d, %d bytes", frame, previous, len(payload))
		return
	}
	cut, _ := metadata.Lookup(keyCut)
	got := vision.Pan{
		DX:  int(int32(binary.LittleEndian.Uint32(payload))),
		DY:  int(int32(binary.LittleEndian.Uint32(payload[4:]))),
		Cut: cut.Bool(),
	}
	if want := vision.PanAt(c.camera.Photos(), uint64(frame)); got != want {
		c.wrong(&c.report.PansWrong, "pan of frame %d: %+v instead of %+v", frame, got, want)
		return
	}
	c.report.PansVerified++
	if got.Cut {
		c.report.Cuts++
	}
}

// advance counts what is missing between the last message and this one: of the
// sender's own messages by their sequence, of the camera's pictures by number.
func (c *checker) advance(next *stream, what string, seq wire.Seq, frame int64) {
	if seq != next.seq || frame != next.frame {
		missing := max(int64(seq)-int64(next.seq), frame-next.frame, 1)
		c.report.Gaps += uint64(missing)
		c.note("%s: message %d of frame %d instead of message %d of frame %d", what, seq, frame, next.seq, next.frame)
	}
	next.seq, next.frame = seq+1, frame+1
}

func (c *checker) wrong(counter *uint64, format string, args ...any) {
	*counter++
	c.note(format, args...)
}

// note keeps the first thing that was wrong; the others tend to follow from it.
func (c *checker) note(format string, args ...any) {
	if c.report.Problem == "" {
		c.report.Problem = fmt.Sprintf(format, args...)
	}
}

func firstDifference(got, want []byte) string {
	wrong, first := 0, -1
	for i := range want {
		if got[i] != want[i] {
			if wrong++; first < 0 {
				first = i
			}
		}
	}
	return fmt.Sprintf("%d bytes differ, the first is pixel %d,%d: %d instead of %d",
		wrong, first%vision.FrameWidth, first/vision.FrameWidth, got[first], want[first])
}
