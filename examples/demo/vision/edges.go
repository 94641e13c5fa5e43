package vision

// EdgeFilter turns frames into edge pictures. It is for one goroutine at a time.
type EdgeFilter struct {
	// Three rows of luma, each with a copy of its end pixels on both sides.
	rows [3][FrameWidth + 2]int32
}

// Filter writes the edge picture of frame to dst: the Sobel operator on luma,
// half of |gx|+|gy|, at most 255. Pixels beyond the rim are taken to be like
// those at the rim. The lengths must be EdgeBytes and FrameBytes.
func (f *EdgeFilter) Filter(dst, frame []byte) {
	dst, frame = dst[:EdgeBytes], frame[:FrameBytes]
	above, here, below := &f.rows[0], &f.rows[1], &f.rows[2]
	lumaRow(here, frame[:FrameWidth*3])
	*above = *here
	for y := range FrameHeight {
		next := min(y+1, FrameHeight-1)
		lumaRow(below, frame[next*FrameWidth*3:][:FrameWidth*3])
		sobelRow(dst[y*FrameWidth:][:FrameWidth], above, here, below)
		above, here, below = here, below, above
	}
}

// Luma weights of ITU-R BT.601, of 256.
const (
	lumaRed   = 77
	lumaGreen = 150
	lumaBlue  = 29
)

func lumaRow(dst *[FrameWidth + 2]int32, rgb []byte) {
	rgb = rgb[:FrameWidth*3]
	for x := range FrameWidth {
		p := rgb[x*3:][:3]
		dst[x+1] = (lumaRed*int32(p[0]) + lumaGreen*int32(p[1]) + lumaBlue*int32(p[2])) >> 8
	}
	dst[0], dst[FrameWidth+1] = dst[1], dst[FrameWidth]
}

func sobelRow(dst []byte, above, here, below *[FrameWidth + 2]int32) {
	dst = dst[:FrameWidth]
	// Columns to the left, in the middle, to the right: their vertical sums
	// (1 2 1) and differences move along with x, so each is computed once.
	sumLeft := above[0] + 2*here[0] + below[0]
	sumMiddle := above[1] + 2*here[1] + below[1]
	differenceLeft := below[0] - above[0]
	differenceMiddle := below[1] - above[1]
	for x := range dst {
		a, b := above[x+2], below[x+2]
		sumRight := a + 2*here[x+2] + b
		differenceRight := b - a
		gx := sumRight - sumLeft
		gy := differenceLeft + 2*differenceMiddle + differenceRight
		dst[x] = byte(min((absolute(gx)+absolute(gy))>>1, 255))
		sumLeft, sumMiddle = sumMiddle, sumRight
		differenceLeft, differenceMiddle = differenceMiddle, differenceRight
	}
}

// absolute has no branch: the sign of a gradient is as good as random.
func absolute(v int32) int32 {
	sign := v >> 31
	return (v ^ sign) - sign
}
