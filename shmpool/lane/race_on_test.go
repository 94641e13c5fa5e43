//go:build race

package lane

// raceDetector: the search takes ten times as long under it, and what it looks
// for is not found by it, as the model runs in one goroutine.
const raceDetector = true
