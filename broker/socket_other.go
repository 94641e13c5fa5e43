//go:build !linux

package broker

import (
	"errors"

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
