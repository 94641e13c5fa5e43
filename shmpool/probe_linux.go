package shmpool

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/wire"
)

// Probe is a node's open handle of the broker's probe file. Reading the nonce
// from it shows that node and broker see the same shared memory; the lock on it
// tells the broker how long the node's mappings may live. Its methods are safe
// for concurrent use.
type Probe struct {
	name string

	mu sync.Mutex
	fd int // -1 once closed
}

// OpenProbe opens the probe file called name read-only and returns the length
// bytes at offset. Not to find the file, or to find other bytes, is the normal
// outcome on another machine or in another container, not a failure of the
// system: errors of the system keep their errno; a file that is too short, or
// absurd numbers, give an error that wraps ErrProbe.
func OpenProbe(name string, offset uint64, length uint32) (*Probe, []byte, error) {
	if length == 0 || length > ProbeNonceBytesMax {
		return nil, nil, fmt.Errorf("shmpool: probe %s: %w: nonce of %d bytes, must be 1 to %d", name, ErrProbe, length, ProbeNonceBytesMax)
	}
	fd, size, err := openObject(name, unix.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	if size < uint64(length) || offset > size-uint64(length) {
		_ = unix.Close(fd)
		return nil, nil, fmt.Errorf("shmpool: probe %s: %w: %d bytes long, nonce is %d bytes at %d", name, ErrProbe, size, length, offset)
	}
	nonce := make([]byte, length)
	n, err := unix.Pread(fd, nonce, int64(offset))
	if err == nil && n < len(nonce) {
		err = fmt.Errorf("%w: read %d of %d bytes", ErrProbe, n, length)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, nil, fmt.Errorf("shmpool: probe %s: %w", name, err)
	}
	return &Probe{name: name, fd: fd}, nonce, nil
}

// Lock takes the lock of a session. It is a read lock on one byte, owned by this
// open file description (an OFD lock), and lasts until the last descriptor of it
// is closed: by Close, by exec (the descriptor is close-on-exec) or by the end of
// the process, however it ends. That makes it as long-lived as the mappings:
//
//   - A stopped process keeps it, and keeps its mappings.
//   - A fork shares the description and copies the mappings: the lock stays until
//     both are gone. Exec drops both.
//   - A classic POSIX lock would do neither: it belongs to the process, so it
//     does not pass to a fork, and closing any descriptor of the file drops it;
//     of two sessions in one process the first to end would unlock the other.
//
// Locking again, or a second session, is allowed and adds to the locks held. The
// lock is shared, so nobody can be kept from taking it, except by a process that
// may write to the probe file, which is the broker's user alone.
func (p *Probe) Lock(session wire.SessionID) error {
	offset, err := SessionLockOffset(session)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return os.ErrClosed
	}
	lock := unix.Flock_t{Type: unix.F_RDLCK, Whence: unix.SEEK_SET, Start: offset, Len: 1}
	if err := unix.FcntlFlock(uintptr(p.fd), unix.F_OFD_SETLK, &lock); err != nil {
		return fmt.Errorf("shmpool: probe %s: lock of session %d: %w", p.name, uint64(session), err)
	}
	return nil
}

// Close gives up all locks taken with p. It must come after the last use of any
// mapping that the locks stand for. Closing again does nothing.
func (p *Probe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	fd := p.fd
	p.fd = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("shmpool: probe %s: close: %w", p.name, err)
	}
	return nil
}
