package actors

import (
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/brokerd/brokerd/wire"
)

// TestJournalTellsOfLines: a drop is confirmed when the log has its line, and not
// before, and never if the journal has not taken it.
func TestJournalTellsOfLines(t *testing.T) {
	observed, logs := observer.New(zapcore.DebugLevel)
	writing, write := make(chan struct{}, journalCapacity+8), make(chan struct{})
	slow := zapcore.RegisterHooks(observed, func(zapcore.Entry) error {
		writing <- struct{}{}
		<-write
		return nil
	})
	j := NewJournal(zap.New(slow))
	confirmed := make(chan uint64, journalCapacity+8)
	drop := func(n uint64) bool {
		return j.drop(wire.DropRecord{Count: n}, func() { confirmed <- n })
	}
	if !drop(1) {
		t.Fatal("the first one is not taken")
	}
	<-writing
	if len(confirmed) != 0 {
		t.Fatal("confirmed while it was being written")
	}
	taken := uint64(1)
	for drop(taken + 1) {
		taken++
	}
	if taken < journalCapacity {
		t.Fatalf("full after %d", taken)
	}
	j.patience = closedTime
	if j.dropAtLast(wire.DropRecord{Count: 9999}, func() { confirmed <- 9999 }) {
		t.Fatal("a full journal takes one more")
	}
	close(write)
	j.Close(time.Minute)
	if len(confirmed) != int(taken) || logs.FilterMessage("message dropped").Len() != int(taken) {
		t.Fatalf("%d taken, %d confirmed, %d lines", taken, len(confirmed), logs.Len())
	}
	for n := uint64(1); n <= taken; n++ {
		if got := <-confirmed; got != n {
			t.Fatalf("confirmed %d, want %d", got, n)
		}
	}
}
