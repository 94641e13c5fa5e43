package node

import (
	"context"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// TestTwoWaitForMemoryOnLane: two slots come back at once, and the first who looks
// finds both; the other one must hear of his.
func TestTwoWaitForMemoryOnLane(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(2*smallSlots, wire.PolicyBlock, 3)
	var held []Message
	for range smallSlots {
		w.send("x")
		held = append(held, w.next())
	}
	w.kill() // with a broker, its denials would have them look again and again
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	loans := make(chan Loan, 2)
	for range cap(loans) {
		go func() {
			l, err := w.out.Loan(ctx, 100)
			if err != nil {
				t.Error(err)
			}
			loans <- l
		}()
	}
	eventually(t, "both sleep", func() bool { return w.sender.sleeper.waiting.Load() == 2 })
	m := w.sender.currentEstate().memory
	m.mu.Lock()
	held[0].Release()
	held[1].Release()
	m.mu.Unlock()
	for range cap(loans) {
		select {
		case l := <-loans:
			defer l.Discard()
		case <-time.After(2 * lazySleeps * sleepMax):
			t.Fatalf("somebody waits with %d of %d slots in use", w.used(), smallSlots)
		}
	}
	for _, m := range held[2:] {
		m.Release()
	}
}
