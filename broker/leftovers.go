package broker

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/shmpool/alloc"
)

// leftoversInterval is the time between looks at what dead brokers have left and
// their nodes still use.
const leftoversInterval = 500 * time.Millisecond

// leftovers is the shared memory of brokers that died, while their nodes may bring
// it to this one: it is removed when no process uses it any more, and at the
// latest when the time for that is over.
type leftovers struct {
	prefix    string
	log       *zap.Logger
	instances []string // whose nodes still live
	quit      chan struct{}
	once      sync.Once
	ended     chan struct{}
}

// clearUp removes what brokers that were killed have left in shared memory, except
// what can be adopted: the rest is for later.
func (b *Broker) clearUp() *leftovers {
	l := &leftovers{prefix: b.cfg.ShmPrefix, log: b.log, quit: make(chan struct{}), ended: make(chan struct{})}
	if !b.cfg.SharedMemory {
		close(l.ended)
		return l
	}
	l.instances = l.note(alloc.Sweep(l.prefix))
	if !b.cfg.Lanes {
		l.sweep(true) // nobody can bring anything
	}
	if len(l.instances) == 0 {
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
	for len(l.instances) > 0 {
		select {
		case <-tick.C:
			l.sweep(used)
		case <-over.C:
			used = true // and again, if somebody is in the way
			l.sweep(used)
		case <-l.quit:
			// Not those in use: the next broker may come before their time is over.
			l.sweep(false)
			return
		}
	}
}

// sweep removes what nobody uses any more, or with used set, what anybody uses: it
// stays mapped where it is.
func (l *leftovers) sweep(used bool) {
	l.instances = l.note(alloc.SweepInstances(l.prefix, l.instances, used))
}

// note logs what a sweep has done, and returns what is left to do.
func (l *leftovers) note(swept alloc.Swept, err error) []string {
	if err != nil {
		l.log.Warn("shared memory of dead brokers could not all be removed", zap.Error(err))
	}
	if n := len(swept.Removed); n > 0 {
		l.log.Info("shared memory of dead brokers removed", zap.Int("count", n), zap.Strings("names", swept.Removed))
	}
	return swept.Used
}

// stop ends the wait. It may be called more than once.
func (l *leftovers) stop() {
	l.once.Do(func() { close(l.quit) })
	<-l.ended
}
