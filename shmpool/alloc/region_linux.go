package alloc

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// RegionFDs is how many descriptors a region costs the broker at most: one for
// its hold on it, and one more if hidez8891/shm holds it, from the first ReadAt
// on. Unlink and Rest bring it back to one.
const RegionFDs = 2

// Region is one region in the hands of the broker. Its methods are safe for
// concurrent use.
type Region struct {
	allocator *Allocator
	id        wire.RegionID
	name      string
	geometry  shmpool.Geometry
	inode     inode

	mu     sync.RWMutex // held for reading while ReadAt reads
	holder holder       // nil once unlinked
	reader *object      // nil until needed
	closed bool
}

// inode tells one file from another of the same name.
type inode struct {
	device, number uint64
}

// Create makes a region: all of its memory is there, zeroed and touched, its
// header is written, and nodes that the mode allows can map it. Errors keep their
// errno; one that is ErrFull (and syscall.ENOSPC) says how much was asked and how
// much is free. It takes about 1 ms per MiB, and can run on several goroutines at
// a time.
func (a *Allocator) Create(id wire.RegionID, g shmpool.Geometry) (*Region, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if g.Bytes() > math.MaxInt {
		return nil, fmt.Errorf("alloc: %w: %d bytes on a 32-bit system", shmpool.ErrGeometry, g.Bytes())
	}
	if err := a.enter(); err != nil {
		return nil, err
	}
	r, err := a.create(id, g)
	if err != nil {
		a.leave()
		return nil, err
	}
	return r, nil
}

func (a *Allocator) create(id wire.RegionID, g shmpool.Geometry) (_ *Region, err error) {
	o, err := createObject(regionName(a.cfg.Prefix, a.instance, id))
	if err != nil {
		return nil, err
	}
	r := &Region{allocator: a, id: id, name: o.name, geometry: g}
	defer func() {
		if err != nil {
			if r.holder != nil {
				err = errors.Join(err, r.holder.unlink())
			}
			err = errors.Join(err, o.unlink(), o.close())
		}
	}()
	header := make([]byte, shmpool.HeaderBytes)
	shmpool.EncodeHeader(header, id, g)
	if err := o.allocate(g.Bytes()); err != nil {
		return nil, err
	}
	if err := o.fill(header, g.Bytes()); err != nil {
		return nil, err
	}
	if r.holder, err = a.backendFor(g).hold(o, g.Bytes()); err != nil {
		return nil, err
	}
	if err := r.holder.verify(o, header, g.Bytes()); err != nil {
		return nil, err
	}
	if err := o.publish(a.cfg.Mode, a.cfg.GID); err != nil {
		return nil, err
	}
	st, err := o.stat()
	if err != nil {
		return nil, err
	}
	r.inode = inode{uint64(st.Dev), st.Ino}
	if r.holder.keepsObject() {
		r.reader = o
	} else if err := o.close(); err != nil {
		return nil, err
	}
	return r, nil
}

// backendFor returns the backend for regions of geometry g.
func (a *Allocator) backendFor(g shmpool.Geometry) backend {
	if g.Bytes() > a.backend.bytesMax {
		return pureBackend
	}
	return a.backend
}

// verifyFile returns an error unless the object's name leads to it, and it has
// its size.
func verifyFile(o *object, bytes uint64) error {
	st, err := o.stat()
	if err != nil {
		return err
	}
	var named unix.Stat_t
	if err := unix.Lstat(o.path, &named); err != nil {
		return o.errorf("find", err)
	}
	if st.Nlink != 1 || named.Dev != st.Dev || named.Ino != st.Ino {
		return fmt.Errorf("alloc: %s is not the file that was created under this name", o.path)
	}
	if uint64(st.Size) != bytes {
		return fmt.Errorf("alloc: %s has %d bytes, not %d", o.path, st.Size, bytes)
	}
	return nil
}

// ID returns the region's id.
func (r *Region) ID() wire.RegionID { return r.id }

// Name returns the name of the region in the shared memory directory.
func (r *Region) Name() string { return r.name }

// Geometry returns how the region is cut.
func (r *Region) Geometry() shmpool.Geometry { return r.geometry }

// ReadAt reads with pread, so that a region which a node has shrunk is a short
// read (io.ErrUnexpectedEOF) and not a SIGBUS. Behind the region's end it returns
// io.EOF, after Close os.ErrClosed. It works after Unlink.
func (r *Region) ReadAt(p []byte, offset int64) (int, error) {
	r.mu.RLock()
	for r.reader == nil && !r.closed { // again, if Rest came between
		r.mu.RUnlock()
		r.mu.Lock()
		err := r.openReader()
		r.mu.Unlock()
		if err != nil {
			return 0, err
		}
		r.mu.RLock()
	}
	defer r.mu.RUnlock()
	if r.closed {
		return 0, os.ErrClosed
	}
	if offset < 0 {
		return 0, fmt.Errorf("alloc: read of region %d at %d: %w", uint64(r.id), offset, unix.EINVAL)
	}
	end := int64(r.geometry.Bytes())
	if offset >= end {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), end-offset)]
	read := 0
	for read < len(want) {
		var n int
		err := retry(func() (err error) {
			n, err = unix.Pread(r.reader.fd, want[read:], offset+int64(read))
			return err
		})
		if err != nil {
			return read, fmt.Errorf("alloc: read of region %d: %w", uint64(r.id), err)
		}
		if n == 0 {
			return read, io.ErrUnexpectedEOF
		}
		read += n
	}
	if read < len(p) {
		return read, io.EOF
	}
	return read, nil
}

// openReader opens the region for ReadAt, unless that is done. r.mu is locked.
func (r *Region) openReader() error {
	if r.reader != nil {
		return nil
	}
	if r.closed {
		return os.ErrClosed
	}
	o, err := openObject(r.name)
	if err != nil {
		return err
	}
	st, err := o.stat()
	if err == nil && (inode{uint64(st.Dev), st.Ino}) != r.inode {
		err = fmt.Errorf("alloc: %s is not the file that was created under this name", o.path)
	}
	if err != nil {
		return errors.Join(err, o.close())
	}
	r.reader = o
	return nil
}

// Rest gives up what only reads need, until the next one.
func (r *Region) Rest() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reader == nil || r.holder == nil || r.holder.keepsObject() {
		return
	}
	_ = r.reader.close() // nothing was written through it
	r.reader = nil
}

// Unlink takes the region's name away: new mappings fail, mappings that nodes
// have stay valid, and its memory is free when the last of them goes. Calling it
// again does nothing.
func (r *Region) Unlink() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Opened for the reads still to come, as there will be no name for it. If that
	// fails (no descriptors left), those reads fail, which settles the messages of
	// remote receivers with a reason; not to unlink would leak memory.
	_ = r.openReader()
	return r.unlink()
}

func (r *Region) unlink() error {
	if r.holder == nil {
		return nil
	}
	h := r.holder
	r.holder = nil
	return h.unlink()
}

// Close unlinks the region and gives up the broker's hold on it. If nobody else has
// it mapped, its memory is freed here, which takes about 0.3 ms per MiB. Calling it
// again does nothing.
func (r *Region) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	err := r.unlink()
	if r.reader != nil {
		err = errors.Join(err, r.reader.close())
	}
	r.allocator.leave()
	return err
}
