package alloc

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

const (
	// The probe file is a line for those who wonder what it is, and the nonce.
	probeText        = "brokerd probe: locked while the broker lives\n"
	probeNonceOffset = 64
	probeNonceBytes  = 32

	// instanceTriesMax bounds how often Open starts over. Each try fails only if a
	// sweeper comes within some microseconds, or for a collision of random ids.
	instanceTriesMax = 16
)

// errSwept reports that a sweeper took the probe file before it was locked.
var errSwept = errors.New("the probe file was swept")

// Allocator creates the regions of one broker instance. Its methods are safe for
// concurrent use.
type Allocator struct {
	cfg      Config
	backend  backend
	instance string
	nonce    []byte

	mu      sync.Mutex
	probe   *object // nil once closed
	regions int     // open or being created
}

// Open starts an instance: it makes the probe file and locks it.
func Open(cfg Config) (*Allocator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Allocator{cfg: cfg.withDefaults(), backend: defaultBackend, nonce: make([]byte, probeNonceBytes)}
	rand.Read(a.nonce) // never fails: the runtime ends the process instead
	for try := 1; ; try++ {
		err := a.start()
		if err == nil {
			return a, nil
		}
		if try == instanceTriesMax || !errors.Is(err, errSwept) && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
	}
}

// start tries one instance id.
func (a *Allocator) start() error {
	instance := newInstance()
	probe, err := createObject(probeName(a.cfg.Prefix, instance))
	if err != nil {
		return err
	}
	// From here to the lock, a sweeper takes the file for a dead broker's.
	if err := lockNew(probe); err != nil {
		return errors.Join(err, probe.unlink(), probe.close())
	}
	err = a.fill(probe)
	if err != nil {
		return errors.Join(err, probe.unlink(), probe.close())
	}
	a.instance, a.probe = instance, probe
	return nil
}

// lockNew locks the probe file of a starting instance, or returns errSwept if a
// sweeper was faster. The package comment has the reasons.
func lockNew(probe *object) error {
	err := retry(func() error { return unix.Flock(probe.fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errSwept
	}
	if err != nil {
		return probe.errorf("lock", err)
	}
	st, err := probe.stat()
	if err != nil {
		return err
	}
	if st.Nlink == 0 {
		return errSwept
	}
	return nil
}

// fill writes the probe file and lets nodes read it.
func (a *Allocator) fill(probe *object) error {
	content := make([]byte, probeNonceOffset+probeNonceBytes)
	copy(content, probeText)
	copy(content[probeNonceOffset:], a.nonce)
	// As for a region, so that a file system which cannot reserve memory is found
	// out here, and not by every node that asks for some.
	if err := probe.fallocate(uint64(len(content))); err != nil {
		return err
	}
	if err := probe.writeAt(content, 0); err != nil {
		return err
	}
	return probe.publish(a.cfg.Mode&^0o020, a.cfg.GID)
}

// Instance returns the random id of this instance, 8 hex digits.
func (a *Allocator) Instance() string { return a.instance }

// Backend names what holds regions, for logs.
func (a *Allocator) Backend() string { return a.backend.name }

// Probe returns what a node needs to prove that it shares this memory: the name
// of the probe file, and where in it the nonce lies.
func (a *Allocator) Probe() (name string, offset uint64, length uint32) {
	return probeName(a.cfg.Prefix, a.instance), probeNonceOffset, probeNonceBytes
}

// CheckNonce reports whether nonce is what the probe file holds. It takes the
// same time for all nonces of the right length.
func (a *Allocator) CheckNonce(nonce []byte) bool {
	return subtle.ConstantTimeCompare(nonce, a.nonce) == 1
}

// SessionAlive reports whether a process holds the lock of a session, and so may
// have regions mapped: the node itself, running or stopped, or a fork of it. A
// session whose node never took the lock is not alive.
func (a *Allocator) SessionAlive(session wire.SessionID) (bool, error) {
	offset, err := shmpool.SessionLockOffset(session)
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.probe == nil {
		return false, os.ErrClosed
	}
	alive, err := sessionIn(a.probe, offset, 1)
	if err != nil {
		return false, fmt.Errorf("session %d: %w", uint64(session), err)
	}
	return alive, nil
}

// Close ends the instance and removes its probe file. All regions must be closed
// before, else it does nothing and returns an error that wraps ErrRegionsOpen.
// Calling it again does nothing.
func (a *Allocator) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.probe == nil {
		return nil
	}
	if a.regions > 0 {
		return fmt.Errorf("alloc: close of instance %s: %w: %d", a.instance, ErrRegionsOpen, a.regions)
	}
	// The name goes before the lock, so that no sweeper has to deal with it.
	err := errors.Join(a.probe.unlink(), a.probe.close())
	a.probe = nil
	return err
}

// enter counts a region, so that Close cannot overtake its creation.
func (a *Allocator) enter() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.probe == nil {
		return os.ErrClosed
	}
	a.regions++
	return nil
}

func (a *Allocator) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.regions--
}
