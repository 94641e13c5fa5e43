package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
)

// testBell is a bell in memory of this process: a futex does not mind.
func testBell(t testing.TB) *lane.Bell {
	t.Helper()
	if !lane.Supported() {
		t.Skip("no futex here")
	}
	return lane.NewBell(make([]uint64, lane.BellSlotBytes/8))
}

// sureSleeper is a sleeper whose sleeps do not end by themselves: a wake-up that
// is lost is lost for good.
func sureSleeper(t testing.TB, bell *lane.Bell) *sleeper {
	t.Helper()
	s := newSleeper(0)
	s.max = time.Hour
	s.setBell(bell)
	t.Cleanup(func() {
		s.close()
		if s.leader != nil || s.dozing != nil || len(s.waiters) != 0 || s.waiting.Load() != 0 {
			t.Errorf("somebody still waits: %+v", s)
		}
	})
	return s
}

// flag is a condition that is one word, as it may be in shared memory.
type flag struct{ set atomic.Bool }

func (f *flag) ready() bool { return f.set.Load() }

// stream is a condition that another process changes: sent is ahead of taken.
// Looking takes its time, now and then, so that changes come in the middle.
type stream struct {
	sent  atomic.Uint64
	taken uint64 // the waiter's own
	slow  bool
}

func (c *stream) ready() bool {
	dawdle(c.slow)
	there := c.sent.Load() > c.taken
	dawdle(c.slow)
	return there
}

// dawdle spends a random time, often none.
func dawdle(slow bool) {
	if !slow {
		return
	}
	switch n := rand.IntN(64); {
	case n < 4:
		runtime.Gosched()
	case n < 6:
		for range rand.IntN(2000) {
			_ = n
		}
	case n == 6:
		time.Sleep(time.Duration(rand.IntN(50)) * time.Microsecond)
	}
}

const wakesWithin = 30 * time.Second

// soon fails the test, with the state of the sleeper, if done is not closed in
// time.
func soon(t *testing.T, s *sleeper, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(wakesWithin):
		s.mu.Lock()
		waiting, leads, dozes := len(s.waiters), s.leader != nil, s.dozing != nil
		s.mu.Unlock()
		t.Fatalf("%s: a wake-up is lost: %d wait, leader %v, in the kernel %v", what, waiting, leads, dozes)
	}
}

// asleep waits until the leader is in the kernel, or about to be, and so many
// wait.
func asleep(t *testing.T, s *sleeper, waiting int) {
	t.Helper()
	for deadline := time.Now().Add(wakesWithin); time.Now().Before(deadline); runtime.Gosched() {
		s.mu.Lock()
		ok := len(s.waiters) == waiting && (s.bell == nil || s.dozing == s.bell)
		s.mu.Unlock()
		if ok {
			return
		}
	}
	t.Fatalf("not asleep")
}

// begin has a goroutine wait; its error comes on the channel.
func begin(s *sleeper, ctx context.Context, c condition) <-chan error {
	result := make(chan error, 1)
	go func() { result <- s.wait(ctx, c) }()
	return result
}

func ended(t *testing.T, s *sleeper, result <-chan error, want error) {
	t.Helper()
	select {
	case err := <-result:
		if !errors.Is(err, want) {
			t.Errorf("wait: %v, want %v", err, want)
		}
	case <-time.After(wakesWithin):
		t.Fatal("wait does not end")
	}
}

// What others do to shared memory, and then ring, wakes leader and followers, and
// nobody but those whose condition it is.
func TestSleeperRing(t *testing.T) {
	bell := testBell(t)
	s := sureSleeper(t, bell)
	var flags [4]flag
	var results []<-chan error
	for i := range flags {
		results = append(results, begin(s, t.Context(), &flags[i]))
		asleep(t, s, i+1)
	}
	for _, i := range []int{2, 0, 3, 1} {
		flags[i].set.Store(true)
		if !bell.Ring() {
			t.Error("nobody slept")
		}
		ended(t, s, results[i], nil)
		left := 0
		for j := range flags {
			if !flags[j].set.Load() {
				left++
			}
		}
		if left > 0 {
			asleep(t, s, left)
		}
	}
	if bell.Ring() {
		t.Error("the bell is armed, and nobody sleeps")
	}
}

// Contexts wake leader and followers; what is ready counts more.
func TestSleeperContext(t *testing.T) {
	for _, withBell := range []bool{true, false} {
		var bell *lane.Bell
		if withBell {
			bell = testBell(t)
		}
		s := sureSleeper(t, bell)
		first, endFirst := context.WithCancel(t.Context())
		second, endSecond := context.WithCancelCause(t.Context())
		var never flag
		leads := begin(s, first, &never)
		asleep(t, s, 1)
		follows := begin(s, second, &never)
		last := begin(s, t.Context(), &never)
		asleep(t, s, 3)
		endSecond(errors.New("enough"))
		ended(t, s, follows, context.Canceled)
		endFirst()
		ended(t, s, leads, context.Canceled)
		asleep(t, s, 1)
		never.set.Store(true)
		s.rouse()
		ended(t, s, last, nil)
		if err := s.wait(first, &never); err != nil {
			t.Errorf("ready, and over: %v", err)
		}
		never.set.Store(false)
		if err := s.wait(first, &never); !errors.Is(err, context.Canceled) {
			t.Errorf("over: %v", err)
		}
		deadline, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := s.wait(deadline, &never); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("late: %v", err)
		}
		cancel()
	}
}

// oddContext is a context that cannot be compared, with a channel that can.
type oddContext struct {
	context.Context
	more []int
}

func TestSleeperOddContext(t *testing.T) {
	s := sureSleeper(t, testBell(t))
	parent, cancel := context.WithCancel(t.Context())
	defer cancel()
	var f flag
	for range 3 {
		result := begin(s, oddContext{parent, []int{1}}, &f)
		asleep(t, s, 1)
		f.set.Store(true)
		s.rouse()
		ended(t, s, result, nil)
		f.set.Store(false)
	}
	result := begin(s, oddContext{parent, nil}, &f)
	asleep(t, s, 1)
	cancel()
	ended(t, s, result, context.Canceled)
}

// The bell comes, changes and goes while goroutines wait, and afterwards they
// still hear of everything.
func TestSleeperBellChanges(t *testing.T) {
	s := sureSleeper(t, nil)
	bells := []*lane.Bell{testBell(t), testBell(t), nil, testBell(t), nil, nil}
	var flags [3]flag
	var results []<-chan error
	for i := range flags {
		results = append(results, begin(s, t.Context(), &flags[i]))
	}
	asleep(t, s, len(flags))
	var old *lane.Bell
	for _, bell := range bells {
		s.setBell(bell)
		if old != nil && old != bell && old.Ring() {
			t.Error("the bell of before is armed")
		}
		asleep(t, s, len(flags))
		old = bell
	}
	s.setBell(bells[0])
	asleep(t, s, len(flags))
	flags[1].set.Store(true)
	bells[0].Ring()
	ended(t, s, results[1], nil)
	asleep(t, s, 2)
	s.close()
	asleep(t, s, 2)
	for _, i := range []int{0, 2} {
		flags[i].set.Store(true)
		s.rouse()
		ended(t, s, results[i], nil)
	}
}

// A peer that was killed between disarming the bell and waking somebody does not
// keep this process from being heard.
func TestSleeperHalfRung(t *testing.T) {
	words := make([]uint64, lane.BellSlotBytes/8)
	s := sureSleeper(t, lane.NewBell(words))
	disarm := func() {
		// asleep sees it a moment before it sleeps in the kernel; then the words
		// alone would keep it awake, which is not the case that is to be tested.
		time.Sleep(10 * time.Millisecond)
		atomic.StoreUint64(&words[0], 0)
	}
	var f flag
	ctx, cancel := context.WithCancel(t.Context())
	result := begin(s, ctx, &f)
	asleep(t, s, 1)
	disarm()
	f.set.Store(true)
	s.rouse()
	ended(t, s, result, nil)
	f.set.Store(false)
	result = begin(s, ctx, &f)
	asleep(t, s, 1)
	disarm()
	cancel()
	ended(t, s, result, context.Canceled)
	result = begin(s, t.Context(), &f)
	asleep(t, s, 1)
	disarm()
	s.setBell(nil)
	f.set.Store(true)
	s.rouse()
	ended(t, s, result, nil)
}

// A peer that was killed before it could ring costs a bounded time.
func TestSleeperBounded(t *testing.T) {
	s := newSleeper(0)
	defer s.close()
	s.setBell(testBell(t))
	var leads, follows flag
	first := begin(s, t.Context(), &leads)
	asleep(t, s, 1)
	second := begin(s, t.Context(), &follows)
	asleep(t, s, 2)
	follows.set.Store(true)
	ended(t, s, second, nil)
	leads.set.Store(true)
	ended(t, s, first, nil)
}

func TestSleeperSpin(t *testing.T) {
	s := newSleeper(time.Hour)
	defer s.close()
	var f flag
	ctx, cancel := context.WithCancel(t.Context())
	result := begin(s, ctx, &f)
	f.set.Store(true) // and nobody is told
	ended(t, s, result, nil)
	f.set.Store(false)
	result = begin(s, ctx, &f)
	cancel()
	ended(t, s, result, context.Canceled)
	s = newSleeper(time.Microsecond)
	defer s.close()
	result = begin(s, t.Context(), &f)
	asleep(t, s, 1)
	f.set.Store(true)
	s.rouse()
	ended(t, s, result, nil)
}

// Nothing is allocated for a wait, with a context that was used before, by
// goroutines that each have their own.
func TestSleeperAllocs(t *testing.T) {
	if shmpool.Invariants {
		t.Skip("the race detector allocates")
	}
	for _, withBell := range []bool{true, false} {
		var bell *lane.Bell
		if withBell {
			bell = testBell(t)
		}
		s := sureSleeper(t, bell)
		one, endOne := context.WithCancel(t.Context())
		two, endTwo := context.WithCancel(t.Context())
		// The answering side: everything that is sent is sent back.
		var there, back stream
		over := make(chan struct{})
		go func() {
			defer close(over)
			for {
				if s.wait(two, &there) != nil {
					return
				}
				there.taken++
				back.sent.Add(1)
				s.rouse()
			}
		}()
		allocs := testing.AllocsPerRun(2000, func() {
			there.sent.Add(1)
			if bell == nil {
				s.rouse()
			} else {
				bell.Ring()
			}
			if err := s.wait(one, &back); err != nil {
				t.Error(err)
			}
			back.taken++
		})
		endTwo()
		soon(t, s, "end", over)
		endOne()
		if allocs != 0 {
			t.Errorf("bell %v: %v allocations per wait", withBell, allocs)
		}
	}
}

// stress has goroutines wait, each for a stream of its own, while others change
// the streams as another process does: a change, then a ring. A change comes only
// when the one before was seen, so one lost wake-up ends its stream for good.
// Contexts end all the time. With idle, the first waits for nothing, so that the
// others depend on it. With change, the bell changes too.
func stress(t *testing.T, streams, changes int, idle, change bool) {
	s := sureSleeper(t, nil)
	bells := []*lane.Bell{testBell(t), testBell(t), nil}
	var rung atomic.Pointer[lane.Bell] // what others know as the bell
	s.setBell(bells[0])
	rung.Store(bells[0])
	var all sync.WaitGroup
	if idle {
		ctx, cancel := context.WithCancel(t.Context())
		result := begin(s, ctx, &flag{})
		asleep(t, s, 1)
		defer func() {
			cancel()
			ended(t, s, result, context.Canceled)
		}()
	}
	for range streams {
		c := &stream{slow: true}
		seen := make(chan struct{}, 1)
		all.Go(func() { consume(s, c, uint64(changes), seen) })
		all.Go(func() {
			for range changes {
				dawdle(true)
				c.sent.Add(1)
				dawdle(true)
				if bell := rung.Load(); bell == nil || rand.IntN(3) == 0 { // it comes through the connection
					s.rouse()
				} else {
					bell.Ring()
				}
				<-seen
			}
		})
	}
	var over atomic.Bool
	var changing sync.WaitGroup
	if change {
		changing.Go(func() {
			for !over.Load() {
				bell := bells[rand.IntN(len(bells))]
				s.setBell(bell)
				rung.Store(bell)
				s.rouse() // for changes since then that rang the one before
				dawdle(true)
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	soon(t, s, "stress", done)
	over.Store(true)
	changing.Wait()
}

// consume waits for so many changes, under contexts that end now and then.
func consume(s *sleeper, c *stream, changes uint64, seen chan<- struct{}) {
	var ends sync.WaitGroup
	defer ends.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer func() { cancel() }()
	for c.taken < changes {
		if s.wait(ctx, c) == nil && c.ready() {
			c.taken++
			seen <- struct{}{}
		}
		if ctx.Err() != nil {
			ctx, cancel = context.WithCancel(context.Background())
		}
		if end := cancel; rand.IntN(8) == 0 {
			ends.Go(func() { dawdle(true); end() })
		}
	}
}

func TestSleeperStress(t *testing.T) {
	changes := 6000
	if shmpool.Invariants || testing.Short() {
		changes = 2000
	}
	for _, streams := range []int{1, 2, 3, 7} {
		stress(t, streams, changes/streams, false, false)
		stress(t, streams, changes/streams, true, false)
		stress(t, streams, changes/streams, true, true)
	}
}
