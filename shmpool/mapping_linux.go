package shmpool

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/wire"
)

// Dir is the directory of shared memory objects. shm_open of both glibc and musl
// has it built in, so it is no setting here either.
const Dir = "/dev/shm"

// Map maps the region called name. The geometry is the one that the broker told; the
// file must be long enough for it and start with its header, else the error wraps
// ErrRegionFile or ErrHeader. Errors of the system keep their errno; one that is
// fs.ErrNotExist means that the region was unlinked.
func Map(name string, id wire.RegionID, g Geometry, access Access) (*Mapping, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if g.Bytes() > math.MaxInt {
		return nil, fmt.Errorf("shmpool: map %s: %w: %d bytes on a 32-bit system", name, ErrGeometry, g.Bytes())
	}
	mode := unix.O_RDWR
	if access == ReadOnly {
		mode = unix.O_RDONLY
	}
	fd, size, err := openObject(name, mode)
	if err != nil {
		return nil, err
	}
	// The mapping outlives the descriptor: a node needs none per region.
	defer func() { _ = unix.Close(fd) }()
	if size < g.Bytes() {
		return nil, fmt.Errorf("shmpool: map %s: %w: %d bytes long, %v needs %d", name, ErrRegionFile, size, g, g.Bytes())
	}
	m := &Mapping{id: id, geometry: g, access: access}
	if err := m.mapPages(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("shmpool: map %s, %d bytes: %w", name, g.Bytes(), err), m.Close())
	}
	if err := m.checkHeader(); err != nil {
		return nil, errors.Join(fmt.Errorf("shmpool: map %s: %w", name, err), m.Close())
	}
	return m, nil
}

// mapPages makes the mappings. A receiver's ledger is a second mapping of the
// header, not a part of the first made writable: a page may be larger than the
// header, and then payloads would become writable with it.
func (m *Mapping) mapPages(fd int) (err error) {
	prot := unix.PROT_READ
	if m.access == ReadWrite {
		prot |= unix.PROT_WRITE
	}
	m.data, err = mapShared(fd, m.geometry.Bytes(), prot)
	if err != nil {
		return err
	}
	switch m.access {
	case ReadWrite:
		m.header = m.data[:HeaderBytes:HeaderBytes]
	case ReadLedger:
		m.header, err = mapShared(fd, HeaderBytes, unix.PROT_READ|unix.PROT_WRITE)
	}
	return err
}

// openObject opens an existing shared memory object without following links or
// waiting for a FIFO's other end, and returns its length in bytes.
func openObject(name string, mode int) (fd int, size uint64, err error) {
	if err := ValidateName(name); err != nil {
		return -1, 0, err
	}
	path := filepath.Join(Dir, name)
	for {
		fd, err = unix.Open(path, mode|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return -1, 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var stat unix.Stat_t
	if err = unix.Fstat(fd, &stat); err != nil {
		err = &os.PathError{Op: "fstat", Path: path, Err: err}
	} else if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		err = fmt.Errorf("shmpool: open %s: %w: file type %#o", path, ErrRegionFile, stat.Mode&unix.S_IFMT)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, 0, err
	}
	return fd, uint64(stat.Size), nil
}

// checkHeader compares the header, and turns the fault of a file that shrinks at
// this very moment into an error.
func (m *Mapping) checkHeader() error {
	return catchFault(func() error { return CheckHeader(m.data[:HeaderBytes], m.id, m.geometry) })
}

// prefaultStepBytes is how much Prefault does at a time, so that a Close beside
// it waits for a few milliseconds at most.
const prefaultStepBytes = 4 << 20

// Prefault has the kernel enter all pages of the region in this process's page
// tables, so that the first payloads do not pay for it: a first touch costs about 20
// times as much as a warm one. Contents are not changed. It may run in a
// goroutine of its own while the mapping is used; a Close ends it early, with
// os.ErrClosed.
func (m *Mapping) Prefault() error {
	if m.access == ReadLedger {
		if err := m.prefaultStep(func() []byte { return m.header }, true); err != nil {
			return err
		}
	}
	for start := uint64(0); start < m.geometry.Bytes(); start += prefaultStepBytes {
		end := min(start+prefaultStepBytes, m.geometry.Bytes())
		step := func() []byte { return m.data[start:end] }
		if err := m.prefaultStep(step, m.access == ReadWrite); err != nil {
			return err
		}
	}
	return nil
}

// prefaultStep enters the pages that part returns, if the mapping is still there.
// write is for kernels that have to be helped by hand.
func (m *Mapping) prefaultStep(part func() []byte, write bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil || m.emptied {
		return os.ErrClosed
	}
	pages := part()
	for {
		// Reading, also where writing is allowed: the kernel enters sixteen pages at a
		// time then, writable ones, because nobody wants to know of the first write to a
		// page of /dev/shm. 40 MiB: 5.5 ms against 10.4.
		switch err := unix.Madvise(pages, unix.MADV_POPULATE_READ); {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
			return touch(pages, write) // kernels before 5.14
		default:
			return fmt.Errorf("shmpool: prefault %d bytes: %w", len(pages), err)
		}
	}
}

// touch does by hand what MADV_POPULATE does.
func touch(pages []byte, write bool) error {
	return catchFault(func() error {
		for offset := 0; offset < len(pages); offset += PageBytes {
			touchWord(&pages[offset], write)
		}
		return nil
	})
}

// catchFault turns a SIGBUS of f into an error.
func catchFault(f func() error) (err error) {
	defer func(old bool) {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			err = FaultError(p)
		}
	}(debug.SetPanicOnFault(true))
	return f()
}

// Close unmaps the region. Slices of it are invalid from then on. Closing again
// does nothing.
func (m *Mapping) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil {
		return nil
	}
	data, header := m.data, m.header
	m.data, m.header = nil, nil
	err := unmap(data)
	if m.access == ReadLedger && header != nil {
		err = errors.Join(err, unmap(header))
	}
	if err != nil {
		return fmt.Errorf("shmpool: unmap region %d: %w", uint64(m.id), err)
	}
	return nil
}
