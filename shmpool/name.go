package shmpool

import (
	"errors"
	"fmt"
)

// nameBytesMax is what a directory entry holds on every Linux file system.
const nameBytesMax = 255

// ErrName reports a name that cannot be that of a shared memory object.
var ErrName = errors.New("bad shared memory name")

// ValidateName returns nil if name is safe to append to the shared memory
// directory: 1 to 255 of A-Z a-z 0-9 _ - and dot, and no dot or dash in front.
// Names come from the wire, and must not lead anywhere else. Otherwise the error
// wraps ErrName.
func ValidateName(name string) error {
	if len(name) == 0 || len(name) > nameBytesMax {
		return fmt.Errorf("shmpool: %w: %d bytes long, must be 1 to %d", ErrName, len(name), nameBytesMax)
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_':
		case (c == '.' || c == '-') && i > 0:
		default:
			return fmt.Errorf("shmpool: %w: %q", ErrName, name)
		}
	}
	return nil
}
