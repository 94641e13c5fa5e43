package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sharedMemory is memory of two processes that has no name in any file system, so
// that it is gone with them. The one that makes it announces its path, which lasts
// as long as that process.
type sharedMemory struct {
	file  *os.File
	bytes []byte
}

// newShared makes size bytes of memory, without taking any yet.
func newShared(name string, size int) (*sharedMemory, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	file := os.NewFile(uintptr(fd), name)
	if err := file.Truncate(int64(size)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return mapShared(file, size)
}

// openShared maps what another process has made.
func openShared(path string) (*sharedMemory, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return mapShared(file, int(info.Size()))
}

func mapShared(file *os.File, size int) (*sharedMemory, error) {
	b, err := unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mmap of %d bytes: %w", size, err), file.Close())
	}
	return &sharedMemory{file: file, bytes: b}, nil
}

// path is how another process opens it.
func (m *sharedMemory) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.file.Fd())
}

// prefault takes the memory of part now, so that no message pays for it.
func prefault(part []byte) error {
	if err := unix.Madvise(part, unix.MADV_POPULATE_WRITE); err != nil {
		return fmt.Errorf("populating %d bytes: %w", len(part), err)
	}
	return nil
}

func (m *sharedMemory) Close() error {
	return errors.Join(unix.Munmap(m.bytes), m.file.Close())
}

// Operations of futex(2), for words shared between processes.
const (
	futexOpWait = 0
	futexOpWake = 1
)

// futexWait sleeps until somebody wakes the word, or it is not value any more, or
// the time is up.
func futexWait(m *sharedMemory, word int, value uint32, limit time.Duration) {
	ts := unix.NsecToTimespec(int64(limit))
	futex(m, word, futexOpWait, value, &ts)
}

// futexWake wakes one who sleeps on the word.
func futexWake(m *sharedMemory, word int) { futex(m, word, futexOpWake, 1, nil) }
