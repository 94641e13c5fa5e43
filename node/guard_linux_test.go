package node

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// faults reports whether f touches memory that it may not.
func faults(t *testing.T, f func()) (fault bool) {
	t.Helper()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(runtime.Error); !ok {
				panic(p)
			}
			fault = true
		}
	}()
	f()
	return false
}

// newProtectedWorld is a lane world whose nodes run in protect mode.
func newProtectedWorld(t *testing.T) *laneWorld {
	t.Helper()
	w := newLaneWorld(t)
	for _, n := range []*Node{w.sender, w.receiver} {
		if err := n.openVault(); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func TestProtectedMessage(t *testing.T) {
	w := newProtectedWorld(t)
	w.lane(4, wire.PolicyDropOldest, 0)
	w.send("payload", String("key", "value"))
	w.send("")
	m := w.next()
	payload, metadata := m.Payload(), m.Metadata()
	if v, ok := metadata.Lookup("key"); !ok || v.Text() != "value" || string(payload) != "payload" || cap(payload) != 7 {
		t.Errorf("%q of capacity %d, %v", payload, cap(payload), metadata)
	}
	if !faults(t, func() { payload[0] = 'P' }) || !faults(t, func() { metadata[0] = 0 }) {
		t.Error("a message can be written to")
	}
	w.wantUsed(2) // it holds what it would hold without
	m.Release()
	m.Release()
	if !faults(t, func() { _ = string(payload) }) || !faults(t, func() { metadata.Lookup("key") }) {
		t.Error("a message can be read after Release")
	}
	w.wantNext(2, "", 0)
	w.wantUsed(0)
}

func TestProtectedLoan(t *testing.T) {
	w := newProtectedWorld(t)
	w.lane(4, wire.PolicyDropOldest, 0)
	ctx := testContext(t)
	loan, err := w.out.Loan(ctx, 8)
	if err != nil {
		t.Fatal(err)
	}
	bytes := loan.Bytes()
	copy(bytes, "too early")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := loan.Publish(ended, String("key", strings.Repeat("x", 17_000))); err == nil || errors.Is(err, ErrLoanSpent) {
		t.Errorf("metadata that are too long: %v", err)
	}
	copy(bytes, "message!")
	loan.Truncate(7)
	if got := string(loan.Bytes()); got != "message" {
		t.Errorf("the loan has %q", got)
	}
	if err := loan.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	if !faults(t, func() { bytes[0] = 'x' }) {
		t.Error("a loan can be written to after Publish")
	}
	w.wantNext(1, "message", 0)

	if loan, err = w.out.Loan(ctx, 8); err != nil {
		t.Fatal(err)
	}
	bytes = loan.Bytes()
	loan.Discard()
	loan.Discard()
	if !faults(t, func() { bytes[0] = 'x' }) {
		t.Error("a loan can be written to after Discard")
	}
	if loan, err = w.out.Loan(ctx, 0); err != nil || len(loan.Bytes()) != 0 {
		t.Fatal(err)
	}
	if err := loan.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	w.wantNext(2, "", 0)
	w.wantUsed(0)
}

// What lies inline and was lost without Release is protected, too.
func TestProtectedMessageIsLost(t *testing.T) {
	w := newProtectedWorld(t)
	w.lane(4, wire.PolicyDropOldest, 0)
	w.send("payload")
	payload := func() []byte { return w.next().Payload() }()
	eventually(t, "the garbage collector finds it", func() bool {
		runtime.GC()
		return w.receiver.Stats().Forgotten == 1
	})
	deadline := time.Now().Add(10 * time.Second)
	for !faults(t, func() { _ = string(payload) }) {
		if time.Now().After(deadline) {
			t.Fatal("a message that was lost can be read")
		}
		time.Sleep(time.Millisecond)
	}
	w.wantUsed(0)
}
