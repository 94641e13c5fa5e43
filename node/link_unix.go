//go:build unix

package node

import (
	"errors"

	"golang.org/x/sys/unix"
)

const directWrites = true

// writeOnce gives the socket what it takes without waiting.
func writeOnce(fd uintptr, b []byte) (n int, err error) {
	for {
		n, err = unix.Write(int(fd), b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		default:
			return 0, err
		}
	}
}
