package broker

import (
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// shmSizeBytes is the size of /dev/shm, 0 if there is none.
func shmSizeBytes() uint64 {
	var fs unix.Statfs_t
	if unix.Statfs("/dev/shm", &fs) != nil {
		return 0
	}
	return fs.Blocks * uint64(fs.Bsize)
}

// ramBytes is the RAM of the machine, 0 if unknown.
func ramBytes() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

// fileLimits are how many file descriptors the process may have, and how many
// it has. The Go runtime has raised the soft limit to the hard one already.
func fileLimits() (limit, open int) {
	limit = math.MaxInt
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil && r.Cur < math.MaxInt32 {
		limit = int(r.Cur)
	}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		open = len(entries)
	}
	return limit, open
}
