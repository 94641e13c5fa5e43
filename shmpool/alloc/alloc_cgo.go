//go:build linux && cgo && !purego

package alloc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/hidez8891/shm"
)

// defaultBackend holds the regions that are not too long for it.
var defaultBackend = shmBackend

// shmBackend holds regions by hidez8891/shm.
var shmBackend = backend{name: "hidez8891/shm", bytesMax: math.MaxInt32, hold: holdShm}

// errShmMapping reports a shm.Memory that does not map the region.
var errShmMapping = errors.New("hidez8891/shm does not map the region")

type shmHolder struct {
	object *object
	memory *shm.Memory
}

// holdShm has shm open and map the object by its name. The name is known to
// nobody yet and the mode is 0600, so shm finds the file that is there, and its
// ftruncate to the size that the file has changes nothing.
func holdShm(o *object, bytes uint64) (holder, error) {
	memory, err := shm.Create(o.name, int32(bytes))
	if err != nil {
		// The only thing it says is "create".
		return nil, fmt.Errorf("alloc: hidez8891/shm cannot open %s, %d bytes: %w", o.path, bytes, err)
	}
	return shmHolder{object: o, memory: memory}, nil
}

// verify finds out what shm does not tell.
func (h shmHolder) verify(o *object, header []byte, size uint64) error {
	// When its mmap fails, shm unlinks the name, closes its descriptor, and returns
	// a Memory without a mapping and no error. Reading from that would be a nil
	// dereference, so the link count has to be looked at first.
	st, err := o.stat()
	if err != nil {
		return err
	}
	if st.Nlink == 0 {
		return fmt.Errorf("alloc: %s, %d bytes: %w: its mmap failed (out of address space, or of vm.max_map_count)",
			o.path, size, errShmMapping)
	}
	if err := verifyFile(o, size); err != nil {
		return err
	}
	got := make([]byte, len(header))
	if _, err := h.memory.ReadAt(got, 0); err != nil {
		return fmt.Errorf("alloc: %s: %w: %w", o.path, errShmMapping, err)
	}
	if !bytes.Equal(got, header) {
		return fmt.Errorf("alloc: %s: %w: it starts with other bytes", o.path, errShmMapping)
	}
	// Its size is what it was told, so what lies behind the end is io.EOF.
	last := make([]byte, 1)
	if _, err := h.memory.ReadAt(last, int64(size)-1); err != nil || last[0] != 0 {
		return fmt.Errorf("alloc: %s: %w: its last byte is %#x: %w", o.path, errShmMapping, last[0], err)
	}
	if _, err := h.memory.ReadAt(last, int64(size)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("alloc: %s: %w: it is longer than %d bytes", o.path, errShmMapping, size)
	}
	return nil
}

// keepsObject is false: shm has a descriptor of its own, and one is enough.
func (h shmHolder) keepsObject() bool { return false }

// unlink closes the Memory, which unmaps, closes and unlinks. It ignores the
// errors of all three, so the name is looked after.
func (h shmHolder) unlink() error {
	return errors.Join(h.memory.Close(), h.object.unlink())
}
