package alloc

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

func mustSweep(t *testing.T) []string {
	t.Helper()
	swept, err := Sweep(testPrefix)
	if err != nil {
		t.Fatal(err)
	}
	return swept.Removed
}

// touch makes an empty object and removes it with the test.
func touch(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(shmpool.Dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
	return name
}

func TestSweepAfterKill(t *testing.T) {
	alive := mustOpen(t)
	mustCreate(t, alive, 1, smallGeometry)
	stopped := startChild(t, "broker", "", nil)
	stopped.stop(t)
	before := objects(t)

	killed := startChild(t, "broker", "", nil)
	if len(objects(t)) != len(before)+4 {
		t.Fatalf("objects: %v", objects(t))
	}
	if removed := mustSweep(t); len(removed) != 0 {
		t.Fatalf("removed from the living: %v", removed)
	}
	killed.kill()
	removed := mustSweep(t)
	if len(removed) != 4 || !slices.IsSorted(removed) {
		t.Fatalf("removed %v", removed)
	}
	for _, name := range removed {
		if !strings.HasPrefix(name, testPrefix+"-"+killed.instance()+"-") {
			t.Errorf("%s is not of instance %s", name, killed.instance())
		}
	}
	if after := objects(t); !slices.Equal(after, before) {
		t.Errorf("left %v, want %v", after, before)
	}
	stopped.kill()
	if removed := mustSweep(t); len(removed) != 4 {
		t.Errorf("removed %v", removed)
	}
}

// TestSweepLeavesOthersAlone: names that are not made here, files that are no
// regions, files of other users.
func TestSweepLeavesOthersAlone(t *testing.T) {
	const random = "0123456789abcdef"
	var keep []string
	for _, name := range []string{
		testPrefix, testPrefix + "-", testPrefix + "-1234567-1-" + random, testPrefix + "-1234567g-1-" + random,
		testPrefix + "-12345678", testPrefix + "-12345678-probe2", testPrefix + "-12345678-1-" + random + "0",
		testPrefix + "-12345678-g-" + random, testPrefix + "-12345678-11111111111111111-" + random,
		testPrefix + "-12345678-1-" + random + "-x", testPrefix + "x-12345678-1-" + random,
	} {
		keep = append(keep, touch(t, name))
	}
	link := testPrefix + "-aaaaaaaa-probe"
	fifo := testPrefix + "-bbbbbbbb-probe"
	dir := testPrefix + "-cccccccc-1-" + random
	under := touch(t, testPrefix+"-aaaaaaaa-1-"+random) // whose probe is no file of ours
	if err := errors.Join(
		os.Symlink(keep[0], filepath.Join(shmpool.Dir, link)),
		unix.Mkfifo(filepath.Join(shmpool.Dir, fifo), 0o600),
		os.Mkdir(filepath.Join(shmpool.Dir, dir), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{link, fifo, dir} {
		t.Cleanup(func() { _ = os.Remove(filepath.Join(shmpool.Dir, name)) })
	}
	keep = append(keep, link, fifo, dir, under)
	if os.Geteuid() == 0 {
		for _, name := range []string{testPrefix + "-dddddddd-probe", testPrefix + "-dddddddd-1-" + random, testPrefix + "-eeeeeeee-1-" + random} {
			if err := os.Chown(filepath.Join(shmpool.Dir, touch(t, name)), 12345, -1); err != nil {
				t.Fatal(err)
			}
			keep = append(keep, name)
		}
	}
	orphan := touch(t, testPrefix+"-12345678-ff-"+random)
	if removed := mustSweep(t); !slices.Equal(removed, []string{orphan}) {
		t.Errorf("removed %v, want %v", removed, orphan)
	}
	slices.Sort(keep)
	if left := objects(t); !slices.Equal(left, keep) {
		t.Errorf("left %v, want %v", left, keep)
	}
	if _, err := Sweep("a-b"); !errors.Is(err, ErrConfig) {
		t.Errorf("bad prefix: %v", err)
	}
}

// The following play the dangerous orders of steps one by one.

func TestSweepBeforeLock(t *testing.T) {
	probe, err := createObject(probeName(testPrefix, newInstance()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = probe.close() }()
	if removed := mustSweep(t); !slices.Equal(removed, []string{probe.name}) {
		t.Fatalf("removed %v", removed)
	}
	if err := lockNew(probe); !errors.Is(err, errSwept) {
		t.Fatalf("the broker has a probe without a name: %v", err)
	}
}

func TestSweepWhileLocking(t *testing.T) {
	probe, err := createObject(probeName(testPrefix, newInstance()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = probe.close() }()
	early, late, later := mustOpenObject(t, probe.name), mustOpenObject(t, probe.name), mustOpenObject(t, probe.name)
	// A sweeper has the lock: the broker must not wait for what will be unlinked.
	if dead, err := lockDead(early, unix.LOCK_EX); err != nil || !dead {
		t.Fatalf("dead is %v, %v", dead, err)
	}
	if err := lockNew(probe); !errors.Is(err, errSwept) {
		t.Fatalf("two have the lock: %v", err)
	}
	// The sweeper leaves without unlinking (it was killed): the broker gets the
	// lock, and a sweeper that had opened the file long ago does not.
	if err := early.close(); err != nil {
		t.Fatal(err)
	}
	if err := lockNew(probe); err != nil {
		t.Fatal(err)
	}
	if dead, err := lockDead(late, unix.LOCK_EX); err != nil || dead {
		t.Fatalf("dead is %v, %v", dead, err)
	}
	// The broker ends; of two sweepers the second finds nothing to do.
	if err := errors.Join(probe.unlink(), probe.close()); err != nil {
		t.Fatal(err)
	}
	if dead, err := lockDead(later, unix.LOCK_EX); err != nil || dead {
		t.Fatalf("dead is %v, %v", dead, err)
	}
}

func mustOpenObject(t *testing.T, name string) *object {
	t.Helper()
	o, err := openObject(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.close() })
	return o
}

// TestSweepOrphanOfStarting: a listing that has a region and not yet its probe,
// as may happen while a directory changes, does no harm.
func TestSweepOrphanOfStarting(t *testing.T) {
	a := mustOpen(t)
	r := mustCreate(t, a, 1, smallGeometry)
	s := sweeper{prefix: testPrefix}
	s.sweepOrphans(a.Instance(), []string{r.Name()})
	if len(s.swept.Removed) != 0 || len(s.errs) != 0 {
		t.Fatalf("removed %v, %v", s.swept.Removed, s.errs)
	}
}

// TestSweepRaces lets brokers start, work and end while sweepers run: nobody may
// lose anything.
func TestSweepRaces(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	done := make(chan struct{})
	var sweepers, brokers sync.WaitGroup
	for range 2 {
		sweepers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if _, err := Sweep(testPrefix); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for range 3 {
		brokers.Go(func() {
			for range rounds {
				if err := liveAndDie(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	brokers.Wait()
	close(done)
	sweepers.Wait()
	mustSweep(t)
	if left := objects(t); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// liveAndDie is the life of a broker that sometimes leaves its names behind.
func liveAndDie() error {
	a, err := Open(testConfig)
	if err != nil {
		return err
	}
	var regions []*Region
	for id := range wire.RegionID(3) {
		r, err := a.Create(id, smallGeometry)
		if err != nil {
			return err
		}
		regions = append(regions, r)
	}
	probe, _, _ := a.Probe()
	if _, err := os.Lstat(filepath.Join(shmpool.Dir, probe)); err != nil {
		return err
	}
	for _, r := range regions {
		if _, err := os.Lstat(filepath.Join(shmpool.Dir, r.Name())); err != nil {
			return err
		}
	}
	if regions[0].Name()[len(regions[0].Name())-1]%2 == 0 {
		return a.probe.close() // the lock is gone, as after a kill
	}
	for _, r := range regions {
		if err := r.Close(); err != nil {
			return err
		}
	}
	return a.Close()
}

func TestParseName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		instance := newInstance()
		id := wire.RegionID(rapid.Uint64().Draw(t, "id"))
		got, isProbe, ok := parseName(testPrefix, regionName(testPrefix, instance, id))
		if got != instance || isProbe || !ok {
			t.Fatalf("region name: %q, %v, %v", got, isProbe, ok)
		}
		got, isProbe, ok = parseName(testPrefix, probeName(testPrefix, instance))
		if got != instance || !isProbe || !ok {
			t.Fatalf("probe name: %q, %v, %v", got, isProbe, ok)
		}
		if _, _, ok := parseName("other", probeName(testPrefix, instance)); ok {
			t.Fatal("another prefix is accepted")
		}
		if err := shmpool.ValidateName(regionName(testPrefix, instance, id)); err != nil {
			t.Fatal(err)
		}
	})
}
