package shmpool

import (
	"errors"
	"fmt"
	"math"

	"github.com/brokerd/brokerd/wire"
)

const (
	// ProbeLockBase plus the session id is the offset of the one byte of the probe
	// file that the node of that session keeps locked. It lies far beyond the end
	// of the file, where locks are as good as anywhere.
	ProbeLockBase = 1 << 40
	// ProbeNonceBytesMax bounds how many bytes OpenProbe reads.
	ProbeNonceBytesMax = 1024
)

// ErrProbe reports a probe file that does not hold what was announced.
var ErrProbe = errors.New("bad probe file")

// SessionLockOffset returns the offset of a session's lock byte, or an error for
// a session id that no file offset can express.
func SessionLockOffset(session wire.SessionID) (int64, error) {
	if uint64(session) >= math.MaxInt64-ProbeLockBase {
		return 0, fmt.Errorf("shmpool: session %d has no lock byte", uint64(session))
	}
	return ProbeLockBase + int64(session), nil
}
