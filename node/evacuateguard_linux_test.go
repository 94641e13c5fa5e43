package node

import (
	"bytes"
	"testing"

	"github.com/brokerd/brokerd/node/internal/protect"
	"github.com/brokerd/brokerd/wire"
)

// In protect mode a message is evacuated without a move, because its user has a copy.
// One that could not be copied he reads where it lies, and that has to be moved.
func TestEvacuateUnprotected(t *testing.T) {
	w, _ := newEvacuatingLane(t, 16, wire.PolicyDropOldest, 40, 1<<30)
	vault, err := protect.Open(func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.out.Send(testContext(t), pattern(5000, 1)); err != nil {
		t.Fatal(err)
	}
	m := w.next()
	r := &w.receiver.receiver
	r.mu.Lock()
	m.state.rec.guard = &guard{vault: vault} // what is left when there was no memory for a copy
	r.mu.Unlock()
	eventually(t, "it is evacuated", func() bool { return w.receiver.Stats().Evacuated == 1 && w.used() == 0 })
	for i := range 8 { // its slot is used again
		if err := w.out.Send(testContext(t), pattern(5000, byte(100+i))); err != nil {
			t.Fatal(err)
		}
		defer w.next().Release()
	}
	if !bytes.Equal(m.Payload(), pattern(5000, 1)) {
		t.Error("the payload has changed under the eyes of its reader")
	}
	m.Release()
}
