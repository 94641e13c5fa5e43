package lane

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// move is one turn of one of the three, or somebody's death.
type move uint8

const (
	moveProducer move = iota
	moveConsumer
	moveRelease // the consumer releases a message rather than popping another one
	moveRouter
	moveProducerDies
	moveConsumerDies
)

func (m move) String() string { return [...]string{"P", "C", "c", "R", "P+", "C+"}[m] }

// moves appends what can happen next.
func (w *world) moves(p *plan, dst []move) []move {
	if w.producerAble(p) {
		dst = append(dst, moveProducer)
	}
	if w.consumer < consumerDone && (w.consumer != consumerSleeps || w.consumerBell == 0) {
		full := int(w.holding) == p.holds && w.consumer == consumerPops && w.pop.phase == popLoadHead && w.pop.tries == 0
		if !full {
			dst = append(dst, moveConsumer)
		}
		if w.holding > 0 && w.consumer == consumerPops && w.pop.phase == popLoadHead && w.pop.tries == 0 {
			dst = append(dst, moveRelease)
		}
	}
	if w.routerAble(p) {
		dst = append(dst, moveRouter)
	}
	if p.crash == producerDies && w.producer < producerDone {
		dst = append(dst, moveProducerDies)
	}
	if p.crash == consumerDies && w.consumer < consumerDone {
		dst = append(dst, moveConsumerDies)
	}
	return dst
}

func (w *world) producerAble(p *plan) bool {
	switch w.producer {
	case producerDone, producerDead:
		return false
	case producerSleeps, producerSleepsForSlot:
		return w.producerBell == 0
	}
	return true
}

func (w *world) routerAble(p *plan) bool {
	if w.router != routerWaits {
		return w.router != routerDone
	}
	switch p.crash {
	case producerDies:
		return w.producer == producerDead
	case consumerDies:
		return w.consumer == consumerDead
	}
	return p.router != routerIdle
}

func (w *world) make(p *plan, m move) error {
	switch m {
	case moveProducer:
		return w.stepProducer(p)
	case moveConsumer:
		return w.stepConsumer(p, 0)
	case moveRelease:
		return w.stepConsumer(p, 1)
	case moveRouter:
		return w.stepRouter(p)
	case moveProducerDies:
		w.producer = producerDead
	case moveConsumerDies:
		w.consumer = consumerDead
	}
	return nil
}

// check says what is wrong with a world in which nothing can happen any more.
func (w *world) check(p *plan) error {
	if w.producer < producerDone || w.consumer < consumerDone {
		return violated("they wait for ever: producer %d, consumer %d", w.producer, w.consumer)
	}
	tail := w.words[tailWord]
	if tail&closedBit == 0 {
		return violated("the lane is open at the end")
	}
	// Every message that was ever on the lane is taken or evicted, in the counters
	// and in fact.
	head, pushed := w.words[headWord], uint32(tail)
	if headPosition(head) != pushed {
		return violated("%d pushed, %d taken, %d evicted", pushed, headTaken(head), headEvicted(head))
	}
	var count [returned + 1]uint32
	for m := 1; m <= p.messages; m++ {
		count[w.fate[m]]++
	}
	if p.policy != wire.PolicyDropOldest && count[evicted] > 0 || p.policy != wire.PolicyDropNewest && count[refused] > 0 {
		return violated("%v, but %d evicted and %d refused", p.policy, count[evicted], count[refused])
	}
	withdrawn := uint32(0)
	if w.cuts(p) && w.router == routerDone {
		withdrawn = w.cut.count
	}
	if got := count[delivered] + count[released]; got != headTaken(head) {
		return violated("%d delivered, %d taken", got, headTaken(head))
	}
	if w.producer == producerDead {
		// It may have died between evicting a message and knowing of it.
		if gone := count[evicted] + withdrawn; headEvicted(head) < gone || headEvicted(head) > gone+1 {
			return violated("%d evicted by count, %d in fact", headEvicted(head), gone)
		}
		return w.checkLedger(p)
	}
	if headEvicted(head) != count[evicted]+withdrawn || count[queued] != withdrawn {
		return violated("%d evicted by count; in fact %d, and %d withdrawn, %d left", headEvicted(head), count[evicted], withdrawn, count[queued])
	}
	if w.words[refusedWord] != uint64(count[refused]) {
		return violated("%d refused by count, %d in fact", w.words[refusedWord], count[refused])
	}
	lost := uint64(headEvicted(head)) + w.words[refusedWord]
	if p.router == routerIdle && w.consumer == consumerDone && w.dropped != lost {
		return violated("the consumer was told of %d drops, there were %d", w.dropped, lost)
	}
	if w.dropped > lost {
		return violated("the consumer was told of %d drops, there were only %d", w.dropped, lost)
	}
	return w.checkLedger(p)
}

// checkLedger finds slots that are held by nobody, and free ones that are held.
func (w *world) checkLedger(p *plan) error {
	for i := range p.slots {
		m := w.payload[i]
		switch {
		case w.ledger[i] == 0 && m > 0 && w.fate[m] == delivered && w.consumer != consumerDead:
			return violated("slot %d is free, message %d in it is held", i, m)
		case w.ledger[i] != 0 && w.producer != producerDead: // else its regions are discarded
			return violated("slot %d with message %d (fate %d) is leaked", i, m, w.fate[m])
		}
	}
	return nil
}

// search goes through every world that can come of a plan.
type search struct {
	plan    *plan
	seeds   [2]maphash.Seed
	visited map[[2]uint64]struct{}
	path    []move
	ends    int
}

func newSearch(p *plan) *search {
	return &search{plan: p, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, visited: make(map[[2]uint64]struct{})}
}

func (s *search) explore(w *world) error {
	key := [2]uint64{maphash.Comparable(s.seeds[0], *w), maphash.Comparable(s.seeds[1], *w)}
	if _, seen := s.visited[key]; seen {
		return nil
	}
	s.visited[key] = struct{}{}
	var space [6]move
	moves := w.moves(s.plan, space[:0])
	// A death is no way on: somebody who waits for it waits for ever.
	if len(moves) == 0 || moves[0] >= moveProducerDies {
		s.ends++
		end := *w
		if err := end.check(s.plan); err != nil {
			return s.failed(err)
		}
	}
	for _, m := range moves {
		next := *w
		s.path = append(s.path, m)
		if err := next.make(s.plan, m); err != nil {
			return s.failed(err)
		}
		if err := s.explore(&next); err != nil {
			return err
		}
		s.path = s.path[:len(s.path)-1]
	}
	return nil
}

func (s *search) failed(err error) error {
	var text strings.Builder
	for _, m := range s.path {
		text.WriteString(m.String())
	}
	return fmt.Errorf("%w, after %s", err, text.String())
}

func (p *plan) String() string {
	return fmt.Sprintf("limit=%d/%v/messages=%d/router=%d/crash=%d/holds=%d/stride=%d", p.limit, p.policy, p.messages, p.router, p.crash, p.holds, p.stride)
}

// plans are those that are gone through completely.
func plans(limit uint32, messages, holds int, stride uint8) []plan {
	var all []plan
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest, wire.PolicyBlock} {
		base := plan{limit: limit, policy: policy, messages: messages, slots: int(limit) + holds, holds: holds, stride: stride}
		for _, router := range []routerPlan{routerIdle, routerCloses, routerCuts} {
			p := base
			p.router = router
			all = append(all, p)
		}
		for _, crash := range []crashPlan{producerDies, consumerDies} {
			p := base
			p.crash = crash
			all = append(all, p)
		}
	}
	return all
}

// TestModel goes through every interleaving of the steps of all three, in a few
// seconds. With BROKERD_MODEL=deep in the environment the queues and messages are
// more, and it takes minutes.
func TestModel(t *testing.T) {
	all := slices.Concat(plans(1, 2, 1, 2), plans(1, 3, 1, 4), plans(2, 3, 1, 4), plans(2, 3, 2, 8), plans(3, 4, 1, 8))
	if os.Getenv("BROKERD_MODEL") == "deep" {
		all = slices.Concat(plans(1, 3, 1, 1), plans(2, 4, 1, 4), plans(2, 4, 2, 8), plans(3, 5, 1, 8), plans(4, 6, 1, 8))
	} else if raceDetector {
		all = plans(1, 2, 1, 8)
	}
	for _, p := range all {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			s := newSearch(&p)
			w := newWorld(&p)
			if err := s.explore(&w); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d worlds, %d ends", len(s.visited), s.ends)
		})
	}
}

// TestModelFindsMutants: a checker that lets a wrong algorithm pass proves
// nothing about a right one.
func TestModelFindsMutants(t *testing.T) {
	for mutant := noMutant + 1; mutant < mutants; mutant++ {
		t.Run(mutant.String(), func(t *testing.T) {
			t.Parallel()
			for _, p := range plans(1, 3, 1, 4) {
				p.mutant = mutant
				s := newSearch(&p)
				w := newWorld(&p)
				if err := s.explore(&w); err != nil {
					t.Logf("%v: %v", &p, err)
					return
				}
			}
			t.Fatal("nothing was found")
		})
	}
}

// TestModelAtRandom runs longer plans, with one order of the steps each.
func TestModelAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	runs := 30_000
	if raceDetector {
		runs /= 20
	}
	for range runs {
		runAtRandom(t, random)
	}
}

func runAtRandom(t *testing.T, random *rand.Rand) {
	p := plan{
		limit: 1 + random.Uint32N(worldCapacity), policy: wire.Policy(random.IntN(3)), messages: 1 + random.IntN(worldMessages),
		holds: 1 + random.IntN(2), router: routerPlan(random.IntN(3)),
	}
	if random.IntN(2) == 0 {
		p.crash = crashPlan(random.IntN(3))
	}
	p.slots = int(p.limit) + random.IntN(p.holds+2)
	p.stride = 1
	w := newWorld(&p)
	// One runs far ahead of the others for a while, then another one: even turns
	// would never fill the queue.
	var weights [moveConsumerDies + 1]int
	var space [6]move
	for step := 0; ; step++ {
		if step%64 == 0 {
			for i := range weights {
				weights[i] = 1 << random.IntN(8)
			}
			weights[moveRouter] = min(weights[moveRouter], 2)
			weights[moveProducerDies], weights[moveConsumerDies] = random.IntN(2), random.IntN(2)
		}
		moves := w.moves(&p, space[:0])
		if len(moves) == 0 || moves[0] >= moveProducerDies {
			break
		}
		sum := 0
		for _, m := range moves {
			sum += weights[m]
		}
		m := moves[len(moves)-1]
		for pick := random.IntN(sum + 1); len(moves) > 0; moves = moves[1:] {
			if pick -= weights[moves[0]]; pick < 0 {
				m = moves[0]
				break
			}
		}
		if err := w.make(&p, m); err != nil {
			t.Fatalf("%v: %v", &p, err)
		}
		if step > 100_000 {
			t.Fatalf("%v does not end", &p)
		}
	}
	if err := w.check(&p); err != nil {
		t.Fatalf("%v: %v", &p, err)
	}
}
