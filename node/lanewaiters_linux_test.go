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

// Only with a broker that tells of dead peers does a node to which nothing happens
// sleep for long, and it has its lanes tended again by the first message.
func TestRestful(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(4, wire.PolicyDropOldest, 3)
	s := w.receiver.sleeper
	if got, want := s.napMax(), restfulSleeps*s.max; got != want {
		t.Errorf("connected, a sleep is bounded by %v, not %v", got, want)
	}
	m := w.sender.currentEstate().memory
	resting := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.resting
	}
	session := w.sender.current()
	for range 2 { // at the first look something was sent since the one before
		session.tendLanes(time.Now())
	}
	if !resting() {
		t.Error("with nothing lent the lanes are tended")
	}
	w.send("a")
	if resting() {
		t.Error("a message is lent, and nobody tends the lanes")
	}
	w.kill()
	eventually(t, "sleeps are short without a broker", func() bool { return s.napMax() == lazySleeps*s.max })
}

// Receivers are rung before the sender has noted what it has lent. One who waits for
// memory may have looked in between, and nobody rings for that slot again.
func TestSlotIsBackBeforeItIsNoted(t *testing.T) {
	w := newLaneWorld(t)
	w.lane(4, wire.PolicyDropOldest, 3)
	w.send("a")
	w.next().Release()
	m := w.sender.currentEstate().memory
	eventually(t, "the slot is back", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.lent.first == nil || m.poll(pollAll) > 0
	})
	l, ok := m.takeFree(1)
	if !ok {
		t.Fatal("no slot is free")
	}
	ledger := l.entry.region.ledger
	ledger.Lend(l.entry.slot.Index, 1<<3)
	ledger.Clear(l.entry.slot.Index, 3) // by a receiver that was quick
	m.mu.Lock()
	m.waiting++ // somebody who has looked, and sleeps
	wait := &memoryWait{m: m, seen: m.changes}
	m.mu.Unlock()
	m.sent(l, 1<<3, false, &outgoing{lease: l, now: time.Now(), seq: 2})
	m.mu.Lock()
	m.waiting--
	if m.changes == wait.seen || m.lent.first != nil {
		t.Error("he is not told of the slot")
	}
	m.mu.Unlock()
	m.published()
}
