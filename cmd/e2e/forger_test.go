//go:build linux

package e2e

import (
	"testing"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// forger is a node without any library, which says what it likes. It has all that
// a node has: the memory, its lock, and the names that the broker told it.
type forger struct {
	*peer
	probe   *shmpool.Probe
	nonce   []byte
	session wire.SessionID
	ready   wire.Ready
	flow    wire.Flow // the last
	opened  []wire.RegionOpen
	granted wire.RegionGrant
	denied  wire.RegionDenied
	grants  []wire.LaneGrant
	items   []wire.Input
	nonces  uint64
}

// forgerKind says how far a forger goes before it begins.
type forgerKind int

const (
	stranger forgerKind = iota // connected
	greeted                    // Hello is said
	afar                       // joined, without shared memory
	nearby                     // joined, with it
	able                       // and with lanes
	adopting                   // and it is about to bring what another broker gave it
	operator                   // a control connection
)

func (w *world) forger(t *testing.T, kind forgerKind) *forger {
	t.Helper()
	return w.forgerAs(t, "guest", kind)
}

func (w *world) forgerAs(t *testing.T, node string, kind forgerKind) *forger {
	t.Helper()
	f := &forger{peer: w.peer()}
	f.t = t
	switch kind {
	case stranger:
		return f
	case operator:
		if e := f.control(); e != nil {
			t.Fatal(e)
		}
		return f
	}
	h := hello(node)
	if kind >= able {
		h.Features = ^wire.Features(0)
	}
	f.send(h)
	welcome, ok := f.must().(*wire.Welcome)
	if !ok {
		t.Fatal("no welcome")
	}
	f.session = welcome.Session
	var err error
	if f.probe, f.nonce, err = shmpool.OpenProbe(welcome.ProbeName, welcome.ProbeOffset, welcome.ProbeLength); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.leave)
	if kind == greeted {
		return f
	}
	attach := &wire.Attach{Adopting: kind == adopting}
	if kind >= nearby {
		attach.Nonce = f.nonce
		if err := f.probe.Lock(f.session); err != nil {
			t.Fatal(err)
		}
	}
	f.send(attach)
	f.until(func(m wire.Message) bool { return m.Kind() == wire.KindPorts })
	if f.ready.Local != (kind >= nearby) {
		t.Fatalf("local is %v: %s", f.ready.Local, f.ready.Reason)
	}
	if kind != adopting && node == "guest" {
		f.until(func(m wire.Message) bool { return m.Kind() == wire.KindFlow })
	}
	return f
}

// listener joins as the receiver of what forgers publish. It takes everything, and
// does not look at it.
func (w *world) listener(t *testing.T) {
	t.Helper()
	f := w.forgerAs(t, "listener", nearby)
	f.send(&wire.Next{Limit: 1 << 40})
	go func() {
		next := &wire.Next{Limit: 1 << 40}
		for {
			m, err := f.next()
			if err != nil {
				return
			}
			if inputs, ok := m.(*wire.Inputs); ok {
				next.Done = next.Done[:0]
				for _, item := range inputs.Items {
					next.Consumed++
					if item.Token != 0 {
						next.Done = append(next.Done, item.Token)
					}
				}
				if _, err := f.conn.Write(f.enc.Append(nil, next)); err != nil {
					return
				}
			}
		}
	}()
}

// leave is the end of its process.
func (f *forger) leave() {
	f.close()
	if f.probe != nil {
		_ = f.probe.Close()
	}
}

// must reads the next message, and remembers what a forger can use.
func (f *forger) must() wire.Message {
	f.t.Helper()
	m, err := f.next()
	if err != nil {
		f.t.Fatal(err)
	}
	switch m := m.(type) {
	case *wire.Error:
		f.t.Fatal(m)
	case *wire.Ready:
		f.ready = *m
	case *wire.Flow:
		f.flow = *m
	case *wire.RegionOpen:
		f.opened = append(f.opened, *m)
	case *wire.RegionGrant:
		f.granted = *m
	case *wire.RegionDenied:
		f.denied = *m
	case *wire.LaneGrant:
		f.grants = append(f.grants, *m)
	case *wire.Inputs:
		f.items = append(f.items, m.Items...)
	}
	return m
}

func (f *forger) until(done func(wire.Message) bool) {
	f.t.Helper()
	for !done(f.must()) {
	}
}

// unharmed asks for a sign of life: what was said before has been taken.
func (f *forger) unharmed() {
	f.t.Helper()
	f.nonces++
	f.send(&wire.Ping{Nonce: f.nonces})
	f.until(func(m wire.Message) bool {
		pong, ok := m.(*wire.Pong)
		return ok && pong.Nonce == f.nonces
	})
}

// region gets it a region of its own.
func (f *forger) region(slots uint32) wire.RegionGrant {
	f.t.Helper()
	f.send(&wire.RegionRequest{Request: 77, SlotBytes: 4096, Slots: slots})
	f.until(func(m wire.Message) bool { return f.granted.Region != 0 })
	return f.granted
}

// other waits for a region of somebody else's, whose name it is told as a receiver.
func (f *forger) other() wire.RegionOpen {
	f.t.Helper()
	for len(f.opened) == 0 {
		f.must()
	}
	return f.opened[0]
}

// slot is the offset of a slot.
func slot(r wire.RegionGrant, k uint64) uint64 { return shmpool.HeaderBytes + k*r.SlotBytes }
