package alloc

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
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
// DefaultPrefix. Instances with a session that still is alive are left, so that
// the next broker can adopt what its nodes bring. Names that cannot be unlinked do not keep it from the
// others. Several sweepers at a time, and starting brokers, do not disturb each
// other.
func Sweep(prefix string) (Swept, error) {
	s, err := newSweeper(prefix)
	if err != nil {
		return Swept{}, err
	}
	instances, err := list(s.prefix)
	if err != nil {
		return Swept{}, err
	}
	for _, instance := range slices.Sorted(maps.Keys(instances)) {
		if found := instances[instance]; found.probe {
			s.sweepDead(instance, false)
		} else {
			s.sweepOrphans(instance, found.regions)
		}
	}
	return s.result()
}

// SweepInstances does for some instances what Sweep does for all. With used set it
// sweeps them also if a session of theirs is alive: nodes keep what they have
// mapped, but cannot bring it to another broker any more. What is being adopted at
// this moment stays even then, and is in Swept.Used again. The probe file stays as
// long as a session is alive: it is all that tells whether what its node had mapped
// may be used again.
func SweepInstances(prefix string, instances []string, used bool) (Swept, error) {
	s, err := newSweeper(prefix)
	if err != nil {
		return Swept{}, err
	}
	for _, instance := range instances {
		s.sweepDead(instance, used)
	}
	return s.result()
}

func newSweeper(prefix string) (*sweeper, error) {
	prefix = Config{Prefix: prefix}.withDefaults().Prefix
	return &sweeper{prefix: prefix}, validatePrefix(prefix)
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
	prefix string
	swept  Swept
	errs   []error
}

func (s *sweeper) result() (Swept, error) {
	slices.Sort(s.swept.Removed)
	return s.swept, errors.Join(s.errs...)
}

func (s *sweeper) note(err error) {
	if err != nil {
		s.errs = append(s.errs, err)
	}
}

// sweepDead removes what belongs to an instance if nobody holds its lock, and,
// unless used is set, no session of it is alive.
func (s *sweeper) sweepDead(instance string, used bool) {
	probe, err := openObject(probeName(s.prefix, instance))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return // another sweeper, or its owner, was faster
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ELOOP):
		return // not ours
	case err != nil:
		s.note(err)
		return
	}
	defer func() { _ = probe.close() }()
	// Shared first: to look must not keep others from adopting.
	if dead, err := lockDead(probe, unix.LOCK_SH); err != nil || !dead {
		s.note(err)
		return
	}
	if !used {
		alive, err := sessionIn(probe, shmpool.ProbeLockBase, 0)
		if err != nil || alive {
			s.note(err)
			s.swept.Used = append(s.swept.Used, instance)
			return
		}
	}
	switch dead, err := lockDead(probe, unix.LOCK_EX); {
	case err != nil:
		s.note(err)
	case dead:
		s.empty(instance, probe)
	case s.named(probe):
		s.swept.Used = append(s.swept.Used, instance) // somebody adopts, or looks
	}
}

// empty removes everything of an instance whose probe file is locked.
func (s *sweeper) empty(instance string, probe *object) {
	// It may have made regions between a listing and its death.
	instances, err := list(s.prefix)
	if err != nil {
		s.note(err)
		return
	}
	complete := true
	for _, name := range instances[instance].regions {
		complete = s.remove(name) && complete
	}
	// Last, so that a sweep which ends here or fails can be done again.
	if !complete {
		return
	}
	switch alive, err := sessionIn(probe, shmpool.ProbeLockBase, 0); {
	case err != nil:
		s.note(err)
	case alive:
		s.swept.Locked = append(s.swept.Locked, instance)
	default:
		s.remove(probe.name)
	}
}

// named reports whether a file that was opened still has a name.
func (s *sweeper) named(o *object) bool {
	st, err := o.stat()
	s.note(err)
	return err == nil && st.Nlink > 0
}

// lockDead reports whether a probe file has no living owner; it is locked then.
// how is LOCK_EX for who unlinks the instance's names, and LOCK_SH for who needs
// them to stay.
func lockDead(probe *object, how int) (bool, error) {
	st, err := probe.stat()
	if err != nil || !isOurs(&st) {
		return false, err
	}
	err = retry(func() error { return unix.Flock(probe.fd, how|unix.LOCK_NB) })
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

// sessionIn reports whether somebody holds a session's lock in a range of a probe
// file. Of length 0 the range has no end.
func sessionIn(probe *object, offset, length int64) (bool, error) {
	// Asks who would be in the way of a write lock; takes none.
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: offset, Len: length}
	err := retry(func() error { return unix.FcntlFlock(uintptr(probe.fd), unix.F_OFD_GETLK, &lock) })
	if err != nil {
		return false, probe.errorf("ask for session locks on", err)
	}
	return lock.Type != unix.F_UNLCK, nil
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
		s.swept.Removed = append(s.swept.Removed, name)
	case !errors.Is(err, unix.ENOENT):
		s.note(fmt.Errorf("alloc: sweep: %w", &os.PathError{Op: "unlink", Path: path, Err: err}))
		return false
	}
	return true
}

// isOurs reports whether a file may be one that an Allocator of this user made.
// Anyone can make files in the directory, under any name and of any type.
func isOurs(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFREG && int(st.Uid) == os.Geteuid()
}
