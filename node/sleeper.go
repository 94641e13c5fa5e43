package node

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/shmpool/lane"
)

// sleepMax bounds one sleep on the bell, lazySleeps times that the sleeps of a
// node to which nothing happens. It is for peers that were killed after they had
// changed shared memory and before they could ring. A broker that knows the lanes
// tells of their death: while one is there, the bound is restfulSleeps times. It
// cannot tell of a peer that was stopped in that very moment (SIGSTOP, a debugger),
// and since that one has disarmed the bell nobody else rings it: hence seconds.
const (
	sleepMax      = 500 * time.Millisecond
	lazySleeps    = 8
	restfulSleeps = 16
)

// sleepersMax is how many unused sleepings are kept, with the contexts that they
// were used with.
const sleepersMax = 4

// condition is what a goroutine waits for.
type condition interface {
	// ready reports whether there is something to do, and is cheap. It looks at
	// everything for which the goroutine would act: nobody tells it what has
	// changed. It is called by the goroutine that waits, without any lock of the
	// sleeper's, and takes its own.
	ready() bool
}

// sleeper is the one place where goroutines of a node wait for what others bring:
// other processes, which change shared memory and ring the node's bell, or this
// process's connection, which calls rouse.
//
// Without a bell (no lanes, or another platform) all wait on channels. With one,
// the first that comes leads: it sleeps on the bell, in the kernel. The others
// follow: they wait on channels, and the leader wakes them. When the leader has
// what it waits for, it makes one of the followers the leader. So a node has at
// most one blocked thread, however many lanes and goroutines it has.
//
// # No wake-up is lost
//
// Who waits announces itself (enter), looks at its condition, and only then
// sleeps. That is enough for changes of this process: whoever makes one does so
// under a lock that the condition takes too, or atomically, and calls rouse after
// it. If rouse sees nobody announced, then the announcement comes after the
// change, and so does the look. If it sees somebody, it leaves a token in that
// one's channel and rings the bell, and neither can be missed: a token stays, and
// a bell that was rung does not let the leader fall asleep.
//
// Another process rings only while the bell is armed, and one ring disarms it.
// So every change that finds the bell disarmed must be seen by a look that comes
// after the next Arm; for every waiter, not for the leader alone. This holds
// because one of these is true of every announced waiter that is not awake, at
// any time:
//
//   - it has looked since the last Arm, and the bell is still armed: the next
//     change rings it;
//   - there is a token in its channel: it will look;
//   - the bell was rung (or the time is over), and the leader has not armed it
//     again: the leader is awake, or about to be, and will do so, or resign. A peer
//     that was killed in the middle of ringing is the exception: what the broker
//     says about that, or at last the end of the sleep, wakes the leader (ring);
//   - the leader has resigned: a follower was promoted, has a token, and will arm
//     the bell.
//
// For after each Arm the leader leaves a token with each follower (arm), with the
// same mutex held under which followers announce themselves; one that comes later
// looks after that Arm anyway. And a goroutine that stops waiting, for whatever
// reason, promotes another one if it led, in the same step in which it leaves
// (leave).
//
// When the bell is replaced, whoever leads is woken from the old one first, then
// arms the new one like after any ring; see setBell.
type sleeper struct {
	spin time.Duration // before sleeping
	max  time.Duration // of one sleep

	waiting atomic.Int64 // len(waiters), for rouse
	restful atomic.Bool  // a broker is there that tells of deaths; who clears it rouses

	mu      sync.Mutex // guards what follows
	bell    *lane.Bell // nil: everybody waits on channels
	waiters []*sleeping
	leader  *sleeping   // one of waiters; nil without a bell
	dozing  *lane.Bell  // what the leader sleeps on
	awake   *sync.Cond  // dozing has become nil
	unused  []*sleeping // the one that was used last comes last
	closed  bool
}

// sleeping is one goroutine that waits. It is used again, also because of the
// context: registering with one allocates, and most are used again too.
type sleeping struct {
	s     *sleeper
	woken chan struct{} // capacity 1: a token that nobody waits for is kept

	// Owned by the goroutine; by the sleeper's mutex while unused. done is the
	// channel of the context that rings the bell when it ends: contexts need not
	// be comparable, their channels are.
	done   <-chan struct{}
	ignore func() bool // unregisters
}

// newSleeper makes a sleeper without a bell. Before a goroutine sleeps, it looks
// again and again for the time of spin: this saves the wake-up, and costs a core.
func newSleeper(spin time.Duration) *sleeper {
	s := &sleeper{spin: spin, max: sleepMax}
	s.awake = sync.NewCond(&s.mu)
	return s
}

// wait returns nil when c is ready, or when the caller should look for itself,
// and the context's error if that has ended and c is not ready. It allocates
// nothing if it was called with this context before; a new one costs a
// registration. Any number of goroutines may wait.
func (s *sleeper) wait(ctx context.Context, c condition) error {
	if s.spin > 0 && s.spun(ctx, c) {
		return nil
	}
	w := s.enter(ctx.Done())
	nap := s.max
	for {
		bell := s.arm(w)
		if bell != nil {
			w.watch(ctx)
		}
		if c.ready() {
			s.leave(w)
			return nil
		}
		if err := ctx.Err(); err != nil {
			s.leave(w)
			return err
		}
		if bell != nil {
			if !s.doze(w, bell, nap) {
				nap = min(2*nap, s.napMax())
				continue
			}
			nap = s.max
			// Most often this is what it waits for, and to arm the bell again would only
			// delay it. If it is not, there is another look after that.
			if c.ready() {
				s.leave(w)
				return nil
			}
			continue
		}
		select {
		case <-w.woken:
		case <-ctx.Done():
		}
	}
}

// napMax bounds the sleeps of a node to which nothing happens.
func (s *sleeper) napMax() time.Duration {
	if s.restful.Load() {
		return restfulSleeps * s.max
	}
	return lazySleeps * s.max
}

// spun looks at c for a while, and reports whether it is ready.
func (s *sleeper) spun(ctx context.Context, c condition) bool {
	begun := time.Now()
	for ctx.Err() == nil {
		for range 16 {
			if c.ready() {
				return true
			}
		}
		if time.Since(begun) >= s.spin {
			break
		}
		runtime.Gosched()
	}
	return false
}

// enter announces the caller. done is its context's.
func (s *sleeper) enter(done <-chan struct{}) *sleeping {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.idle(done)
	s.waiters = append(s.waiters, w)
	s.waiting.Add(1)
	return w
}

// idle finds an unused sleeping: one that knows the context, or a new one, or the
// one that was not used for the longest time. mu is held.
func (s *sleeper) idle(done <-chan struct{}) *sleeping {
	i := slices.IndexFunc(s.unused, func(w *sleeping) bool { return w.done == done })
	switch {
	case i >= 0:
	case len(s.unused)+len(s.waiters) < sleepersMax || len(s.unused) == 0:
		return &sleeping{s: s, woken: make(chan struct{}, 1)}
	default:
		i = 0
	}
	w := s.unused[i]
	s.unused = slices.Delete(s.unused, i, i+1)
	return w
}

// arm makes w the leader if there is none. For the leader it arms the bell, has
// the others look, and returns the bell; for others it returns nil.
func (s *sleeper) arm(w *sleeping) *lane.Bell {
	s.mu.Lock()
	if s.leader == nil && s.bell != nil {
		s.leader = w
	}
	if s.leader != w {
		s.mu.Unlock()
		return nil
	}
	bell := s.bell
	bell.Arm()
	others := len(s.waiters) > 1
	if others {
		for _, other := range s.waiters {
			if other != w {
				other.wake()
			}
		}
	}
	s.mu.Unlock()
	if others {
		// They look now, not when the scheduler finds out that this thread sleeps.
		runtime.Gosched()
	}
	return bell
}

// doze sleeps until the bell is rung or nap is over, unless it is not w's turn any
// more. It returns false if nobody has rung.
func (s *sleeper) doze(w *sleeping, bell *lane.Bell, nap time.Duration) (rung bool) {
	s.mu.Lock()
	if s.leader != w || s.bell != bell {
		s.mu.Unlock()
		return true
	}
	s.dozing = bell
	s.mu.Unlock()
	rung = bell.Sleep(nap)
	s.mu.Lock()
	s.dozing = nil
	if s.bell != bell {
		s.awake.Broadcast()
	}
	s.mu.Unlock()
	return rung
}

// leave ends the caller's wait.
func (s *sleeper) leave(w *sleeping) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiters, w)
	s.waiters = slices.Delete(s.waiters, i, i+1)
	s.waiting.Add(-1)
	if s.leader == w {
		s.leader = nil
		if len(s.waiters) > 0 {
			s.promote()
		} else {
			s.bell.Disarm() // so that nobody pays for a ring
		}
	}
	select {
	case <-w.woken: // for the wait that is over
	default:
	}
	switch {
	case s.closed:
		w.forget()
	case len(s.unused) == sleepersMax:
		s.unused[0].forget()
		s.unused = append(slices.Delete(s.unused, 0, 1), w)
	default:
		s.unused = append(s.unused, w)
	}
}

// promote makes the one that waits for the longest time the leader. mu is held.
func (s *sleeper) promote() {
	s.leader = s.waiters[0]
	s.leader.wake()
}

// rouse makes everyone look: something has changed in this process. It is cheap
// if nobody waits.
func (s *sleeper) rouse() {
	if s.waiting.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAll()
}

// wakeAll makes everyone look. mu is held.
func (s *sleeper) wakeAll() {
	for _, w := range s.waiters {
		w.wake()
	}
	if s.leader != nil {
		s.ring(s.bell)
	}
}

// ring wakes the leader, also if a peer has disarmed the bell and was killed
// before it could wake anyone. mu is held.
func (s *sleeper) ring(bell *lane.Bell) {
	if s.dozing == bell {
		bell.Arm()
	}
	bell.Ring()
}

// setBell changes what the leader sleeps on, also while somebody waits; nil: all
// wait on channels. On return the bell of before is disarmed and not used any
// more: its memory may be unmapped.
func (s *sleeper) setBell(bell *lane.Bell) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		bell = nil
	}
	s.replaceBell(bell)
}

func (s *sleeper) replaceBell(bell *lane.Bell) {
	old := s.bell
	if old == bell {
		return
	}
	s.bell = bell
	if bell == nil {
		s.leader = nil
	}
	for _, w := range s.waiters {
		w.wake() // the first to look becomes the leader, if there is a bell and none
	}
	if old == nil {
		return
	}
	s.ring(old) // and so disarms it; nobody arms it again
	for s.dozing == old && s.bell != old {
		s.awake.Wait()
	}
}

// close gives up the bell and the contexts. Who waits looks again, and who comes
// later waits on channels.
func (s *sleeper) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.replaceBell(nil)
	s.wakeAll()
	for _, w := range s.unused {
		w.forget()
	}
	s.unused = nil
}

// wake leaves a token.
func (w *sleeping) wake() {
	select {
	case w.woken <- struct{}{}:
	default: // there is one already
	}
}

// watch has the end of ctx ring the bell. Only a leader needs it.
func (w *sleeping) watch(ctx context.Context) {
	done := ctx.Done()
	if done == w.done {
		return
	}
	w.forget()
	if done != nil {
		w.done, w.ignore = done, context.AfterFunc(ctx, func() { w.s.ended(w) })
	}
}

// forget gives up the context.
func (w *sleeping) forget() {
	if w.ignore != nil {
		w.ignore()
	}
	w.done, w.ignore = nil, nil
}

// ended wakes w if it leads: a context that it watches, or has watched, is over.
func (s *sleeper) ended(w *sleeping) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leader == w {
		s.ring(s.bell)
	}
}
