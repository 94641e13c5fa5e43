// Package e2e holds the tests of the whole system: brokerd as a process of its
// own, nodes as processes of their own, real sockets and real shared memory
// between them. It has no code besides its tests.
//
// # Harness
//
// TestMain builds brokerd once (with the race detector if the tests have it) and
// turns the test binary into a node when a test starts it again: see program.go
// for what such a node can do, and child.go for how a test orders it about.
// A world is one broker and its nodes; every test has its own, with its own
// prefix in /dev/shm.
//
// Every message carries who sent it, its number and a checksum. Every receiver
// checks every message, and one that keeps messages checks them again before it
// lets go. One wrong byte anywhere fails the test.
//
// At the end of every test the world is taken down in good order, and then
// looked at: each edge accounts for every message, the drop log adds up to the
// counters, no token or region is left, the broker's file descriptors are those
// of its start, its names are gone from /dev/shm, and no process is left.
//
// Most tests run twice, once through the broker and once on lanes: see bothPaths.
// Some nodes are this test with kill points in it, which dies before a store to
// shared memory that it was told.
//
// # Running
//
//	go test ./cmd/e2e                      less than two minutes
//	BROKERD_SIEGE=1000000 go test ./cmd/e2e -run Siege -count=1 -v -timeout 20m
//	BROKERD_TORTURE=50 go test ./cmd/e2e -run 'Torture|KillPoints|LanesBrokerKilled|LanesMoves|LanesReceiverStopped' -timeout 45m
//	BROKERD_MATRIX=20 go test ./cmd/e2e -run FailureMatrix -timeout 60m
//	go test ./cmd/e2e -update                rewrites docs/failures.md and docs/failure-matrix.md
package e2e
