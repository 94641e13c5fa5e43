package shmpool

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/wire"
)

func TestOpenProbe(t *testing.T) {
	nonce := []byte("0123456789abcdef0123456789abcdef")
	name := makeObject(t, "probe", 96, append(make([]byte, 64), nonce...))
	fds := openFDs(t)
	p, got, err := OpenProbe(name, 64, 32)
	if err != nil || !bytes.Equal(got, nonce) {
		t.Fatalf("nonce %q, %v", got, err)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Lock(1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("lock after close: %v", err)
	}
	for _, c := range []struct {
		name   string
		offset uint64
		length uint32
		want   error
	}{
		{name, 65, 32, ErrProbe}, {name, 0, 97, ErrProbe}, {name, math.MaxUint64, 32, ErrProbe}, {name, 96, 1, ErrProbe},
		{name, 0, 0, ErrProbe}, {name, 0, math.MaxUint32, ErrProbe},
		{testPrefix + "-missing", 0, 32, fs.ErrNotExist}, {"../etc/passwd", 0, 32, ErrName},
	} {
		if p, b, err := OpenProbe(c.name, c.offset, c.length); p != nil || b != nil || !errors.Is(err, c.want) {
			t.Errorf("%s, %d bytes at %d: %v, want %v", c.name, c.length, c.offset, err, c.want)
		}
	}
	if n := openFDs(t); n != fds {
		t.Errorf("%d descriptors leaked", n-fds)
	}
}

// lockedBy asks as the broker does.
func lockedBy(t *testing.T, f *os.File, session wire.SessionID) bool {
	t.Helper()
	offset, err := SessionLockOffset(session)
	if err != nil {
		t.Fatal(err)
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: offset, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		t.Fatal(err)
	}
	return lock.Type != unix.F_UNLCK
}

// TestProbeLocks: sessions of one process do not disturb each other, and the
// lock works with read permission only.
func TestProbeLocks(t *testing.T) {
	name := makeObject(t, "locks", 32, nil)
	f, err := os.OpenFile(filepath.Join(Dir, name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	open := func() *Probe {
		p, _, err := OpenProbe(name, 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	first, second, third := open(), open(), open()
	for _, c := range []struct {
		p       *Probe
		session wire.SessionID
	}{{first, 1}, {second, 2}, {third, 1}} {
		if err := c.p.Lock(c.session); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, want map[wire.SessionID]bool) {
		t.Helper()
		for session, locked := range want {
			if lockedBy(t, f, session) != locked {
				t.Errorf("%s: session %d locked is %v", when, session, !locked)
			}
		}
	}
	check("all", map[wire.SessionID]bool{0: false, 1: true, 2: true, 3: false})
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	check("second closed", map[wire.SessionID]bool{1: true, 2: false})
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
	check("third closed", map[wire.SessionID]bool{1: true}) // the same byte, held by the first as well
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	check("first closed", map[wire.SessionID]bool{1: false})

	if err := open().Lock(math.MaxUint64); err == nil {
		t.Error("a session beyond all offsets was locked")
	}
	last := open()
	if err := last.Lock(math.MaxInt64 - ProbeLockBase - 1); err != nil {
		t.Errorf("the last session: %v", err)
	}
}
