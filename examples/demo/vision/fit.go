package vision

// fit finds the pan and the zoom that explain best where blocks were found: a
// block at p, seen from the frame's centre, lies at p + pan + zoom*p in the
// earlier frame. Best is the least sum of absolute errors, which, unlike the
// least squares, does not mind some blocks that are far off. For a given zoom
// the best pan is a median; the zoom is tried in steps.
type fit struct {
	samples [gridColumns * gridRows]sample
	count   int
	votes   [2*votesLimit + 1]int32
}

// sample is one block: its centre, seen from the frame's centre, and its
// displacement, in pixels.
type sample struct{ x, y, dx, dy int }

const (
	// Errors are counted in parts of a pixel.
	fitParts = 16
	// A step of the zoom moves the frame's left and right ends by a quarter of a
	// pixel; the path's fastest zoom moves them by 4.
	zoomUnit   = FrameWidth / 2 * 4
	zoomSteps  = 24
	votesLimit = fitParts * (motionLimit + zoomSteps/4 + 1)
	// A block agrees if it lies no farther from where it should, on either axis.
	agreeMost = fitParts * 3 / 2
)

func (f *fit) reset() { f.count = 0 }

func (f *fit) add(x, y, dx, dy int) {
	f.samples[f.count] = sample{x, y, dx, dy}
	f.count++
}

// solve returns the pan in pixels and how many blocks agree with it.
func (f *fit) solve() (dx, dy, agreeing int) {
	if f.count == 0 {
		return 0, 0, 0
	}
	best := solution{cost: 1 << 30}
	// From no zoom outwards, so that of equals the plainest is taken.
	for step := range zoomSteps + 1 {
		for _, zoom := range [2]int{step, -step} {
			if s := f.try(zoom); s.cost < best.cost {
				best = s
			}
		}
	}
	for _, s := range f.samples[:f.count] {
		if absoluteInt(s.errorX(best.zoom)-best.x) <= agreeMost && absoluteInt(s.errorY(best.zoom)-best.y) <= agreeMost {
			agreeing++
		}
	}
	return roundParts(best.x), roundParts(best.y), agreeing
}

// solution is a zoom in steps, the pan that suits it in parts of a pixel, and
// the sum of the errors that remain.
type solution struct{ zoom, x, y, cost int }

func (f *fit) try(zoom int) solution {
	s := solution{zoom: zoom}
	s.x = f.median(func(b *sample) int { return b.errorX(zoom) })
	s.y = f.median(func(b *sample) int { return b.errorY(zoom) })
	for i := range f.samples[:f.count] {
		b := &f.samples[i]
		s.cost += absoluteInt(b.errorX(zoom)-s.x) + absoluteInt(b.errorY(zoom)-s.y)
	}
	return s
}

// errorX is what the zoom leaves of the displacement, in parts of a pixel.
func (s *sample) errorX(zoom int) int { return fitParts*s.dx - fitParts*s.x*zoom/zoomUnit }
func (s *sample) errorY(zoom int) int { return fitParts*s.dy - fitParts*s.y*zoom/zoomUnit }

// median counts instead of sorting: the values are few and small.
func (f *fit) median(value func(*sample) int) int {
	clear(f.votes[:])
	for i := range f.samples[:f.count] {
		f.votes[value(&f.samples[i])+votesLimit]++
	}
	seen := 0
	for i, n := range f.votes {
		if seen += int(n); 2*seen >= f.count {
			return i - votesLimit
		}
	}
	return votesLimit
}

func absoluteInt(v int) int { return max(v, -v) }

// roundParts rounds to whole pixels, halves away from zero.
func roundParts(v int) int {
	if v < 0 {
		return -((-v + fitParts/2) / fitParts)
	}
	return (v + fitParts/2) / fitParts
}
