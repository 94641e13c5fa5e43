package demo

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/brokerd/brokerd/examples/demo/vision"
	"github.com/brokerd/brokerd/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loadPhotos = sync.OnceValues(vision.LoadPhotos)

// results are what edges and motion make of a frame.
type results struct {
	t      *testing.T
	camera *vision.Camera
	filter vision.EdgeFilter
	frame  []byte
}

func newResults(t *testing.T) (*results, *checker) {
	photos, err := loadPhotos()
	if err != nil {
		t.Fatal(err)
	}
	return &results{t: t, camera: vision.NewCamera(photos), frame: make([]byte, vision.FrameBytes)}, newChecker(photos)
}

func (r *results) edges(frame int64) (wire.RawMetadata, []byte) {
	picture := make([]byte, vision.EdgeBytes)
	r.camera.Render(r.frame, uint64(frame))
	r.filter.Filter(picture, r.frame)
	return wire.AppendMetadata(nil, []wire.Attr{wire.Int(keyFrame, frame)}), picture
}

func (r *results) pan(frame int64, change func(*vision.Pan)) (wire.RawMetadata, []byte) {
	pan := vision.PanAt(r.camera.Photos(), uint64(frame))
	if change != nil {
		change(&pan)
	}
	payload := binary.LittleEndian.AppendUint32(nil, uint32(int32(pan.DX)))
	payload = binary.LittleEndian.AppendUint32(payload, uint32(int32(pan.DY)))
	return wire.AppendMetadata(nil, []wire.Attr{
		wire.Int(keyFrame, frame), wire.Int(keyPrevious, frame-1), wire.Bool(keyCut, pan.Cut),
	}), payload
}

func TestCheckerAcceptsWhatIsRight(t *testing.T) {
	r, c := newResults(t)
	const frames = 125 // over a zoom and a cut
	for k := range int64(frames) {
		metadata, payload := r.edges(k)
		c.edges(wire.Seq(k+1), metadata, payload)
		if k > 0 {
			metadata, payload = r.pan(k, nil)
			c.pan(wire.Seq(k), metadata, payload)
		}
	}
	want := SinkReport{EdgesVerified: frames, PansVerified: frames - 1, Cuts: 1}
	if c.report != want {
		t.Errorf("%+v, want %+v", c.report, want)
	}
}

func TestCheckerFindsWhatIsWrong(t *testing.T) {
	for name, test := range map[string]struct {
		send func(r *results, c *checker)
		want SinkReport
		text string
	}{
		"one bit of one pixel": {
			send: func(r *results, c *checker) {
				metadata, payload := r.edges(0)
				payload[vision.FrameWidth+7] ^= 1
				c.edges(1, metadata, payload)
			},
			want: SinkReport{EdgesWrong: 1},
			text: "1 bytes differ, the first is pixel 7,1",
		},
		"an older picture under a new number": {
			send: func(r *results, c *checker) {
				_, payload := r.edges(0)
				metadata, _ := r.edges(1)
				c.nextEdges = stream{2, 1}
				c.edges(2, metadata, payload)
			},
			want: SinkReport{EdgesWrong: 1},
			text: "frame 1",
		},
		"a short picture": {
			send: func(r *results, c *checker) {
				metadata, payload := r.edges(0)
				c.edges(1, metadata, payload[1:])
			},
			want: SinkReport{EdgesWrong: 1},
			text: "307199 bytes",
		},
		"no number": {
			send: func(r *results, c *checker) {
				_, payload := r.edges(0)
				c.edges(1, nil, payload)
			},
			want: SinkReport{EdgesWrong: 1},
			text: "no number",
		},
		"a lost first picture": {
			send: func(r *results, c *checker) {
				metadata, payload := r.edges(1)
				c.edges(2, metadata, payload)
			},
			want: SinkReport{EdgesVerified: 1, Gaps: 1},
			text: "message 2 of frame 1 instead of message 1 of frame 0",
		},
		"three pictures that the filter never got": {
			send: func(r *results, c *checker) {
				metadata, payload := r.edges(0)
				c.edges(1, metadata, payload)
				metadata, payload = r.edges(4)
				c.edges(2, metadata, payload)
			},
			want: SinkReport{EdgesVerified: 2, Gaps: 3},
		},
		"a picture twice": {
			send: func(r *results, c *checker) {
				metadata, payload := r.edges(0)
				c.edges(1, metadata, payload)
				c.edges(1, metadata, payload)
			},
			want: SinkReport{EdgesVerified: 2, Gaps: 1},
		},
		"a pan that is off by one": {
			send: func(r *results, c *checker) {
				metadata, payload := r.pan(1, func(p *vision.Pan) { p.DY-- })
				c.pan(1, metadata, payload)
			},
			want: SinkReport{PansWrong: 1},
			text: "pan of frame 1",
		},
		"a cut that is none": {
			send: func(r *results, c *checker) {
				metadata, payload := r.pan(1, func(p *vision.Pan) { *p = vision.Pan{Cut: true} })
				c.pan(1, metadata, payload)
			},
			want: SinkReport{PansWrong: 1},
		},
		"a cut that was missed": {
			send: func(r *results, c *checker) {
				c.nextPan = stream{120, 120}
				metadata, payload := r.pan(120, func(p *vision.Pan) { p.Cut = false })
				c.pan(120, metadata, payload)
			},
			want: SinkReport{PansWrong: 1},
		},
		"a pan over a gap": {
			send: func(r *results, c *checker) {
				_, payload := r.pan(1, nil)
				metadata := wire.AppendMetadata(nil, []wire.Attr{wire.Int(keyFrame, 1), wire.Int(keyPrevious, -1)})
				c.pan(1, metadata, payload)
			},
			want: SinkReport{PansWrong: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, c := newResults(t)
			test.send(r, c)
			if !strings.Contains(c.report.Problem, test.text) || c.report.Problem == "" {
				t.Errorf("problem %q, want %q in it", c.report.Problem, test.text)
			}
			c.report.Problem = ""
			if c.report != test.want {
				t.Errorf("%+v, want %+v", c.report, test.want)
			}
		})
	}
}

// The reference owes nothing to what was sent.
func TestCheckerKeepsItsReference(t *testing.T) {
	r, c := newResults(t)
	metadata, payload := r.edges(0)
	before := bytes.Clone(payload)
	c.edges(1, metadata, payload)
	if !bytes.Equal(before, payload) {
		t.Error("the checker wrote to the payload")
	}
	clear(payload)
	c.edges(2, metadata, payload)
	if c.report.EdgesWrong != 1 {
		t.Errorf("%+v", c.report)
	}
}
