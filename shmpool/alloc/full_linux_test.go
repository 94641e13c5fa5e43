package alloc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
)

// TestFull runs in a process with a shared memory file system of its own, of 2 MiB.
func TestFull(t *testing.T) {
	attr := &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	c := startChild(t, "full", "", attr)
	t.Log(c.ready)
	for _, part := range []string{"/dev/shm", "1.0 MiB asked", "free of 2 MiB", "--shm-size"} {
		if !strings.Contains(c.ready, part) {
			t.Errorf("%q is not in the text", part)
		}
	}
}

func fullChild() error {
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", shmpool.Dir, "tmpfs", 0, "size=2m"),
	); err != nil {
		fmt.Println("skip: no right to mount:", err)
		return nil
	}
	a, err := Open(testConfig)
	if err != nil {
		return err
	}
	g := shmpool.Geometry{SlotBytes: 1 << 20, Slots: 1}
	r, err := a.Create(1, g)
	if err != nil {
		return err
	}
	_, full := a.Create(2, g)
	if !errors.Is(full, ErrFull) || !errors.Is(full, unix.ENOSPC) {
		return fmt.Errorf("the second MiB of two, with headers: %w", full)
	}
	// The same from the kernel, without asking how much is free.
	o, err := createObject(testPrefix + "-raw")
	if err != nil {
		return err
	}
	if err := o.fallocate(g.Bytes()); !errors.Is(err, ErrFull) || !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fallocate: %w", err)
	}
	if err := errors.Join(o.unlink(), o.close(), r.Close()); err != nil {
		return err
	}
	// What failed has left nothing, and what was closed has made room.
	for range 3 {
		if r, err = a.Create(3, g); err != nil {
			return err
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	if err := a.Close(); err != nil {
		return err
	}
	if entries, err := os.ReadDir(shmpool.Dir); err != nil || len(entries) != 0 {
		return fmt.Errorf("left: %v, %w", entries, err)
	}
	fmt.Println("ready", full)
	waitForEnd()
	return nil
}

// TestNoAddressSpace runs in a process that may map little more than it has: the
// mmap in hidez8891/shm fails, of which it says nothing.
func TestNoAddressSpace(t *testing.T) {
	if defaultBackend.name == pureBackend.name {
		t.Skip("this build maps nothing")
	}
	c := startChild(t, "nomemory", "", nil)
	t.Log(c.ready)
	if !strings.Contains(c.ready, "does not map the region: its mmap failed") {
		t.Error(c.ready)
	}
}

func noMemoryChild() error {
	a, err := Open(testConfig)
	if err != nil {
		return err
	}
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	pages, err := strconv.ParseUint(strings.Fields(string(statm))[0], 10, 64)
	if err != nil {
		return err
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &before); err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: pages*uint64(os.Getpagesize()) + 64<<20, Max: before.Max}
	if err := unix.Setrlimit(unix.RLIMIT_AS, &limit); err != nil {
		return err
	}
	_, failed := a.Create(1, shmpool.Geometry{SlotBytes: 128 << 20, Slots: 1})
	if failed == nil {
		return errors.New("128 MiB were mapped in 64 MiB")
	}
	// For the C library alone may reserve 64 MiB for a new thread.
	if err := unix.Setrlimit(unix.RLIMIT_AS, &before); err != nil {
		return err
	}
	if left := len(mustGlob()); left != 1 {
		return fmt.Errorf("%d names left", left)
	}
	r, err := a.Create(1, smallGeometry)
	if err != nil {
		return err
	}
	if err := errors.Join(r.Close(), a.Close()); err != nil {
		return err
	}
	fmt.Println("ready", strings.ReplaceAll(failed.Error(), "\n", "; "))
	waitForEnd()
	return nil
}

// mustGlob lists the names of this process's prefix.
func mustGlob() []string {
	entries, err := os.ReadDir(shmpool.Dir)
	if err != nil {
		panic(err)
	}
	var found []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), testPrefix) {
			found = append(found, entry.Name())
		}
	}
	return found
}
