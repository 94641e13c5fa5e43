// Package vision is the image work of the demo, without processes and without
// messages: a camera that pans and zooms over photographs, an edge filter, and
// an estimator of the camera's pan.
//
// Every frame follows from its number alone, in integer arithmetic, so two
// processes that never talked to each other render the same bytes. That is what
// lets the demo check its results: the sink renders frame k again and knows how
// far the camera moved to get there.
//
// The camera moves by whole pixels while it pans, so consecutive frames agree
// exactly where they overlap. While it zooms its centre stands still, and the
// median of the true motion field is zero.
//
// Nothing here allocates once it is set up. The types with scratch memory
// (Camera, EdgeFilter, PanEstimator) are for one goroutine at a time.
package vision

// Geometry of every frame: FrameWidth x FrameHeight pixels, 3 bytes each (red,
// green, blue), rows from the top, no padding. An edge picture has one byte a
// pixel.
const (
	FrameWidth  = 640
	FrameHeight = 480
	FrameBytes  = FrameWidth * FrameHeight * 3
	EdgeBytes   = FrameWidth * FrameHeight
)
