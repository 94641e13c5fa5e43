package node

import (
	"io"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// locked reports whether the node of a session still holds its lock.
func (p *peer) locked(session wire.SessionID) bool {
	offset, err := shmpool.SessionLockOffset(session)
	if err != nil {
		p.t.Fatal(err)
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: offset, Len: 1}
	if err := unix.FcntlFlock(p.probe.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		p.t.Fatal(err)
	}
	return lock.Type != unix.F_UNLCK
}
