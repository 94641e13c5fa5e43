package vision

import (
	"bytes"
	"hash/maphash"
	"math"
	"os/exec"
	"sync"
	"testing"
)

var loadPhotos = sync.OnceValues(LoadPhotos)

func testPhotos(t testing.TB) []Photo {
	t.Helper()
	photos, err := loadPhotos()
	if err != nil {
		t.Fatal(err)
	}
	return photos
}

// The go command leaves the package out of ./... because of where it lies.
func TestPhotographPackageIsVetted(t *testing.T) {
	out, err := exec.Command("go", "vet", "github.com/brokerd/brokerd/testdata").CombinedOutput()
	if err != nil {
		t.Fatalf("go vet: %v\n%s", err, out)
	}
}

func TestPathStaysInsideAndIsSmooth(t *testing.T) {
	photos := testPhotos(t)
	farthest := 0
	cuts := 0
	seen := make(map[int]bool)
	for k := range uint64(CycleFrames + 1) {
		v := ViewAt(photos, k)
		seen[v.Photo] = true
		p := photos[v.Photo]
		if v.CenterX < FrameWidth/2 || v.CenterX+FrameWidth/2 > p.Width ||
			v.CenterY < FrameHeight/2 || v.CenterY+FrameHeight/2 > p.Height {
			t.Fatalf("frame %d looks outside of %s: %+v", k, p.Name, v)
		}
		if v.Zoom < ZoomOne || v.Zoom > zoomMost {
			t.Fatalf("frame %d: zoom %d", k, v.Zoom)
		}
		if k == 0 {
			continue
		}
		pan := PanAt(photos, k)
		if pan.Cut {
			cuts++
			continue
		}
		before := ViewAt(photos, k-1)
		if (v.Zoom != ZoomOne || before.Zoom != ZoomOne) && (pan != Pan{}) {
			t.Fatalf("frame %d pans %+v while it zooms", k, pan)
		}
		farthest = max(farthest, abs(pan.DX), abs(pan.DY))
	}
	if len(seen) != len(photos) || cuts != len(photos) {
		t.Errorf("saw %d of %d photographs and %d cuts", len(seen), len(photos), cuts)
	}
	if farthest > MotionMax || farthest < MotionMax/2 {
		t.Errorf("farthest motion is %d pixels a frame, MotionMax is %d", farthest, MotionMax)
	}
}

func abs(v int) int { return max(v, -v) }

// A picture that is sent twice, or late, must not pass for another one.
func TestPicturesDifferFromTheLastOnes(t *testing.T) {
	camera := NewCamera(testPhotos(t))
	frame := make([]byte, FrameBytes)
	last := make(map[uint64]uint64)
	for k := range uint64(CycleFrames) {
		camera.Render(frame, k)
		sum := maphash.Bytes(seed, frame)
		if before, ok := last[sum]; ok && k-before <= 10 && k-before != 2*zoomSymmetry(k) {
			t.Errorf("frame %d is frame %d again", k, before)
		}
		last[sum] = k
	}
}

var seed = maphash.MakeSeed()

// zoomSymmetry is how far frame k is behind the middle of its shot, around which
// the zoom goes in and out.
func zoomSymmetry(k uint64) uint64 { return k%shotFrames - (panFrames + zoomFrames) }

// A pan moves whole pixels: where two frames overlap they are equal.
func TestPanIsExact(t *testing.T) {
	photos := testPhotos(t)
	camera := NewCamera(photos)
	before, now := make([]byte, FrameBytes), make([]byte, FrameBytes)
	for k := uint64(1); k < uint64(CycleFrames); k += 7 {
		pan := PanAt(photos, k)
		if pan.Cut || ViewAt(photos, k).Zoom != ZoomOne || ViewAt(photos, k-1).Zoom != ZoomOne {
			continue
		}
		camera.Render(before, k-1)
		camera.Render(now, k)
		for y := max(0, -pan.DY); y < min(FrameHeight, FrameHeight-pan.DY); y++ {
			from, to := max(0, -pan.DX), min(FrameWidth, FrameWidth-pan.DX)
			a := now[(y*FrameWidth+from)*3 : (y*FrameWidth+to)*3]
			b := before[((y+pan.DY)*FrameWidth+from+pan.DX)*3 : ((y+pan.DY)*FrameWidth+to+pan.DX)*3]
			if !bytes.Equal(a, b) {
				t.Fatalf("frame %d, row %d: pan %+v does not map it onto frame %d", k, y, pan, k-1)
			}
		}
	}
}

// The zoom's word-wise arithmetic against one sample at a time.
func TestZoomAgainstPlainBilinear(t *testing.T) {
	photos := testPhotos(t)
	camera := NewCamera(photos)
	got := make([]byte, FrameBytes)
	for _, k := range []uint64{panFrames + 1, panFrames + zoomFrames, shotFrames + panFrames + 9} {
		camera.Render(got, k)
		view := ViewAt(photos, k)
		if view.Zoom == ZoomOne {
			t.Fatalf("frame %d does not zoom", k)
		}
		photo := photos[view.Photo]
		scale := float64(ZoomOne) / float64(view.Zoom)
		for y := 0; y < FrameHeight; y += 5 {
			for x := 0; x < FrameWidth; x += 3 {
				sx := float64(view.CenterX) - 0.5 + (float64(x)+0.5-FrameWidth/2)*scale
				sy := float64(view.CenterY) - 0.5 + (float64(y)+0.5-FrameHeight/2)*scale
				for c := range 3 {
					want := bilinear(photo, sx, sy, c)
					have := float64(got[(y*FrameWidth+x)*3+c])
					if math.Abs(want-have) > 3 {
						t.Fatalf("frame %d pixel %d,%d channel %d: %.0f, want %.1f", k, x, y, c, have, want)
					}
				}
			}
		}
	}
}

func bilinear(p Photo, x, y float64, c int) float64 {
	x0, y0 := math.Floor(x), math.Floor(y)
	fx, fy := x-x0, y-y0
	at := func(i, j float64) float64 { return float64(p.Pix[(int(j)*p.Width+int(i))*3+c]) }
	return (at(x0, y0)*(1-fx)+at(x0+1, y0)*fx)*(1-fy) + (at(x0, y0+1)*(1-fx)+at(x0+1, y0+1)*fx)*fy
}

func TestEnlargeKeepsFlatAndLinear(t *testing.T) {
	p := newPhoto(20, 10)
	for y := range 10 {
		for x := range 20 {
			copy(p.Pix[(y*20+x)*3:], []byte{200, byte(10 * x), byte(20 * y)})
		}
	}
	big := enlarge(p, 40, 20)
	for y := 4; y < 16; y++ {
		for x := 4; x < 36; x++ {
			pixel := big.Pix[(y*40+x)*3:][:3]
			// Sample x lies at (x+½)/2-½ of the small picture.
			wantG, wantB := 5*float64(x)-2.5, 10*float64(y)-5
			if pixel[0] != 200 || math.Abs(float64(pixel[1])-wantG) > 1 || math.Abs(float64(pixel[2])-wantB) > 1 {
				t.Fatalf("%d,%d: %v, want 200 %.1f %.1f", x, y, pixel, wantG, wantB)
			}
		}
	}
}

// The filter against the definition of the operator.
func TestEdgeFilterAgainstDefinition(t *testing.T) {
	camera := NewCamera(testPhotos(t))
	frame, got := make([]byte, FrameBytes), make([]byte, EdgeBytes)
	var filter EdgeFilter
	for _, k := range []uint64{0, 50, shotFrames + 3, 2*shotFrames + 70} {
		camera.Render(frame, k)
		filter.Filter(got, frame)
		luma := func(x, y int) int {
			x, y = min(max(x, 0), FrameWidth-1), min(max(y, 0), FrameHeight-1)
			p := frame[(y*FrameWidth+x)*3:]
			return (77*int(p[0]) + 150*int(p[1]) + 29*int(p[2])) / 256
		}
		kernel := [3]int{1, 2, 1}
		for y := range FrameHeight {
			for x := range FrameWidth {
				gx, gy := 0, 0
				for i, w := range kernel {
					gx += w * (luma(x+1, y+i-1) - luma(x-1, y+i-1))
					gy += w * (luma(x+i-1, y+1) - luma(x+i-1, y-1))
				}
				want := min((abs(gx)+abs(gy))/2, 255)
				if int(got[y*FrameWidth+x]) != want {
					t.Fatalf("frame %d pixel %d,%d: %d, want %d", k, x, y, got[y*FrameWidth+x], want)
				}
			}
		}
	}
}

// Every pair of frames of the film, its cuts and its zooms included.
func TestPanEstimatorIsRightOverTheCycle(t *testing.T) {
	photos := testPhotos(t)
	camera := NewCamera(photos)
	frame := make([]byte, FrameBytes)
	var estimator PanEstimator
	fewest, fewestShare := math.MaxInt, 1.0
	for k := range uint64(CycleFrames + 1) {
		camera.Render(frame, k)
		got, ok := estimator.Next(frame)
		if ok != (k > 0) {
			t.Fatalf("frame %d: estimate %v", k, ok)
		}
		if !ok {
			continue
		}
		if want := PanAt(photos, k); got.Pan != want {
			t.Errorf("frame %d of %s: %+v, want %+v", k, photos[ViewAt(photos, k).Photo].Name, got, want)
		}
		if !got.Cut {
			fewest = min(fewest, got.Agreeing)
			fewestShare = min(fewestShare, float64(got.Agreeing)/float64(got.Blocks))
		} else if got.Agreeing > got.Blocks/6 {
			t.Errorf("frame %d: a cut, but %d of %d blocks agree", k, got.Agreeing, got.Blocks)
		}
	}
	// Far from the third below which the estimator speaks of a cut.
	if fewest < 2*blocksLeast || fewestShare < 0.5 {
		t.Errorf("a pan was found by a narrow majority")
	}
	t.Logf("at least %d blocks agree, %.0f%% of those with texture", fewest, 100*fewestShare)
}

func TestPanEstimatorReset(t *testing.T) {
	camera := NewCamera(testPhotos(t))
	frame := make([]byte, FrameBytes)
	var estimator PanEstimator
	camera.Render(frame, 0)
	estimator.Next(frame)
	estimator.Reset()
	if _, ok := estimator.Next(frame); ok {
		t.Error("an estimate across a reset")
	}
	if got, ok := estimator.Next(frame); !ok || got.Pan != (Pan{}) {
		t.Errorf("the same frame again: %+v, %v", got, ok)
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	camera := NewCamera(testPhotos(t))
	frame, edges := make([]byte, FrameBytes), make([]byte, EdgeBytes)
	filter, estimator := new(EdgeFilter), new(PanEstimator)
	k := uint64(panFrames - 3) // crosses from pan to zoom
	allocations := testing.AllocsPerRun(10, func() {
		camera.Render(frame, k)
		filter.Filter(edges, frame)
		estimator.Next(frame)
		k++
	})
	if allocations != 0 {
		t.Errorf("%.1f allocations a frame", allocations)
	}
}

func BenchmarkRenderPan(b *testing.B)  { benchmarkRender(b, 10) }
func BenchmarkRenderZoom(b *testing.B) { benchmarkRender(b, panFrames+zoomFrames) }

func benchmarkRender(b *testing.B, k uint64) {
	camera := NewCamera(testPhotos(b))
	frame := make([]byte, FrameBytes)
	b.SetBytes(FrameBytes)
	b.ReportAllocs()
	for b.Loop() {
		camera.Render(frame, k)
	}
}

func BenchmarkEdges(b *testing.B) {
	camera := NewCamera(testPhotos(b))
	frame, edges := make([]byte, FrameBytes), make([]byte, EdgeBytes)
	camera.Render(frame, 10)
	var filter EdgeFilter
	b.SetBytes(FrameBytes)
	b.ReportAllocs()
	for b.Loop() {
		filter.Filter(edges, frame)
	}
}

func BenchmarkPan(b *testing.B) {
	camera := NewCamera(testPhotos(b))
	frames := [2][]byte{make([]byte, FrameBytes), make([]byte, FrameBytes)}
	camera.Render(frames[0], 20)
	camera.Render(frames[1], 21)
	estimator := new(PanEstimator)
	b.SetBytes(FrameBytes)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		estimator.Next(frames[i&1])
		i++
	}
}

func BenchmarkLoadPhotos(b *testing.B) {
	for b.Loop() {
		if _, err := LoadPhotos(); err != nil {
			b.Fatal(err)
		}
	}
}
