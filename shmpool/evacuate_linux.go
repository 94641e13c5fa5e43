package shmpool

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MoveSupported reports whether views can be moved on this platform.
func MoveSupported() bool { return true }

// copyStepBytes is how much is copied at a time: a copy cannot be interrupted, and
// the garbage collector would wait for one of 40 MiB for 10 ms and more.
const copyStepBytes = 1 << 20

// again makes a second mapping of the same region, with the same access. No page
// of m may have been replaced. It needs no name and no file descriptor: the region
// may be unlinked.
func (m *Mapping) again() (*Mapping, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil {
		return nil, os.ErrClosed
	}
	fresh := &Mapping{id: m.id, geometry: m.geometry, access: m.access}
	var err error
	if fresh.data, err = mapAgain(m.data); err == nil && m.access == ReadLedger {
		if fresh.header, err = mapAgain(m.header); err != nil {
			_ = unmap(fresh.data)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("shmpool: map region %d again: %w", uint64(m.id), err)
	}
	return fresh, nil
}

// movePages copies pages to private memory and puts the copy in their place,
// under the pointers of those who read them. Nobody may be writing to what is
// read there. If it fails the pages are as they were.
func (m *Mapping) movePages(run pageRun) error {
	start, length := run.first*systemPageBytes, run.count*systemPageBytes
	private, err := mapPrivate(length)
	if err != nil {
		return err
	}
	shared := m.data[start:min(start+length, uint64(len(m.data)))] // the last page may go on behind the region
	err = catchFault(func() error {
		for done := 0; done < len(shared); {
			done += copy(private[done:], shared[done:min(done+copyStepBytes, len(shared))])
		}
		return nil
	})
	if err == nil {
		err = unix.Mprotect(private, unix.PROT_READ)
	}
	if err == nil {
		err = putOver(m.data, start, private)
		if err != nil {
			m.mustBeMapped(run, err)
		}
	}
	if err != nil {
		_ = unmap(private)
		return err
	}
	return nil
}

// mustBeMapped panics if pages are gone after mremap has failed. The kernel unmaps
// the target before it moves the source, but before that it makes sure that
// the move will not fail for want of mappings; and there is as much address space
// as before. So this does not happen, but if it did, nobody could give the reader
// his pages back: better an end with a name than a fault that looks like the
// reader's own.
func (m *Mapping) mustBeMapped(run pageRun, cause error) {
	start := run.first * systemPageBytes
	resident := make([]byte, run.count)
	if err := mincore(m.data, start, run.count*systemPageBytes, resident); err == unix.ENOMEM {
		panic(fmt.Sprintf("shmpool: region %d: the kernel has taken %d pages away and put nothing in their place: %v",
			uint64(m.id), run.count, cause))
	}
}

// fencePages makes pages unreadable and gives back what private memory they had.
func (m *Mapping) fencePages(run pageRun) error {
	return fence(m.data, run.first*systemPageBytes, run.count*systemPageBytes)
}

// letGo ends the use of the region's own memory: only the pages that were
// replaced stay readable. A file that has no name any more keeps its memory for as
// long as somebody maps a page of it.
func (m *Mapping) letGo(private *pageSet) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.emptied = true
	for _, run := range private.runs(pagesOf(0, uint64(len(m.data))), false) {
		if err := m.fencePages(run); err != nil {
			return fmt.Errorf("shmpool: let go of region %d: %w", uint64(m.id), err)
		}
	}
	if header := m.header; m.access == ReadLedger && header != nil {
		m.header = nil
		return unmap(header)
	}
	return nil
}
