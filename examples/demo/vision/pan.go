package vision

// The estimator looks at blocks on a grid. Each block of the later frame is
// searched in the earlier one: everywhere within reach in pictures of a quarter
// of the size, then around the best place in halves, then in full size. What the
// blocks found is then fitted by a pan and a zoom (fit.go), so that single blocks
// may err, and so that blocks on one side only do not take a zoom for a pan.
const (
	blockSize   = 8 // pixels at the coarsest level, 16 and 16 below it
	gridColumns = 9
	gridRows    = 7
	searchReach = (MotionMax + 3) / 4 // pixels at the coarsest level
	refineReach = 2                   // pixels at the middle level; 1 at the finest
	motionLimit = 4*searchReach + 2*refineReach + 1

	// A block whose luma varies less than this fits everywhere; it is not asked.
	textureLeast = 16
	// Fewer blocks than this prove nothing.
	blocksLeast = 3
	// Mean difference of a matched pixel, in luma steps, above which a block was
	// not found. A zoom blurs and sharpens a little: up to 4 here. Two different
	// photographs differ by some tens.
	differenceMost = 10
)

// Estimate is what the estimator says about two consecutive frames.
type Estimate struct {
	Pan
	Blocks   int // blocks with enough texture to be searched
	Agreeing int // of them, the ones that were found where pan and zoom put them
}

// PanEstimator compares each frame with the one before it. It is for one
// goroutine at a time.
type PanEstimator struct {
	pyramids [2]pyramid
	newest   int  // index of the latest frame's pyramid
	primed   bool // there is a latest frame

	fit fit // of the current pair
}

// pyramid is a luma picture in three sizes.
type pyramid struct {
	full    [FrameWidth * FrameHeight]byte
	half    [FrameWidth / 2 * FrameHeight / 2]byte
	quarter [FrameWidth / 4 * FrameHeight / 4]byte
}

// plane is one size of a pyramid.
type plane struct {
	pix    []byte
	stride int
}

// Reset forgets the latest frame, as after a gap in the stream.
func (e *PanEstimator) Reset() { e.primed = false }

// Next takes the next frame, of FrameBytes, and estimates the pan since the one
// before. ok is false for the first frame, which has none before it.
func (e *PanEstimator) Next(frame []byte) (estimate Estimate, ok bool) {
	before := &e.pyramids[e.newest]
	e.newest = 1 - e.newest
	now := &e.pyramids[e.newest]
	now.build(frame)
	if !e.primed {
		e.primed = true
		return Estimate{}, false
	}
	return e.compare(now, before), true
}

func (p *pyramid) build(frame []byte) {
	frame = frame[:FrameBytes]
	for i := range p.full {
		pixel := frame[i*3:][:3]
		p.full[i] = byte((lumaRed*uint32(pixel[0]) + lumaGreen*uint32(pixel[1]) + lumaBlue*uint32(pixel[2])) >> 8)
	}
	halve(p.half[:], p.full[:], FrameWidth)
	halve(p.quarter[:], p.half[:], FrameWidth/2)
}

// halve averages squares of four pixels.
func halve(dst, src []byte, stride int) {
	for i := 0; len(src) >= 2*stride; i += stride / 2 {
		upper, lower := src[:stride], src[stride:][:stride]
		row := dst[i:][:stride/2]
		for x := range row {
			u, l := upper[2*x:][:2], lower[2*x:][:2]
			row[x] = byte((uint32(u[0]) + uint32(u[1]) + uint32(l[0]) + uint32(l[1]) + 2) >> 2)
		}
		src = src[2*stride:]
	}
}

func (e *PanEstimator) compare(now, before *pyramid) Estimate {
	var out Estimate
	e.fit.reset()
	// Blocks stay within reach of a match that lies inside the earlier frame.
	const margin = searchReach + refineReach
	const roomX = FrameWidth/4 - 2*margin - blockSize
	const roomY = FrameHeight/4 - 2*margin - blockSize
	for row := range gridRows {
		for column := range gridColumns {
			x := margin + roomX*column/(gridColumns-1)
			y := margin + roomY*row/(gridRows-1)
			if texture(now.quarter[:], FrameWidth/4, x, y) < textureLeast {
				continue
			}
			out.Blocks++
			if dx, dy, found := searchBlock(now, before, x, y); found {
				e.fit.add(4*x+2*blockSize-FrameWidth/2, 4*y+2*blockSize-FrameHeight/2, dx, dy)
			}
		}
	}
	out.DX, out.DY, out.Agreeing = e.fit.solve()
	if out.Agreeing < blocksLeast || 3*out.Agreeing < out.Blocks {
		out.Pan = Pan{Cut: true}
	}
	return out
}

// texture is the difference between the brightest and the darkest pixel.
func texture(pix []byte, stride, x, y int) int {
	low, high := byte(255), byte(0)
	for row := range blockSize {
		for _, v := range pix[(y+row)*stride+x:][:blockSize] {
			low, high = min(low, v), max(high, v)
		}
	}
	return int(high) - int(low)
}

// searchBlock finds the block at (x, y) of the coarsest level in the earlier
// frame. The displacement is in pixels of the frame.
func searchBlock(now, before *pyramid, x, y int) (dx, dy int, found bool) {
	dx, dy, _ = searchLevel(
		plane{now.quarter[:], FrameWidth / 4}, plane{before.quarter[:], FrameWidth / 4},
		x, y, blockSize, 0, 0, searchReach)
	dx, dy, _ = searchLevel(
		plane{now.half[:], FrameWidth / 2}, plane{before.half[:], FrameWidth / 2},
		2*x, 2*y, 2*blockSize, 2*dx, 2*dy, refineReach)
	// The middle of the block is enough at full size.
	dx, dy, difference := searchLevel(
		plane{now.full[:], FrameWidth}, plane{before.full[:], FrameWidth},
		4*x+blockSize, 4*y+blockSize, 2*blockSize, 2*dx, 2*dy, 1)
	return dx, dy, difference <= differenceMost*4*blockSize*blockSize
}

// searchLevel tries every displacement within reach of (dx, dy), that one first,
// and returns the best with its sum of absolute differences.
func searchLevel(now, before plane, x, y, size, dx, dy, reach int) (bestX, bestY, best int) {
	block := now.pix[y*now.stride+x:]
	bestX, bestY = dx, dy
	best = difference(block, before.pix[(y+dy)*before.stride+x+dx:], now.stride, size, 1<<30)
	for j := dy - reach; j <= dy+reach; j++ {
		for i := dx - reach; i <= dx+reach; i++ {
			if i == dx && j == dy {
				continue
			}
			d := difference(block, before.pix[(y+j)*before.stride+x+i:], now.stride, size, best)
			if d < best {
				bestX, bestY, best = i, j, d
			}
		}
	}
	return bestX, bestY, best
}

// difference sums the absolute differences of two blocks; it stops at a row
// where the sum has reached enough.
func difference(a, b []byte, stride, size, enough int) int {
	sum := int32(0)
	for row := range size {
		p := a[row*stride:][:size]
		q := b[row*stride:][:size]
		for i := range p {
			sum += absolute(int32(p[i]) - int32(q[i]))
		}
		if int(sum) >= enough {
			break
		}
	}
	return int(sum)
}
