package broker

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/shmpool/alloc"
)

// leftoversInterval is the time between looks at what dead brokers have left and
// their nodes still use.
const leftoversInterval = 500 * time.Millisecond

// lockedInterval is the time between looks at processes that still have the memory
// of a dead broker when the time to bring it is over.
const lockedInterval = 2 * time.Second

// leftovers is the shared memory of brokers that died, while their nodes may bring
// it to this one: it is removed when no process uses it any more, and at the
// latest when the time for that is over. The probe files stay until no process has
// what belongs to them mapped.
type leftovers struct {
	prefix    string
	log       *zap.Logger
	dead      []string      // instances whose nodes lived when this broker started
	instances []string      // of those, whose nodes still live
	locked    []string      // of those, what has been removed but for the probe file
	gone      chan struct{} // closed when no process is left that has not come to this broker
	quit      chan struct{}
	once      sync.Once
	ended     chan struct{}
}

// clearUp removes what brokers that were killed have left in shared memory, except
// what can be adopted: the rest is for later.
func (b *Broker) clearUp() *leftovers {
	l := &leftovers{
		prefix: b.cfg.ShmPrefix, log: b.log,
		gone: make(chan struct{}), quit: make(chan struct{}), ended: make(chan struct{}),
	}
	if !b.cfg.SharedMemory {
		close(l.ended)
		return l
	}
	l.instances = l.note(alloc.Sweep(l.prefix)).Used
	if !b.cfg.Lanes {
		l.sweep(true) // nobody can bring anything
	}
	l.dead = slices.Clone(l.instances)
	if l.none() {
		close(l.gone)
		close(l.ended)
		return l
	}
	b.log.Info("shared memory of dead brokers is in use: their nodes may bring it along",
		zap.Strings("instances", l.instances), zap.Duration("adopt_grace_s", b.cfg.AdoptGrace))
	go l.run(b.cfg.AdoptGrace)
	return l
}

func (l *leftovers) run(grace time.Duration) {
	defer close(l.ended)
	over := time.NewTimer(grace)
	defer over.Stop()
	tick := time.NewTicker(leftoversInterval)
	defer tick.Stop()
	used := false
	for !l.none() {
		select {
		case <-tick.C:
			l.sweep(used)
		case <-over.C:
			used = true // and again, if somebody is in the way
			l.sweep(used)
			tick.Reset(lockedInterval)
		case <-l.quit:
			// Not those in use: the next broker may come before their time is over.
			l.sweep(false)
			return
		}
	}
	close(l.gone)
}

func (l *leftovers) none() bool { return len(l.instances)+len(l.locked) == 0 }

// sweep removes what nobody uses any more, or with used set, what anybody uses: it
// stays mapped where it is.
func (l *leftovers) sweep(used bool) {
	// Those of which nothing but the probe file is left are always swept as if in
	// use: it goes when its last lock does.
	locked := l.note(alloc.SweepInstances(l.prefix, l.locked, true))
	inUse := l.note(alloc.SweepInstances(l.prefix, l.instances, used))
	l.instances, l.locked = append(locked.Used, inUse.Used...), append(locked.Locked, inUse.Locked...)
}

// note logs what a sweep has done, and returns it.
func (l *leftovers) note(swept alloc.Swept, err error) alloc.Swept {
	if err != nil {
		l.log.Warn("shared memory of dead brokers could not all be removed", zap.Error(err))
	}
	if n := len(swept.Removed); n > 0 {
		l.log.Info("shared memory of dead brokers removed", zap.Int("count", n), zap.Strings("names", swept.Removed))
	}
	return swept
}

// stop ends the wait. It may be called more than once.
func (l *leftovers) stop() {
	l.once.Do(func() { close(l.quit) })
	<-l.ended
}
