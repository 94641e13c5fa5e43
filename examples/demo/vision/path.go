package vision

// View is what the camera looks at in one frame.
type View struct {
	Photo            int // index of the photograph
	CenterX, CenterY int // of the frame, in pixels of the enlarged photograph
	Zoom             int // magnification in 1/ZoomOne
}

// ZoomOne is the magnification at which a pixel of the enlarged photograph is a
// pixel of the frame.
const ZoomOne = 4096

// zoomMost keeps the motion of the frame's corners within 4 pixels a frame.
const zoomMost = ZoomOne + ZoomOne/8

// One shot shows one photograph: pan, zoom in, zoom out, pan on. Lengths in
// frames. A shot starts where the path's first point is and ends at its last.
const (
	panFrames   = 45
	zoomFrames  = 15
	shotFrames  = 2*panFrames + 2*zoomFrames
	pathMargin  = 4    // pixels that the frame keeps from the picture's rim
	pathDivisor = 1000 // what the points below are fractions of
)

// MotionMax is the farthest that the camera moves along one axis from one frame
// to the next, in pixels.
const MotionMax = 12

// paths gives each photograph the three points between which the camera moves,
// in thousandths of the room that the frame has.
var paths = [...][3][2]int{
	{{30, 110}, {560, 620}, {960, 120}},
	{{980, 40}, {430, 880}, {20, 420}},
	{{20, 250}, {500, 980}, {990, 540}},
}

// CycleFrames is the number of frames after which the film begins again.
const CycleFrames = shotFrames * len(paths)

// ViewAt returns the camera's view in frame k of photos.
func ViewAt(photos []Photo, k uint64) View {
	index := int(k / shotFrames % uint64(len(paths)))
	t := int(k % shotFrames)
	points := paths[index]
	view := View{Photo: index, Zoom: ZoomOne}
	from, to, step, steps := points[1], points[1], 0, 1
	switch {
	case t < panFrames:
		from, to, step, steps = points[0], points[1], t, panFrames
	case t < panFrames+zoomFrames:
		view.Zoom = ease(ZoomOne, zoomMost, t-panFrames, zoomFrames)
	case t < panFrames+2*zoomFrames:
		view.Zoom = ease(zoomMost, ZoomOne, t-panFrames-zoomFrames, zoomFrames)
	default:
		from, to, step, steps = points[1], points[2], t-panFrames-2*zoomFrames, panFrames
	}
	room := func(size, frame, fraction int) int {
		return frame/2 + pathMargin + (size-frame-2*pathMargin)*fraction/pathDivisor
	}
	photo := photos[index]
	view.CenterX = ease(room(photo.Width, FrameWidth, from[0]), room(photo.Width, FrameWidth, to[0]), step, steps)
	view.CenterY = ease(room(photo.Height, FrameHeight, from[1]), room(photo.Height, FrameHeight, to[1]), step, steps)
	return view
}

// ease goes from a to b in the given number of steps, more slowly at both ends
// (half 3t²-2t³, half t). It never stands still, or one picture would pass for
// the next.
func ease(a, b, step, steps int) int {
	cube := steps * steps * steps
	return a + (b-a)*(3*steps*step*step-2*step*step*step+step*steps*steps)/(2*cube)
}

// Pan is how far the camera moved between two frames, in pixels: what was at
// (x, y) of the later frame was at (x+DX, y+DY) of the earlier one. A Cut has
// no pan: the frames show different photographs.
type Pan struct {
	DX, DY int
	Cut    bool
}

// PanAt returns the true pan from frame k-1 to frame k, for k ≥ 1.
func PanAt(photos []Photo, k uint64) Pan {
	before, now := ViewAt(photos, k-1), ViewAt(photos, k)
	if before.Photo != now.Photo {
		return Pan{Cut: true}
	}
	return Pan{DX: now.CenterX - before.CenterX, DY: now.CenterY - before.CenterY}
}
