package alloc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
)

// names is what the directory holds of one instance.
type names struct {
	probe   bool
	regions []string
}

// Sweep unlinks what dead brokers of this user with this prefix have left behind:
// all regions of instances whose probe file nobody keeps locked, then the probe
// file, and regions of instances that have no probe file. An empty prefix is
// DefaultPrefix. It returns the names it has unlinked, sorted, also if there was
// an error: one name that cannot be unlinked does not keep it from the others.
// Several sweepers at a time, and starting brokers, do not disturb each other.
func Sweep(prefix string) (removed []string, err error) {
	prefix = Config{Prefix: prefix}.withDefaults().Prefix
	if err := validatePrefix(prefix); err != nil {
		return nil, err
	}
	instances, err := list(prefix)
	if err != nil {
		return nil, err
	}
	s := sweeper{prefix: prefix}
	for instance, found := range instances {
		if found.probe {
			s.sweepDead(instance)
		} else {
			s.sweepOrphans(instance, found.regions)
		}
	}
	slices.Sort(s.removed)
	return s.removed, errors.Join(s.errs...)
}

// list reads the directory.
func list(prefix string) (map[string]names, error) {
	entries, err := os.ReadDir(shmpool.Dir)
	if err != nil {
		return nil, fmt.Errorf("alloc: sweep: %w", err)
	}
	instances := make(map[string]names)
	for _, entry := range entries {
		instance, isProbe, ok := parseName(prefix, entry.Name())
		if !ok {
			continue
		}
		found := instances[instance]
		if isProbe {
			found.probe = true
		} else {
			found.regions = append(found.regions, entry.Name())
		}
		instances[instance] = found
	}
	return instances, nil
}

type sweeper struct {
	prefix  string
	removed []string
	errs    []error
}

// sweepDead removes what belongs to an instance if nobody holds its lock.
func (s *sweeper) sweepDead(instance string) {
	probe, err := openObject(probeName(s.prefix, instance))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return // another sweeper, or its owner, was faster
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ELOOP):
		return // not ours
	case err != nil:
		s.errs = append(s.errs, err)
		return
	}
	defer func() { _ = probe.close() }()
	if dead, err := lockDead(probe); err != nil || !dead {
		if err != nil {
			s.errs = append(s.errs, err)
		}
		return
	}
	// It may have made regions between the listing and its death.
	instances, err := list(s.prefix)
	if err != nil {
		s.errs = append(s.errs, err)
		return
	}
	complete := true
	for _, name := range instances[instance].regions {
		complete = s.remove(name) && complete
	}
	// Last, so that a sweep which ends here or fails can be done again.
	if complete {
		s.remove(probe.name)
	}
}

// lockDead reports whether a probe file has no living owner; it is locked then.
func lockDead(probe *object) (bool, error) {
	st, err := probe.stat()
	if err != nil || !isOurs(&st) {
		return false, err
	}
	err = retry(func() error { return unix.Flock(probe.fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, probe.errorf("lock", err)
	}
	// Unlinked between open and lock: another sweeper has done it all.
	if st, err = probe.stat(); err != nil {
		return false, err
	}
	return st.Nlink > 0, nil
}

// sweepOrphans removes regions that were seen without a probe file, if that is
// still missing. The order matters: see the package comment.
func (s *sweeper) sweepOrphans(instance string, regions []string) {
	var st unix.Stat_t
	err := unix.Lstat(filepath.Join(shmpool.Dir, probeName(s.prefix, instance)), &st)
	if !errors.Is(err, unix.ENOENT) {
		return
	}
	for _, name := range regions {
		s.remove(name)
	}
}

// remove unlinks one name, if it is a file of ours, and reports whether that is
// done with.
func (s *sweeper) remove(name string) bool {
	path := filepath.Join(shmpool.Dir, name)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || !isOurs(&st) {
		return true
	}
	switch err := unix.Unlink(path); {
	case err == nil:
		s.removed = append(s.removed, name)
	case !errors.Is(err, unix.ENOENT):
		s.errs = append(s.errs, fmt.Errorf("alloc: sweep: %w", &os.PathError{Op: "unlink", Path: path, Err: err}))
		return false
	}
	return true
}

// isOurs reports whether a file may be one that an Allocator of this user made.
// Anyone can make files in the directory, under any name and of any type.
func isOurs(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFREG && int(st.Uid) == os.Geteuid()
}
