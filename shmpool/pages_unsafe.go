//go:build linux

package shmpool

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// All mappings of this package are made and unmapped here, with the system calls
// themselves: unix.Mmap keeps a table of its mappings, in which those that mremap
// makes are missing.

// mapShared maps length bytes of a file from its start.
func mapShared(fd int, length uint64, prot int) ([]byte, error) {
	p, err := unix.MmapPtr(fd, 0, nil, uintptr(length), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(p), length), nil
}

// mapPrivate maps fresh memory that belongs to this process alone.
func mapPrivate(length uint64) ([]byte, error) {
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(p), length), nil
}

// mapAgain makes a second mapping of what b maps. b must be
//   - all that one call of mapShared or mapAgain has returned
//   - without a page that was replaced
//
// The file needs no name any more: mremap of zero bytes of a shared mapping leaves
// that alone and maps the same pages again.
func mapAgain(b []byte) ([]byte, error) {
	p, err := unix.MremapPtr(unsafe.Pointer(unsafe.SliceData(b)), 0, nil, uintptr(len(b)), unix.MREMAP_MAYMOVE)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(p), len(b)), nil
}

// unmap ends a mapping that one of the functions above has returned, all of it.
// Nobody may touch it any more.
func unmap(b []byte) error {
	return unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b)))
}

// putOver moves the mapping fresh to the address of data's byte at offset, in
// place of what is mapped there, in one step: whoever reads there sees what was
// there before, or fresh. It must be that
//   - fresh is all that one call of mapPrivate has returned; it is gone afterwards
//   - offset and len(fresh) are multiples of the system's page, and lie within the
//     pages that data touches
//
// An error means that nothing has changed; see mustBeMapped.
func putOver(data []byte, offset uint64, fresh []byte) error {
	length := uintptr(len(fresh))
	target := unsafe.Add(unsafe.Pointer(unsafe.SliceData(data)), offset)
	_, err := unix.MremapPtr(unsafe.Pointer(unsafe.SliceData(fresh)), length, target, length, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED)
	return err
}

// fence makes count pages of data unreadable, from the byte at offset on, and
// gives back their memory if it was private. Offset is a multiple of the system's page. The
// addresses stay taken, so that nothing else is ever mapped there before data is
// unmapped.
func fence(data []byte, offset, length uint64) error {
	target := unsafe.Add(unsafe.Pointer(unsafe.SliceData(data)), offset)
	_, err := unix.MmapPtr(-1, 0, target, uintptr(length), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_FIXED|unix.MAP_NORESERVE)
	return err
}

// mincore asks which pages of data, from the byte at offset on, are in memory, one
// byte of resident for each. The error is ENOMEM if one of them is not mapped.
func mincore(data []byte, offset, length uint64, resident []byte) error {
	target := unsafe.Add(unsafe.Pointer(unsafe.SliceData(data)), offset)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(target), uintptr(length), uintptr(unsafe.Pointer(unsafe.SliceData(resident))))
	if errno != 0 {
		return errno
	}
	return nil
}
