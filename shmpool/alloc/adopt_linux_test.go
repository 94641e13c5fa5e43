package alloc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// adopterChild is a broker that adopts the regions named by argEnv, in the order
// of their ids from 1 on, once its input has ended, and ends in good order.
func adopterChild() error {
	a, err := Open(testConfig)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	waitForEnd()
	var adopted []*Region
	for i, name := range strings.Fields(os.Getenv(argEnv)) {
		r, err := a.Adopt(name, wire.RegionID(i+1), smallGeometry)
		if err == nil {
			adopted = append(adopted, r)
		} else if !errors.Is(err, ErrNotAdoptable) && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	for _, r := range adopted {
		if _, err := os.Lstat(filepath.Join(shmpool.Dir, r.Name())); err != nil {
			return fmt.Errorf("adopted, and swept: %w", err)
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	return a.Close()
}

// sweeperChild sweeps the instance argEnv, once its input has ended, until nothing
// is left.
func sweeperChild() error {
	fmt.Println("ready")
	waitForEnd()
	for instances := []string{os.Getenv(argEnv)}; len(instances) > 0; {
		swept, err := SweepInstances(testPrefix, instances, true)
		if err != nil {
			return err
		}
		instances = swept.Used
	}
	return nil
}

// deadBroker is a broker that was killed, with three regions, while this process
// has session 9 of it.
func deadBroker(t *testing.T) (dead *child, session *shmpool.Probe) {
	t.Helper()
	dead = startChild(t, "broker", "", nil)
	session, _, err := shmpool.OpenProbe(probeName(testPrefix, dead.instance()), probeNonceOffset, probeNonceBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	if err := session.Lock(9); err != nil {
		t.Fatal(err)
	}
	dead.kill()
	// Whatever the test has left of it.
	t.Cleanup(func() {
		_ = session.Close()
		if _, err := SweepInstances(testPrefix, []string{dead.instance()}, true); err != nil {
			t.Error(err)
		}
	})
	return dead, session
}

func mustAdopt(t *testing.T, a *Allocator, name string, id wire.RegionID) *Region {
	t.Helper()
	r, err := a.Adopt(name, id, smallGeometry)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// What a node keeps mapped goes on under a new name, over any number of brokers.
func TestAdopt(t *testing.T) {
	dead, session := deadBroker(t)
	m, err := shmpool.Map(dead.regions()[1], 2, smallGeometry, shmpool.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	payload, err := m.Slice(shmpool.HeaderBytes, 16)
	if err != nil {
		t.Fatal(err)
	}
	copy(payload, "before")

	swept, err := Sweep(testPrefix)
	if err != nil || len(swept.Removed) != 0 || !slices.Equal(swept.Used, []string{dead.instance()}) {
		t.Fatalf("the sweep at the start: %+v, %v", swept, err)
	}
	group := testConfig
	group.Mode = GroupMode
	a := mustOpenWith(t, group)
	r := mustAdopt(t, a, dead.regions()[1], 2)
	if !strings.HasPrefix(r.Name(), testPrefix+"-"+a.Instance()+"-2-") || r.ID() != 2 || r.Geometry() != smallGeometry {
		t.Errorf("%s, region %d, %v", r.Name(), r.ID(), r.Geometry())
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(shmpool.Dir, r.Name()), &st); err != nil || st.Mode&0o777 != 0o660 {
		t.Errorf("mode %#o, %v", st.Mode, err)
	}
	copy(payload, "after")
	got := make([]byte, 16)
	if _, err := r.ReadAt(got, shmpool.HeaderBytes); err != nil || !bytes.HasPrefix(got, []byte("aftere")) {
		t.Errorf("%q, %v", got, err)
	}
	if fds, _ := holds(t, r.Name()); fds != 1 {
		t.Errorf("%d descriptors", fds)
	}
	for _, name := range []string{dead.regions()[1], r.Name()} {
		if _, err := a.Adopt(name, 2, smallGeometry); !errors.Is(err, ErrNotAdoptable) {
			t.Errorf("its own, as %s: %v", name, err)
		}
	}

	// That broker dies, too. Its region has an id of the first one, and comes from a
	// node that has not met it and knows the first name only.
	if err := a.probe.close(); err != nil {
		t.Fatal(err)
	}
	b := mustOpen(t)
	second := mustAdopt(t, b, dead.regions()[1], 2)
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	if swept, err = Sweep(testPrefix); err != nil || len(swept.Used) != 0 || len(swept.Removed) != 4 {
		t.Errorf("when nobody lives any more: %+v, %v", swept, err)
	}
	if _, err := os.Lstat(filepath.Join(shmpool.Dir, second.Name())); err != nil {
		t.Error(err)
	}
	// It was closed by hand.
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probe = nil
}

// TestAdoptWhatIsLeft: after the time for it, a living session keeps nothing but
// the file that says that it lives.
func TestAdoptWhatIsLeft(t *testing.T) {
	dead, session := deadBroker(t)
	a := mustOpen(t)
	r := mustAdopt(t, a, dead.regions()[0], 1)
	swept, err := SweepInstances(testPrefix, []string{dead.instance(), a.Instance(), "00000000"}, true)
	if err != nil || len(swept.Used) != 0 || !slices.Equal(swept.Locked, []string{dead.instance()}) {
		t.Fatalf("%+v, %v", swept, err)
	}
	want := slices.Sorted(slices.Values(dead.regions()[1:]))
	if !slices.Equal(swept.Removed, want) {
		t.Errorf("removed %v, want %v", swept.Removed, want)
	}
	if _, err := os.Lstat(filepath.Join(shmpool.Dir, r.Name())); err != nil {
		t.Error(err)
	}
	if _, err := a.Adopt(dead.regions()[1], 2, smallGeometry); !errors.Is(err, ErrNotAdoptable) {
		t.Errorf("too late: %v", err)
	}
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	swept, err = SweepInstances(testPrefix, swept.Locked, true)
	if err != nil || len(swept.Locked) != 0 || !slices.Equal(swept.Removed, []string{probeName(testPrefix, dead.instance())}) {
		t.Errorf("when nobody lives any more: %+v, %v", swept, err)
	}
}

// TestAdoptExcludesSweep plays the orders of steps one by one.
func TestAdoptExcludesSweep(t *testing.T) {
	dead, _ := deadBroker(t)
	a := mustOpen(t)
	adopting, err := a.shareDead(dead.instance(), "x")
	if err != nil {
		t.Fatal(err)
	}
	// While somebody adopts, others may, and sweepers come again later.
	mustAdopt(t, a, dead.regions()[0], 1)
	swept, err := SweepInstances(testPrefix, []string{dead.instance()}, true)
	if err != nil || len(swept.Removed) != 0 || !slices.Equal(swept.Used, []string{dead.instance()}) {
		t.Fatalf("%+v, %v", swept, err)
	}
	if err := adopting.close(); err != nil {
		t.Fatal(err)
	}
	// While somebody sweeps, nobody may.
	sweeping := mustOpenObject(t, probeName(testPrefix, dead.instance()))
	if dead, err := lockDead(sweeping, unix.LOCK_EX); err != nil || !dead {
		t.Fatalf("%v, %v", dead, err)
	}
	if _, err := a.Adopt(dead.regions()[1], 2, smallGeometry); !errors.Is(err, ErrNotAdoptable) {
		t.Fatalf("adopted from under a sweep: %v", err)
	}
	if err := sweeping.close(); err != nil {
		t.Fatal(err)
	}
	mustAdopt(t, a, dead.regions()[1], 2)
}

// TestAdoptRaces lets two brokers adopt and one sweep at the same time: none may
// fail, and nothing may be left.
func TestAdoptRaces(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		dead, session := deadBroker(t)
		names := strings.Join(dead.regions(), " ")
		racers := []*child{
			startChild(t, "adopter", names, nil), startChild(t, "adopter", names, nil), startChild(t, "sweeper", dead.instance(), nil),
		}
		for _, c := range racers {
			if err := c.in.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range racers {
			if err := c.Wait(); err != nil {
				t.Fatalf("%s: %v", c.Args, err)
			}
		}
		if left := objects(t); !slices.Equal(left, []string{probeName(testPrefix, dead.instance())}) {
			t.Fatalf("left %v", left)
		}
		if err := session.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := SweepInstances(testPrefix, []string{dead.instance()}, true); err != nil {
			t.Fatal(err)
		}
		if left := objects(t); len(left) != 0 {
			t.Fatalf("left %v", left)
		}
	}
}

// TestAdoptHostile: whatever a node says, or has put in the place of a region.
func TestAdoptHostile(t *testing.T) {
	dead, _ := deadBroker(t)
	t.Cleanup(func() { mustSweep(t) }) // of the living one, once it is dead
	living := startChild(t, "broker", "", nil)
	a := mustOpen(t)
	const random = "0123456789abcdef"
	in := func(instance, id string) string { return testPrefix + "-" + instance + "-" + id + "-" + random }
	path := func(name string) string { return filepath.Join(shmpool.Dir, name) }
	header := make([]byte, smallGeometry.Bytes())
	shmpool.EncodeHeader(header, 5, smallGeometry)
	// place makes region 5 of the dead instance, and changes something about it.
	place := func(change func(path string) error) func() string {
		return func() string {
			name := touch(t, in(dead.instance(), "5"))
			if err := errors.Join(os.WriteFile(path(name), header, 0o600), change(path(name))); err != nil {
				t.Fatal(err)
			}
			return name
		}
	}
	named := func(name string) func() string { return func() string { return name } }
	for what, c := range map[string]struct {
		name func() string
		id   wire.RegionID
		g    shmpool.Geometry
		want error
	}{
		"no name":           {name: named(""), want: ErrNotAdoptable},
		"a path":            {name: named("../../etc/passwd"), want: ErrNotAdoptable},
		"a path behind":     {name: named(in(dead.instance(), "5") + "/../x"), want: ErrNotAdoptable},
		"another prefix":    {name: named("other-" + dead.instance() + "-5-" + random), want: ErrNotAdoptable},
		"the probe":         {name: named(probeName(testPrefix, dead.instance())), want: ErrNotAdoptable},
		"of the living":     {name: named(living.regions()[0]), id: 1, want: ErrNotAdoptable},
		"of nobody":         {name: named(in("00000000", "5")), want: ErrNotAdoptable},
		"of this broker":    {name: named(in(a.Instance(), "5")), want: ErrNotAdoptable},
		"another id":        {name: named(dead.regions()[0]), id: 2, want: ErrNotAdoptable},
		"another slot size": {name: named(dead.regions()[0]), id: 1, g: shmpool.Geometry{SlotBytes: 40960, Slots: 2}, want: ErrNotAdoptable},
		"no slot size":      {name: named(dead.regions()[0]), id: 1, g: shmpool.Geometry{SlotBytes: 20481, Slots: 4}, want: shmpool.ErrGeometry},
		"not there":         {name: named(in(dead.instance(), "5")), want: unix.ENOENT},
		"too short":         {name: place(func(p string) error { return os.Truncate(p, int64(len(header))-1) }), want: ErrNotAdoptable},
		"too long":          {name: place(func(p string) error { return os.Truncate(p, int64(len(header))+1) }), want: ErrNotAdoptable},
		"another header": {name: place(func(p string) error {
			return os.WriteFile(p, bytes.ToLower(header), 0o600)
		}), want: shmpool.ErrHeader},
		"a hole": {name: place(func(p string) error {
			return errors.Join(os.Truncate(p, shmpool.HeaderBytes), os.Truncate(p, int64(len(header))))
		}), want: ErrNotAdoptable},
		"two names": {name: place(func(p string) error {
			other := path(testPrefix + "-link")
			t.Cleanup(func() { _ = os.Remove(other) })
			return os.Link(p, other)
		}), want: ErrNotAdoptable},
		"a link": {name: place(func(p string) error {
			return errors.Join(os.Remove(p), os.Symlink(path(dead.regions()[0]), p))
		}), want: unix.ELOOP},
		"a fifo": {name: place(func(p string) error {
			return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600))
		}), want: ErrNotAdoptable},
		"a directory": {name: place(func(p string) error {
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o700))
		}), want: ErrNotAdoptable},
		"of another user": {name: place(func(p string) error {
			if os.Geteuid() != 0 {
				return os.Truncate(p, 0) // refused, for another reason
			}
			return os.Chown(p, 12345, -1)
		}), want: ErrNotAdoptable},
	} {
		t.Run(what, func(t *testing.T) {
			if c.id == 0 {
				c.id = 5
			}
			if c.g == (shmpool.Geometry{}) {
				c.g = smallGeometry
			}
			name := c.name()
			before := objects(t)
			if r, err := a.Adopt(name, c.id, c.g); !errors.Is(err, c.want) || r != nil {
				t.Errorf("%v, %v, want %v", r, err, c.want)
			}
			if after := objects(t); !slices.Equal(before, after) {
				t.Errorf("changed\n%v to\n%v", before, after)
			}
			if fds, _ := holds(t, dead.instance()); fds != 1 { // the session's
				t.Errorf("%d descriptors are open", fds)
			}
			_ = os.Remove(path(in(dead.instance(), "5")))
		})
	}
	mustAdopt(t, a, dead.regions()[0], 1) // it was that region that could not be had
}
