package alloc

import (
	"bytes"
	"errors"
	"math"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

func TestConfigValidate(t *testing.T) {
	for _, c := range []Config{
		{}, {Prefix: "brokerd", Mode: DefaultMode, GID: NoGID}, {Mode: GroupMode, GID: 100}, {Prefix: "A_9"},
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range []Config{
		{Prefix: "a-b"}, {Prefix: "a/b"}, {Prefix: ".."}, {Prefix: "123456789012345678901234567890123"},
		{Mode: 0o666}, {Mode: 0o400}, {Mode: 0o1600}, {Mode: os.ModeDir | 0o600}, {GID: -2},
	} {
		if err := c.Validate(); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
		if a, err := Open(c); a != nil || !errors.Is(err, ErrConfig) {
			t.Errorf("open %+v: %v", c, err)
		}
	}
}

func TestProbe(t *testing.T) {
	a := mustOpen(t)
	name, offset, length := a.Probe()
	p, nonce, err := shmpool.OpenProbe(name, offset, length)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if len(nonce) != 32 || bytes.Equal(nonce, make([]byte, 32)) {
		t.Fatalf("nonce %x", nonce)
	}
	if st := statObject(t, name); st.Mode != unix.S_IFREG|0o600 {
		t.Errorf("mode %#o", st.Mode)
	}
	if !a.CheckNonce(nonce) {
		t.Error("the right nonce is refused")
	}
	for _, wrong := range [][]byte{nil, {}, nonce[:31], append(bytes.Clone(nonce), 0), make([]byte, 32)} {
		if a.CheckNonce(wrong) {
			t.Errorf("%x is accepted", wrong)
		}
	}
	other := mustOpen(t)
	if other.Instance() == a.Instance() || other.CheckNonce(nonce) {
		t.Error("two instances are the same")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.SessionAlive(1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("session of a closed instance: %v", err)
	}
}

// TestSessionAlive has a real node: stopped it is alive, killed it is not.
func TestSessionAlive(t *testing.T) {
	a := mustOpen(t)
	name, _, _ := a.Probe()
	check := func(when string, session wire.SessionID, want bool) {
		t.Helper()
		if alive, err := a.SessionAlive(session); err != nil || alive != want {
			t.Errorf("%s: session %d alive is %v, %v", when, session, alive, err)
		}
	}
	check("before", 1, false)
	c := startChild(t, "node", name, nil)
	check("running", 1, true)
	check("running", 2, false) // ended, which has not unlocked session 1
	check("running", 3, false)
	c.stop(t)
	check("stopped", 1, true)
	c.kill()
	check("killed", 1, false)

	c = startChild(t, "node", name, nil)
	check("second run", 1, true)
	if err := c.in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	check("ended", 1, false)
	if _, err := a.SessionAlive(math.MaxUint64); err == nil {
		t.Error("a session beyond all offsets has an answer")
	}
}

// TestChildKeepsNothing: a program that the node starts has neither mappings nor
// the lock.
func TestChildKeepsNothing(t *testing.T) {
	a := mustOpen(t)
	name, offset, length := a.Probe()
	p, _, err := shmpool.OpenProbe(name, offset, length)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Lock(9); err != nil {
		t.Fatal(err)
	}
	startChild(t, "node", name, nil)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if alive, err := a.SessionAlive(9); err != nil || alive {
		t.Errorf("alive is %v, %v", alive, err)
	}
}
