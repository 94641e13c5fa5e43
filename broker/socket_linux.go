package broker

import (
	"errors"

	"golang.org/x/sys/unix"
)

// sendNow writes as much of b as the socket takes at once; 0 if it is full. The
// flags make it independent of the descriptor's mode, and spare the process a
// SIGPIPE.
func sendNow(fd int, b []byte) (int, error) {
	for {
		n, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
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

// hasUnread reports whether bytes of the peer wait in the socket.
func hasUnread(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return err == nil && n > 0
}

// socketPair makes two sockets that are connected to each other.
func socketPair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}
