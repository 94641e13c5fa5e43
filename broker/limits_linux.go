package broker

import "golang.org/x/sys/unix"

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
