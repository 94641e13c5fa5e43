package alloc

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
)

// fallocateChunkBytes is how much is asked of the kernel at a time. A signal
// makes it undo the whole call, so that for a large region, and with a runtime
// that sends signals to its threads, one call might never come to its end.
const fallocateChunkBytes = 64 << 20

// object is a file in the shared memory directory, held by a descriptor.
type object struct {
	name string
	path string
	fd   int
}

// createObject makes a file that did not exist, mode 0600.
func createObject(name string) (*object, error) {
	o := &object{name: name, path: filepath.Join(shmpool.Dir, name)}
	err := retry(func() (err error) {
		o.fd, err = unix.Open(o.path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if errors.Is(err, unix.ENOSPC) {
		return nil, o.noFile()
	}
	if err != nil {
		return nil, o.errorf("create", err)
	}
	return o, nil
}

// openObject opens an existing file to read.
func openObject(name string) (*object, error) {
	o := &object{name: name, path: filepath.Join(shmpool.Dir, name)}
	err := retry(func() (err error) {
		o.fd, err = unix.Open(o.path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, o.errorf("open", err)
	}
	return o, nil
}

func (o *object) stat() (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(o.fd, &st); err != nil {
		return st, o.errorf("fstat", err)
	}
	return st, nil
}

// allocate gives the file bytes bytes of zeroes, for which the memory is there.
func (o *object) allocate(bytes uint64) error {
	// A request that cannot succeed would fill the file system first, and starve
	// everyone else in it, before it fails and gives all back.
	if _, free, err := Space(); err == nil && free < bytes {
		return o.full(bytes)
	}
	return o.fallocate(bytes)
}

func (o *object) fallocate(bytes uint64) error {
	for done := uint64(0); done < bytes; {
		n := min(bytes-done, fallocateChunkBytes)
		err := retry(func() error { return unix.Fallocate(o.fd, 0, int64(done), int64(n)) })
		if errors.Is(err, unix.ENOSPC) {
			return o.full(bytes)
		}
		if err != nil {
			return o.errorf(fmt.Sprintf("allocate %s for", shmpool.FormatBytes(bytes)), err)
		}
		done += n
	}
	return nil
}

// full says what has no room in what, and what can be done.
func (o *object) full(bytes uint64) error {
	size, free := "unknown", "unknown"
	if st, err := statfs(); err == nil {
		size, free = shmpool.FormatBytes(st.Blocks*uint64(st.Bsize)), shmpool.FormatBytes(st.Bavail*uint64(st.Bsize))
	}
	return fmt.Errorf("alloc: %w: %s asked, %s free of %s in %s: enlarge it (mount -o remount,size=..., "+
		"docker run --shm-size), or lower the broker's limit: %w",
		ErrFull, shmpool.FormatBytes(bytes), free, size, shmpool.Dir, unix.ENOSPC)
}

// noFile says that not even an empty file has room. A tmpfs may have a limit of
// files beside the one of bytes, which df does not show unless asked.
func (o *object) noFile() error {
	st, err := statfs()
	if err != nil || st.Files == 0 || st.Ffree > 0 {
		return o.full(0)
	}
	return fmt.Errorf("alloc: %w: none of the %d files that %s may have is left: "+
		"allow more (mount -o remount,nr_inodes=...), see df -i: %w", ErrFull, st.Files, shmpool.Dir, unix.ENOSPC)
}

func (o *object) writeAt(p []byte, offset int64) error {
	for len(p) > 0 {
		var n int
		err := retry(func() (err error) {
			n, err = unix.Pwrite(o.fd, p, offset)
			return err
		})
		if errors.Is(err, unix.ENOSPC) {
			return o.full(uint64(len(p)))
		}
		if err != nil {
			return o.errorf("write", err)
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// zeroes is what fill writes. It is never written to, so that it costs no memory:
// all of it is the kernel's one page of zeroes.
var zeroes [1 << 20]byte

// fill writes header and then zeroes up to bytes, so that every page has been
// touched once: fallocate reserves memory, but leaves it to the first one who
// touches a page to wait while it is zeroed. Mapping the file with MAP_POPULATE
// would do so too, and took three times as long: it builds page tables, only for
// them to be torn down. (256 MiB: 75 ms against 250 ms.)
func (o *object) fill(header []byte, bytes uint64) error {
	if err := o.writeAt(header, 0); err != nil {
		return err
	}
	for done := uint64(len(header)); done < bytes; {
		n := min(bytes-done, uint64(len(zeroes)))
		if err := o.writeAt(zeroes[:n], int64(done)); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// publish opens the file to those who shall use it.
func (o *object) publish(mode os.FileMode, gid int) error {
	if gid != NoGID && mode&0o060 != 0 {
		if err := unix.Fchown(o.fd, -1, gid); err != nil {
			return o.errorf(fmt.Sprintf("give group %d", gid), err)
		}
	}
	// After the change of group, which may clear mode bits, and regardless of the
	// umask.
	if err := unix.Fchmod(o.fd, uint32(mode.Perm())); err != nil {
		return o.errorf("set mode of", err)
	}
	return nil
}

// unlink takes the name away; that it is gone already is no error.
func (o *object) unlink() error {
	if err := unix.Unlink(o.path); err != nil && !errors.Is(err, unix.ENOENT) {
		return o.errorf("unlink", err)
	}
	return nil
}

func (o *object) close() error {
	if o.fd < 0 {
		return nil
	}
	fd := o.fd
	o.fd = -1
	if err := unix.Close(fd); err != nil {
		return o.errorf("close", err)
	}
	return nil
}

func (o *object) errorf(op string, err error) error {
	return fmt.Errorf("alloc: %s %s: %w", op, o.path, err)
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func statfs() (unix.Statfs_t, error) {
	var st unix.Statfs_t
	err := retry(func() error { return unix.Statfs(shmpool.Dir, &st) })
	if err != nil {
		return st, fmt.Errorf("alloc: statfs %s: %w", shmpool.Dir, err)
	}
	return st, nil
}

// Space returns the size of the shared memory file system and how much of it is
// left, in bytes. Of one that is mounted without a limit of its own both are
// math.MaxUint64.
func Space() (size, free uint64, err error) {
	st, err := statfs()
	if err != nil {
		return 0, 0, err
	}
	if st.Blocks == 0 { // tmpfs with size=0
		return math.MaxUint64, math.MaxUint64, nil
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}
