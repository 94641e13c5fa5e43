package alloc

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// blockBytes is the unit of Stat_t.Blocks.
const blockBytes = 512

// Adopt takes over a region of a broker that died, whose nodes have told where it
// is: it renames it into this instance, gives it this instance's mode, and holds
// it. Nothing that they said is believed. The error wraps ErrNotAdoptable if the
// broker that made the region is alive or swept, or if the file is not that
// region, whole and ours; errors of the system keep their errno. A region that is
// refused stays as it is, and is swept in the end.
//
// The name may be one of before: a broker that adopted the region and died, too,
// has renamed it, and not every node has met that one.
func (a *Allocator) Adopt(name string, id wire.RegionID, g shmpool.Geometry) (*Region, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if g.Bytes() > math.MaxInt {
		return nil, fmt.Errorf("alloc: %w: %d bytes on a 32-bit system", shmpool.ErrGeometry, g.Bytes())
	}
	name, err := a.nameNow(name)
	if err != nil {
		return nil, err
	}
	instance, named, ok := parseRegionName(a.cfg.Prefix, name)
	switch {
	case !ok:
		return nil, notAdoptable(name, "it is not the name of a region with prefix %s", a.cfg.Prefix)
	case named != id:
		return nil, notAdoptable(name, "it is the name of region %d, not %d", uint64(named), uint64(id))
	case instance == a.instance:
		return nil, notAdoptable(name, "it is a region of this broker")
	}
	if err := a.enter(); err != nil {
		return nil, err
	}
	r, err := a.adopt(instance, name, id, g)
	if err != nil {
		a.leave()
		return nil, err
	}
	return r, nil
}

// nameNow returns what the region is called that once was called name. A change of
// names changes the instance only, and the rest is as hard to guess as ever.
func (a *Allocator) nameNow(name string) (string, error) {
	_, rest, ok := cutInstance(a.cfg.Prefix, name)
	if !ok {
		return name, nil // and it is refused as what it is
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(shmpool.Dir, name), &st); !errors.Is(err, unix.ENOENT) {
		return name, nil // if there is something wrong with it, opening it tells
	}
	entries, err := os.ReadDir(shmpool.Dir)
	if err != nil {
		return "", fmt.Errorf("alloc: %w", err)
	}
	for _, entry := range entries {
		if _, other, ok := cutInstance(a.cfg.Prefix, entry.Name()); ok && other == rest {
			return entry.Name(), nil
		}
	}
	return name, nil
}

// ErrNotAdoptable and what is wrong with the region.
func notAdoptable(name, format string, args ...any) error {
	return fmt.Errorf("alloc: %w: %q: %s", ErrNotAdoptable, name, fmt.Sprintf(format, args...))
}

func (a *Allocator) adopt(instance, name string, id wire.RegionID, g shmpool.Geometry) (_ *Region, err error) {
	// Held until the region has its new name: who sweeps the instance waits, and
	// who has begun to sweep is not disturbed.
	probe, err := a.shareDead(instance, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = probe.close() }()
	o, err := openObject(name)
	if errors.Is(err, unix.ENOENT) { // the probe file may outlive it
		return nil, fmt.Errorf("%w: %w", notAdoptable(name, "its broker's memory has been removed already"), err)
	}
	if err != nil {
		return nil, err
	}
	if err := o.checkRegion(id, g); err != nil {
		return nil, errors.Join(err, o.close())
	}
	if err := o.rename(renamedTo(a.cfg.Prefix, a.instance, name)); err != nil {
		return nil, errors.Join(err, o.close())
	}
	r := &Region{allocator: a, id: id, name: o.name, geometry: g, reader: o}
	if r.holder, err = pureBackend.hold(o, g.Bytes()); err == nil {
		// Also finds out that another file was moved than the one that was checked.
		err = r.holder.verify(o, nil, g.Bytes())
	}
	if err == nil {
		err = o.publish(a.cfg.Mode, a.cfg.GID)
	}
	var st unix.Stat_t
	if err == nil {
		st, err = o.stat()
	}
	if err != nil {
		return nil, errors.Join(err, o.unlink(), o.close())
	}
	r.inode = inode{uint64(st.Dev), st.Ino}
	return r, nil
}

// shareDead locks the probe file of a dead instance so that nobody sweeps it, but
// others may adopt from it at the same time.
func (a *Allocator) shareDead(instance, name string) (*object, error) {
	probe, err := openObject(probeName(a.cfg.Prefix, instance))
	if errors.Is(err, unix.ENOENT) {
		return nil, notAdoptable(name, "its broker's memory has been removed already")
	}
	if err != nil {
		return nil, err
	}
	dead, err := lockDead(probe, unix.LOCK_SH)
	if err == nil && !dead {
		err = notAdoptable(name, "its broker is alive, or its memory is being removed")
	}
	if err != nil {
		return nil, errors.Join(err, probe.close())
	}
	return probe, nil
}

// checkRegion returns an error unless the open file is the region, whole and ours.
func (o *object) checkRegion(id wire.RegionID, g shmpool.Geometry) error {
	st, err := o.stat()
	if err != nil {
		return err
	}
	switch {
	case !isOurs(&st):
		return notAdoptable(o.name, "file type %#o, user %d", st.Mode&unix.S_IFMT, st.Uid)
	case st.Nlink != 1:
		return notAdoptable(o.name, "%d names", st.Nlink)
	case uint64(st.Size) != g.Bytes():
		return notAdoptable(o.name, "%d bytes, %v needs %d", st.Size, g, g.Bytes())
	case uint64(st.Blocks)*blockBytes < g.Bytes():
		// A hole is memory that may not be there when somebody touches it.
		return notAdoptable(o.name, "%d of %d bytes have memory", uint64(st.Blocks)*blockBytes, g.Bytes())
	}
	header := make([]byte, shmpool.HeaderBytes)
	var n int
	err = retry(func() (err error) {
		n, err = unix.Pread(o.fd, header, 0)
		return err
	})
	if err != nil {
		return o.errorf("read", err)
	}
	if err := shmpool.CheckHeader(header[:n], id, g); err != nil {
		return fmt.Errorf("%w: %w", notAdoptable(o.name, "its header"), err)
	}
	return nil
}

// rename gives the file a name that nobody has.
func (o *object) rename(name string) error {
	path := filepath.Join(shmpool.Dir, name)
	err := retry(func() error {
		return unix.Renameat2(unix.AT_FDCWD, o.path, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	})
	if err != nil {
		return fmt.Errorf("alloc: %w", &os.LinkError{Op: "rename", Old: o.path, New: path, Err: err})
	}
	o.name, o.path = name, path
	return nil
}
