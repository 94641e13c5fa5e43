package lane

// Supported reports whether bells work on this platform. Without them lanes would
// have to be polled, so that nodes elsewhere send through the broker.
func Supported() bool { return true }
