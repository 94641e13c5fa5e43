package alloc

import (
	"errors"
	"fmt"
	"os"
)

const (
	// DefaultPrefix starts the names of all shared memory objects.
	DefaultPrefix = "brokerd"
	// DefaultMode lets only the broker's user map regions.
	DefaultMode os.FileMode = 0o600
	// GroupMode lets the members of a group map regions, too.
	GroupMode os.FileMode = 0o660
	// NoGID leaves the group of files as the system sets it.
	NoGID = -1

	prefixBytesMax = 32
)

var (
	// ErrFull reports that /dev/shm has no room. Such an error also is
	// syscall.ENOSPC.
	ErrFull = errors.New("shared memory file system is full")
	// ErrConfig reports a Config that does not validate.
	ErrConfig = errors.New("bad shared memory configuration")
	// ErrNotAdoptable reports a region of another broker that cannot be taken over.
	ErrNotAdoptable = errors.New("region cannot be adopted")
	// ErrRegionsOpen reports that an Allocator was closed before its regions.
	ErrRegionsOpen = errors.New("regions are still open")
)

// Config says how the names and files of an Allocator look.
type Config struct {
	// Prefix starts every name: 1 to 32 of A-Z a-z 0-9 and _. Empty is
	// DefaultPrefix. Brokers with the same prefix and user sweep up after each
	// other.
	Prefix string
	// Mode is the exact mode of regions, whatever the umask: DefaultMode or
	// GroupMode. 0 is DefaultMode. Of the probe file nobody but the broker's user
	// may write, so its mode has no 020.
	Mode os.FileMode
	// GID is the group of the files if Mode is GroupMode, or NoGID.
	GID int
}

// withDefaults fills in what was left empty.
func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.Mode == 0 {
		c.Mode = DefaultMode
	}
	return c
}

// Validate returns an error that wraps ErrConfig and says what is wrong.
func (c Config) Validate() error {
	c = c.withDefaults()
	if err := validatePrefix(c.Prefix); err != nil {
		return err
	}
	if c.Mode != DefaultMode && c.Mode != GroupMode {
		return fmt.Errorf("alloc: %w: mode %#o, must be %#o or %#o", ErrConfig, c.Mode, DefaultMode, GroupMode)
	}
	if c.GID < NoGID {
		return fmt.Errorf("alloc: %w: group id %d", ErrConfig, c.GID)
	}
	return nil
}

// validatePrefix refuses dashes, because they end the prefix: with them, one
// prefix could be the start of another's names.
func validatePrefix(prefix string) error {
	if len(prefix) == 0 || len(prefix) > prefixBytesMax {
		return fmt.Errorf("alloc: %w: prefix %q has %d bytes, must have 1 to %d", ErrConfig, prefix, len(prefix), prefixBytesMax)
	}
	for i := range len(prefix) {
		switch c := prefix[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_':
		default:
			return fmt.Errorf("alloc: %w: prefix %q: only letters, digits and _", ErrConfig, prefix)
		}
	}
	return nil
}

// Swept is what a sweep has done. It is good also if there was an error.
type Swept struct {
	// Removed are the names that were unlinked, sorted.
	Removed []string
	// Used are dead instances that were left because somebody may still use what
	// they have left behind.
	Used []string
	// Locked are dead instances of which only the probe file is left, because it
	// says that a process still has their memory mapped.
	Locked []string
}
