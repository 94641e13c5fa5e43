package broker

import "fmt"

// filesReserve are file descriptors that are neither regions nor connections:
// listener, loops, flusher, probe, HTTP requests, refusals under way, files that
// are read on reload, and some air.
const filesReserve = 64

// fileBudget is how the process's file descriptors are shared out.
type fileBudget struct {
	connections int
	regions     int
	handshakes  int // of TLS
}

// shareFiles lowers what was configured to what the limit allows, so that
// running out is a refusal in good order and not a failing system call somewhere.
// Regions get at most half of what is there: a broker that nobody can connect to
// needs none.
func shareFiles(limit, open, connections, regions, filesPerRegion, filesPerConnection int) (fileBudget, error) {
	left := limit - open - filesReserve
	if left < 8 {
		return fileBudget{}, fmt.Errorf("the limit of %d open files leaves no room for connections: %d are open, %d are kept in reserve; raise LimitNOFILE",
			limit, open, filesReserve)
	}
	b := fileBudget{connections: connections, regions: regions}
	if filesPerRegion > 0 {
		b.regions = min(regions, left/2/filesPerRegion)
		left -= b.regions * filesPerRegion
	}
	b.connections = min(connections, max(1, left/filesPerConnection))
	return b, nil
}

// shareOfHandshakes is the part of the files that TLS handshakes may have, one in so
// many: they come before a connection counts, and from anybody.
const shareOfHandshakes = 8

// handshakeFiles is how many TLS handshakes may be under way.
func handshakeFiles(limit, open int) int {
	return min(tlsHandshakesMax, max(1, (limit-open-filesReserve)/shareOfHandshakes))
}
