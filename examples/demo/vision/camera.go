package vision

import "encoding/binary"

// Camera renders frames. It is for one goroutine at a time.
type Camera struct {
	photos []Photo

	// Scratch of the zoom.
	columns [FrameWidth]column
	row     []byte
}

// column says which two source pixels make one pixel of a frame.
type column struct {
	offset uint32 // of the left one, in bytes from the start of the blended row
	right  uint32 // weight of the right one, of 256
}

// NewCamera returns a camera over the photographs of LoadPhotos.
func NewCamera(photos []Photo) *Camera {
	widest := 0
	for _, p := range photos {
		widest = max(widest, p.Width)
	}
	// Up to 7 bytes more: rows are blended and read in whole words.
	return &Camera{photos: photos, row: make([]byte, widest*3+8)}
}

// Photos returns the pictures that the camera shows.
func (c *Camera) Photos() []Photo { return c.photos }

// Render writes frame k to dst, whose length must be FrameBytes.
func (c *Camera) Render(dst []byte, k uint64) {
	dst = dst[:FrameBytes:FrameBytes]
	view := ViewAt(c.photos, k)
	photo := &c.photos[view.Photo]
	if view.Zoom == ZoomOne {
		renderPan(dst, photo, view)
		return
	}
	c.renderZoom(dst, photo, view)
}

func renderPan(dst []byte, photo *Photo, view View) {
	left, top := view.CenterX-FrameWidth/2, view.CenterY-FrameHeight/2
	for y := range FrameHeight {
		from := ((top+y)*photo.Width + left) * 3
		copy(dst[y*FrameWidth*3:(y+1)*FrameWidth*3], photo.Pix[from:])
	}
}

// renderZoom interpolates bilinearly: first two rows of the photograph to one,
// then neighbours along it. Positions are in 1/65536 of a pixel.
func (c *Camera) renderZoom(dst []byte, photo *Photo, view View) {
	step := (1 << 16) * ZoomOne / view.Zoom
	start := func(center, frame int) int {
		return center<<16 - (frame-1)*step/2 - 1<<15
	}
	x := start(view.CenterX, FrameWidth)
	first := x >> 16
	for i := range c.columns {
		c.columns[i] = column{
			offset: uint32(x>>16-first) * 3,
			right:  uint32(x>>8) & 0xff,
		}
		x += step
	}
	span := (int(c.columns[FrameWidth-1].offset)/3 + 2) * 3
	y := start(view.CenterY, FrameHeight)
	for i := range FrameHeight {
		upper := photo.Pix[((y>>16)*photo.Width+first)*3:][:span]
		lower := photo.Pix[((y>>16+1)*photo.Width+first)*3:][:span]
		blendRows(c.row, upper, lower, uint64(y>>8)&0xff)
		c.blendColumns(dst[i*FrameWidth*3:][:FrameWidth*3])
		y += step
	}
}

// blendRows writes upper*(256-weight)/256 + lower*weight/256, eight bytes at a
// time: each byte has 16 bits of a word to itself, which holds 255*256.
func blendRows(dst, upper, lower []byte, weight uint64) {
	const even = 0x00ff00ff00ff00ff
	rest := 256 - weight
	i := 0
	for ; i+8 <= len(upper) && i+8 <= len(lower) && i+8 <= len(dst); i += 8 {
		u := binary.LittleEndian.Uint64(upper[i:])
		l := binary.LittleEndian.Uint64(lower[i:])
		low := ((u&even)*rest + (l&even)*weight) >> 8 & even
		high := (u>>8&even)*rest + (l>>8&even)*weight
		binary.LittleEndian.PutUint64(dst[i:], low|high&^even)
	}
	for ; i < len(upper); i++ {
		dst[i] = byte((uint64(upper[i])*rest + uint64(lower[i])*weight) >> 8)
	}
}

// blendColumns makes one row of the frame from the blended row. Red and blue
// share a word, as the bytes do in blendRows.
func (c *Camera) blendColumns(dst []byte) {
	row := c.row
	for i := range c.columns {
		column := c.columns[i]
		source := row[column.offset:][:7]
		l := binary.LittleEndian.Uint32(source)
		r := binary.LittleEndian.Uint32(source[3:])
		right, left := column.right, 256-column.right
		rb := ((l&0xff00ff)*left + (r&0xff00ff)*right) >> 8
		g := ((l>>8&0xff)*left + (r>>8&0xff)*right) >> 8
		pixel := dst[i*3:][:3]
		pixel[0], pixel[1], pixel[2] = byte(rb), byte(g), byte(rb>>16)
	}
}
