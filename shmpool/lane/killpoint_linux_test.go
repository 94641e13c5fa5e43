//go:build killpoints

package lane

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// Real processes that kill themselves before the n-th store to shared memory, for
// every n: whoever is left, and the router, account for every message and every
// slot. Run with -tags killpoints.

// killedAt bounds the search for the last store of a run.
const killedAtMax = 2000

// killed waits for a child and reports whether it killed itself.
func killed(t *testing.T, c *process) (numbers []uint64, dead bool) {
	t.Helper()
	numbers, err := c.wait(t)
	if err == nil {
		return numbers, false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatal(err)
	}
	return numbers, true
}

// everyStore runs f for every store of that kind of a run, until one is survived.
func everyStore(t *testing.T, kind string, f func(t *testing.T, env string) (survived bool)) {
	for n := 1; n < killedAtMax; n++ {
		if f(t, fmt.Sprintf("%s=%d,%s", KillAtEnv, n, kind)) {
			t.Logf("%d stores", n-1)
			if n < 10 {
				t.Errorf("only %d stores: they are not counted", n-1)
			}
			return
		}
		if t.Failed() {
			t.Fatalf("killed before store %d", n)
		}
	}
	t.Fatal("it never survives")
}

func TestKilledProducer(t *testing.T) {
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest, wire.PolicyBlock} {
		for _, late := range []bool{false, true} {
			if late && policy == wire.PolicyBlock {
				continue // it would wait
			}
			t.Run(fmt.Sprintf("%v/late=%v", policy, late), func(t *testing.T) {
				everyStore(t, "any", func(t *testing.T, env string) bool { return killProducer(t, policy, late, env) })
			})
		}
	}
}

// killProducer: the child sends, and dies; the consumer is at work meanwhile, or
// comes late. The router closes the lane, and the consumer finds its end.
func killProducer(t *testing.T, policy wire.Policy, late bool, env string) (survived bool) {
	sh := create(t, setup{role: "producer", limit: 2, policy: policy, slots: 5, messages: 5})
	keeper := NewKeeper(sh.lane.Words(), sh.config(), nil)
	r, err := newReceiveSide(sh)
	if err != nil {
		t.Fatal(err)
	}
	c := child(t, sh.setup, env)
	drained := make(chan error, 1)
	if !late {
		go func() { drained <- r.drain() }()
	}
	_, dead := killed(t, c)
	if err := keeper.Close(); err != nil {
		t.Fatal(err)
	}
	r.bell.Wake() // the router tells it over TCP
	if late {
		drained <- r.drain()
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	counters, err := keeper.Counters()
	if err != nil || counters.Taken != r.got || counters.Queued != 0 || counters.Pushed != counters.Taken+counters.Evicted {
		t.Errorf("%+v, %v, got %d", counters, err, r.got)
	}
	if counters.Pushed+counters.Refused > 5 {
		t.Errorf("%+v", counters)
	}
	lost := counters.Evicted + counters.Refused
	if d, _ := keeper.Remainder(); d.Count != lost || r.dropped != lost {
		t.Errorf("%+v, %d told to the consumer, lost %d", d, r.dropped, lost)
	}
	// All that is still lent is what the consumer was never given: the producer's
	// regions go with it. Of a living producer nothing is.
	if !dead {
		checkFree(t, sh)
	}
	return !dead
}

func TestKilledConsumer(t *testing.T) {
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest, wire.PolicyBlock} {
		t.Run(policy.String(), func(t *testing.T) {
			everyStore(t, "any", func(t *testing.T, env string) bool { return killConsumer(t, policy, env) })
		})
	}
}

// killConsumer: the child receives, and dies; the router cuts the lane, and the
// producer gets every slot back.
func killConsumer(t *testing.T, policy wire.Policy, env string) (survived bool) {
	sh := create(t, setup{role: "consumer", limit: 2, policy: policy, slots: 5})
	keeper := NewKeeper(sh.lane.Words(), sh.config(), nil)
	p, err := newSendSide(sh)
	if err != nil {
		t.Fatal(err)
	}
	c := child(t, sh.setup, env)
	var withdrawn Withdrawn
	var got []uint64
	var dead bool
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		if got, dead = killed(t, c); dead {
			if withdrawn, err = keeper.Cut(); err != nil {
				t.Error(err)
			}
		}
		p.bell.Wake() // the router tells it over TCP
	}()
	pushed := uint64(0)
	v := Pushed
	for seq := uint64(1); seq <= 8 && v != Closed; seq++ {
		if seq <= 4 { // one at a time, then more than fit
			waitTaken(t, keeper, settled)
		}
		if v, err = p.send(seq); err != nil {
			t.Fatal(err)
		}
		if v == Pushed {
			pushed++
		}
	}
	p.producer.CloseByOwner()
	p.peer.Ring()
	<-settled
	p.producer.Since(withdrawn.From, func(cookie uint64) {
		if withdrawn.Count > 0 {
			sh.ledger.Clear(uint32(cookie), peerBit)
		}
	})
	held := 0
	for i := range sh.slots {
		if sh.ledger.Held(i, 1<<peerBit) {
			held++
		}
		if dead {
			sh.ledger.Clear(i, peerBit) // nobody is there who could hold anything
		}
	}
	// It holds one message at most, and had told of it before it freed the slot.
	if held > 1 || !dead && held > 0 {
		t.Errorf("%d slots are held", held)
	}
	counters, err := keeper.Counters()
	if err != nil || counters.Queued != 0 || counters.Pushed != pushed ||
		counters.Evicted != p.evictions+uint64(withdrawn.Count) || counters.Refused != p.refused {
		t.Errorf("%+v, %v; %d pushed, %d evicted, %d refused, %+v", counters, err, pushed, p.evictions, p.refused, withdrawn)
	}
	// A message that was claimed, and died with the process before it could tell.
	if silent := counters.Taken - uint64(len(got)); silent > 1 || !dead && silent != 0 {
		t.Errorf("%d taken, %d got", counters.Taken, len(got))
	}
	if d, _ := keeper.Remainder(); d.Count != p.evictions+p.refused {
		t.Errorf("%+v; %d evicted, %d refused", d, p.evictions, p.refused)
	}
	checkFree(t, sh)
	return !dead
}

// waitTaken waits until the queue is empty, or there is nobody left to empty it.
func waitTaken(t *testing.T, keeper *Keeper, settled chan struct{}) {
	for {
		c, err := keeper.Counters()
		if err != nil {
			t.Fatal(err)
		}
		if c.Queued == 0 {
			return
		}
		select {
		case <-settled:
			return
		default:
			runtime.Gosched()
		}
	}
}

func TestKilledRouter(t *testing.T) {
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest} {
		t.Run(policy.String(), func(t *testing.T) {
			everyStore(t, "keep", func(t *testing.T, env string) bool { return killRouter(t, policy, env) })
		})
	}
}

// killRouter: the child is router and sender, and dies while it looks for drops or
// notes that they are logged. So does the router after it, before it has told
// anything. The log of the first and of the third one have every drop with its
// number; those that the first was about to note may be in both.
func killRouter(t *testing.T, policy wire.Policy, env string) (survived bool) {
	sh := create(t, setup{role: "router", limit: 2, policy: policy, slots: 1, messages: 40})
	log, dead := killed(t, child(t, sh.setup, env))
	second := NewKeeper(sh.lane.Words(), sh.config(), nil)
	if _, ok, err := second.Drops(); ok || err != nil {
		t.Error("told at the first look", err)
	}
	keeper := NewKeeper(sh.lane.Words(), sh.config(), nil)
	counters, err := keeper.Counters()
	if err != nil {
		t.Fatal(err)
	}
	last := wire.Seq(counters.Evicted + counters.Refused)
	next := wire.Seq(1)
	if policy == wire.PolicyDropNewest {
		next, last = 3, last+2
	}
	for i := 0; i+2 < len(log); i += 3 {
		if d := (Drops{Count: log[i], SeqFirst: wire.Seq(log[i+1]), SeqLast: wire.Seq(log[i+2])}); d.SeqFirst != next || uint64(d.SeqLast-d.SeqFirst)+1 != d.Count {
			t.Errorf("the log has %+v, where it should go on with %d", d, next)
		}
		next = wire.Seq(log[i+2]) + 1
	}
	d, ok := keeper.Remainder()
	twice := uint64(0) // in the log, and not noted
	if n := uint64(last + 1 - next); d.Count > n {
		twice = d.Count - n
	}
	if uint64(last+1-next)+twice != d.Count || twice > 12 || !dead && twice > 0 {
		t.Errorf("%+v is left, where %d to %d are not in the log", d, next, last)
	}
	if ok && (d.SeqLast != last || uint64(d.SeqFirst)+twice > uint64(next) || uint64(d.SeqFirst)+12 < uint64(next)) {
		t.Errorf("%+v, want %d to %d, and up to 12 before", d, next, last)
	}
	return !dead
}
