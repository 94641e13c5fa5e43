//go:build !linux

package broker

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendNow writes as much of b as the socket takes at once; 0 if it is full. The
// descriptor is non-blocking, as all of the net package's are.
func sendNow(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Write(fd, b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case !errors.Is(err, unix.EINTR):
			return 0, err
		}
	}
}

// hasUnread is not looked up on this platform.
func hasUnread(int) bool { return false }

// socketPair makes two sockets that are connected to each other.
func socketPair() ([2]int, error) {
	syscall.ForkLock.RLock() // until a child would not inherit them
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return fds, err
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		err = errors.Join(err, unix.SetNonblock(fd, true))
	}
	return fds, err
}
