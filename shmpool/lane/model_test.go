package lane

import (
	"fmt"

	"github.com/brokerd/brokerd/wire"
)

// The model: a producer, a consumer and a router that take turns, one access to
// shared memory a turn, and between them everything that they share. The machines
// are those of the package; what is modelled around them is how a node uses them:
// which slot it lends when, when it sleeps, and what it clears afterwards. A world
// is a value without pointers, so that a search can copy it and remember it.

const (
	worldCapacity = 8  // entries, at most
	worldSlots    = 12 // at most
	worldMessages = 48 // at most
	modelBit      = 5  // of the ledger, the lane's
)

// plan is what does not change while a world runs.
type plan struct {
	limit    uint32
	policy   wire.Policy
	messages int // to push; then the producer closes the lane
	slots    int
	holds    int         // how many messages the consumer holds at most
	router   routerPlan  // what the router does, at any moment
	crash    crashPlan   // who dies, at any moment; the router settles it then
	mutant   modelMutant // what is wrong on purpose
	// stride is how many words of an entry are written or read in a turn. With 1
	// the worlds are many; the order of words within half an entry matters to
	// nobody, so that longer plans can do with 4.
	stride uint8
}

type routerPlan uint8

const (
	routerIdle routerPlan = iota
	routerCloses
	routerCuts
)

type crashPlan uint8

const (
	nobodyDies crashPlan = iota
	producerDies
	consumerDies
)

// modelMutant is an error that the checker has to find: a test of the checker.
type modelMutant uint8

const (
	noMutant              modelMutant = iota
	mutantBlindClaim                  // the consumer stores the head instead of swapping it
	mutantEarlyCommit                 // the tail moves before the entry is written
	mutantLateLend                    // the slot is lent after the push
	mutantSleepsBlind                 // the consumer does not look again before it sleeps
	mutantKeepsClosed                 // a message that found the lane closed keeps its bit
	mutantKeepsVictim                 // the evicted message keeps its bit
	mutantForgetsProducer             // nobody rings a producer that waits
	mutantSlotBlind                   // the producer does not look again before it sleeps
	mutants
)

func (m modelMutant) String() string {
	return [...]string{"none", "blind claim", "early commit", "late lend", "sleeps blind", "keeps closed", "keeps victim",
		"forgets producer", "slot blind"}[m]
}

// fate is what has become of a message, as its owner knows it.
type fate uint8

const (
	unsent    fate = iota
	sending        // its push is under way
	queued         // pushed
	delivered      // claimed by the consumer, and held
	released       // the consumer is done with it
	evicted
	refused
	returned // the lane was closed
)

type producerPhase uint8

const (
	producerTakes producerPhase = iota
	producerArmsForSlot
	producerWantsSlot
	producerLooksForSlot
	producerLends
	producerPushes
	producerClearsVictim
	producerClearsOwn
	producerRings
	producerArms
	producerWants
	producerLooksTail
	producerLooksHead
	producerSleeps
	producerSleepsForSlot
	producerCloses
	producerDone
	producerDead
)

type consumerPhase uint8

const (
	consumerPops consumerPhase = iota
	consumerRings
	consumerReleases
	consumerGives
	consumerArms
	consumerLooksHead
	consumerLooksTail
	consumerSleeps
	consumerDone
	consumerDead
)

type routerPhase uint8

const (
	routerWaits routerPhase = iota
	routerActs
	routerReads // what it has withdrawn, an entry a turn
	routerWakes
	routerDone
)

type heldMessage struct{ message, slot uint8 }

type world struct {
	// Shared.
	words        [entriesWord + entryWords*worldCapacity]uint64
	ledger       [worldSlots]uint64
	producerBell uint64
	consumerBell uint64
	memoryWanted uint64

	// The producer's.
	producer  producerPhase
	message   uint8 // the one being sent
	slot      uint8
	victim    uint8 // slot
	lent      [worldSlots]bool
	sender    sender
	push      push
	ring      [worldCapacity]sent
	finishing bool // rings, then is done

	// The consumer's.
	consumer consumerPhase
	receiver receiver
	pop      pop
	head     uint64
	held     [2]heldMessage
	holding  uint8

	// The router's.
	router routerPhase
	cut    cut
	read   uint32 // entries

	// What a god would know.
	payload     [worldSlots]uint8 // the message that lies in a slot
	fate        [worldMessages + 1]fate
	last        uint8 // delivered
	dropped     uint64
	commitEarly bool
}

func newWorld(p *plan) world {
	w := world{message: 1}
	if p.limit > worldCapacity || p.slots > worldSlots || p.messages > worldMessages || p.holds > len(w.held) {
		panic("the plan is too large for the world")
	}
	capacity := Capacity(p.limit)
	cfg := Config{Lane: 1, QueueSize: p.limit, Policy: p.policy}
	if err := Init(w.words[:], cfg); err != nil {
		panic(err)
	}
	w.sender = sender{limit: p.limit, mask: capacity - 1, policy: p.policy}
	w.receiver = receiver{limit: p.limit, mask: capacity - 1}
	return w
}

// descriptor of a message: each word says which one it is of.
func descriptor(message, slot uint8) Descriptor {
	word := func(i uint64) uint64 { return uint64(message)<<16 | uint64(slot)<<8 | i }
	return Descriptor{
		Seq: wire.Seq(word(0)), TimeNS: int64(word(1)), Region: wire.RegionID(word(2)), Offset: word(3), Length: word(4),
		MetaRegion: wire.RegionID(word(5)), MetaOffset: word(6), MetaLength: word(7),
	}
}

// slotFree reports whether the producer would find a slot. One that it saw held
// cannot become free unseen: then the consumer sees that one is wanted.
func (w *world) slotFree(p *plan) bool {
	for i := range p.slots {
		if !w.lent[i] || w.ledger[i]&(1<<modelBit) == 0 {
			return true
		}
	}
	return false
}

func cookieOf(message, slot uint8) uint64 { return uint64(message)<<8 | uint64(slot) }
func cookieSlot(cookie uint64) uint8      { return uint8(cookie) }
func cookieMessage(cookie uint64) uint8   { return uint8(cookie >> 8) }

func violated(format string, a ...any) error { return fmt.Errorf(format, a...) }

// stepProducer takes the producer's next turn. It is called only if the producer
// is able to.
func (w *world) stepProducer(p *plan) error {
	const bit = uint64(1) << modelBit
	switch w.producer {
	case producerTakes:
		if int(w.message) > p.messages {
			w.producer = producerCloses
			return w.stepProducer(p)
		}
		for i := range p.slots {
			if w.lent[i] && w.ledger[i]&bit != 0 {
				continue
			}
			w.lent[i], w.slot = true, uint8(i)
			w.payload[i] = w.message // the payload is written
			w.fate[w.message] = sending
			w.producer = producerLends
			if p.mutant == mutantLateLend {
				w.producer = producerPushes
			}
			d := descriptor(w.message, w.slot)
			w.push.start(&w.sender, &d)
			return nil
		}
		w.producer = producerArmsForSlot
		return w.stepProducer(p)
	case producerArmsForSlot:
		w.producerBell = 1
		w.producer = producerWantsSlot
	case producerWantsSlot:
		w.memoryWanted = 1
		w.producer = producerLooksForSlot
		if p.mutant == mutantSlotBlind {
			w.producer = producerSleepsForSlot
		}
	case producerLooksForSlot:
		w.producer = producerTakes
		if !w.slotFree(p) {
			w.producer = producerSleepsForSlot
		}
	case producerSleepsForSlot:
		w.producer = producerTakes
	case producerLends:
		w.ledger[w.slot] = bit
		w.producer = producerPushes
		if p.mutant == mutantLateLend {
			w.producer = producerRings
		}
	case producerPushes:
		return w.stepPush(p)
	case producerClearsVictim:
		w.ledger[w.victim] &^= bit
		w.settlePush(p)
	case producerClearsOwn:
		w.ledger[w.slot] &^= bit
		w.next(p, w.push.verdict)
	case producerRings:
		w.consumerBell = 0
		w.producer = producerTakes
		if w.finishing {
			w.producer = producerDone
		}
	case producerArms:
		w.producerBell = 1
		w.producer = producerWants
	case producerWants:
		w.words[wantedWord] = 1 + uint64(uint32(w.sender.tail)-p.limit+1)
		w.producer = producerLooksTail
	case producerLooksTail:
		w.producer = producerLooksHead
		if w.words[tailWord]&closedBit != 0 {
			w.producer = producerPushes
		}
	case producerLooksHead:
		w.producer = producerSleeps
		if uint32(w.sender.tail)-headPosition(w.words[headWord]) < p.limit {
			w.producer = producerPushes
		}
	case producerSleeps:
		w.producer = producerPushes
	case producerCloses:
		w.words[tailWord] |= closedBit
		w.finishing = true
		w.producer = producerRings
	}
	return nil
}

// stepPush makes one step of a push, and acts on its end.
func (w *world) stepPush(p *plan) error {
	o, s, words, ring := &w.push, &w.sender, w.words[:], w.ring[:Capacity(p.limit)]
	tailBefore := s.tail
	var done bool
	switch {
	case p.mutant == mutantEarlyCommit && o.phase == pushWrite && !w.commitEarly:
		w.commitEarly = true
		if w.words[tailWord] == s.tail {
			w.words[tailWord]++
			return nil
		}
		o.phase = pushWhy
		return nil
	case p.mutant == mutantEarlyCommit && o.phase == pushCommit:
		s.tail++
		w.commitEarly = false
		done = o.end(Pushed)
	default:
		done = o.step(s, words, ring)
	}
	for o.phase == pushWrite && o.next%p.stride != 0 {
		done = o.step(s, words, ring)
	}
	// Nobody but a router at its ticks looks at the window: no turns in between.
	for o.phase == pushNote || o.phase == pushLoadWindow {
		done = o.step(s, words, ring)
	}
	if o.phase == pushWrite && o.evicted && o.next == 0 && w.fate[cookieMessage(o.victim)] != evicted {
		if w.fate[cookieMessage(o.victim)] != queued {
			return violated("evicted message %d, whose fate was %d", cookieMessage(o.victim), w.fate[cookieMessage(o.victim)])
		}
		w.fate[cookieMessage(o.victim)] = evicted
	}
	if s.tail != tailBefore {
		w.ring[uint32(tailBefore)&s.mask] = sent{cookie: cookieOf(w.message, w.slot), seq: uint64(w.message)}
		w.fate[w.message] = queued
	}
	if !done {
		return nil
	}
	switch o.verdict {
	case Corrupt:
		return violated("the producer finds the lane corrupt")
	case Refused:
		w.fate[w.message] = refused
	case Closed:
		w.fate[w.message] = returned
	}
	if o.evicted {
		w.victim = cookieSlot(o.victim)
		w.producer = producerClearsVictim
		if p.mutant != mutantKeepsVictim {
			return nil
		}
	}
	w.settlePush(p)
	return nil
}

// settlePush goes on after a push and its eviction.
func (w *world) settlePush(p *plan) {
	switch w.push.verdict {
	case Pushed:
		w.next(p, Pushed)
	case Full:
		d := descriptor(w.message, w.slot)
		w.push.start(&w.sender, &d)
		w.producer = producerArms
	case Refused, Closed:
		w.producer = producerClearsOwn
		if w.push.verdict == Closed && p.mutant == mutantKeepsClosed {
			w.next(p, Closed)
		}
	}
}

// next goes on to the next message.
func (w *world) next(p *plan, v Verdict) {
	w.message++
	w.producer = producerTakes
	switch {
	case v == Closed:
		w.producer = producerDone
	case v == Pushed && p.mutant == mutantLateLend:
		w.producer = producerLends
	case v == Pushed:
		w.producer = producerRings
	}
}

// stepConsumer takes the consumer's next turn; choice is which one, where there
// are two.
func (w *world) stepConsumer(p *plan, choice int) error {
	switch w.consumer {
	case consumerPops:
		if choice == 1 {
			w.consumer = consumerReleases
			return w.stepConsumer(p, 0)
		}
		return w.stepPop(p)
	case consumerRings:
		if p.mutant != mutantForgetsProducer {
			w.producerBell = 0
		}
		w.consumer = consumerPops
	case consumerReleases:
		h := w.held[0]
		if w.payload[h.slot] != h.message {
			return violated("slot %d was reused while message %d was held: %d lies there", h.slot, h.message, w.payload[h.slot])
		}
		w.fate[h.message] = released
		w.ledger[h.slot] &^= 1 << modelBit
		w.held[0], w.held[1] = w.held[1], heldMessage{}
		w.holding--
		w.consumer = consumerGives
	case consumerGives:
		w.consumer = consumerPops
		if w.memoryWanted != 0 {
			w.memoryWanted = 0
			w.consumer = consumerRings
		}
	case consumerArms:
		w.consumerBell = 1
		w.consumer = consumerLooksHead
		if p.mutant == mutantSleepsBlind {
			w.consumer = consumerSleeps
		}
	case consumerLooksHead:
		w.head = w.words[headWord]
		w.consumer = consumerLooksTail
	case consumerLooksTail:
		c := Consumer{state: w.receiver}
		w.consumer = consumerSleeps
		if w.words[tailWord] != c.tailAt(w.head) {
			w.consumer = consumerPops
		}
		w.head = 0
	case consumerSleeps:
		w.consumer = consumerPops
	}
	return nil
}

// stepPop makes one step of a pop, and acts on its end.
func (w *world) stepPop(p *plan) error {
	o, r, words := &w.pop, &w.receiver, w.words[:]
	taken := r.taken
	var done bool
	if p.mutant == mutantBlindClaim && o.phase == popClaim {
		w.words[headWord] = o.head // whatever came between is lost
	}
	done = o.step(r, words)
	for o.phase == popRead && o.next%p.stride != 0 {
		done = o.step(r, words)
	}
	if r.taken != taken {
		if err := w.deliver(p); err != nil {
			return err
		}
	}
	if !done {
		return nil
	}
	switch o.verdict {
	case Corrupt:
		return violated("the consumer finds the lane corrupt")
	case Got:
		w.dropped += o.dropped
		if o.ring {
			w.consumer = consumerRings
		}
	case Ended:
		w.dropped += o.dropped
		if w.consumer = consumerDone; w.holding > 0 {
			w.consumer = consumerReleases
		}
	case Empty:
		if w.consumer = consumerArms; w.holding > 0 {
			w.consumer = consumerReleases
		}
	}
	w.pop = pop{}
	return nil
}

// deliver takes what was claimed into the consumer's hands.
func (w *world) deliver(p *plan) error {
	e := w.pop.entry
	message, slot := uint8(e[0]>>16), uint8(e[0]>>8)
	for i, word := range e {
		if word != uint64(message)<<16|uint64(slot)<<8|uint64(i) {
			return violated("message %d is torn: word %d is %#x", message, i, word)
		}
	}
	if message == 0 || int(message) > p.messages || message <= w.last {
		return violated("message %d comes after %d", message, w.last)
	}
	if f := w.fate[message]; f != queued && f != sending {
		return violated("message %d is delivered, its fate was %d", message, f)
	}
	if w.ledger[slot]&(1<<modelBit) == 0 || w.payload[slot] != message {
		return violated("message %d is delivered from slot %d: ledger %#x, message %d lies there", message, slot,
			w.ledger[slot], w.payload[slot])
	}
	w.fate[message], w.last = delivered, message
	w.held[w.holding] = heldMessage{message, slot}
	w.holding++
	return nil
}

// stepRouter takes the router's next turn.
func (w *world) stepRouter(p *plan) error {
	switch w.router {
	case routerWaits:
		w.router = routerActs
		return w.stepRouter(p)
	case routerActs:
		if w.cuts(p) {
			if !w.cut.step(p.limit, w.words[:]) {
				return nil
			}
			if !w.cut.ok {
				return violated("the router finds the lane corrupt")
			}
			w.router = routerReads
			return nil
		}
		w.words[tailWord] |= closedBit
		w.router = routerWakes
	case routerReads:
		if w.read < w.cut.count {
			return w.readWithdrawn()
		}
		w.router = routerWakes
		return w.stepRouter(p)
	case routerWakes: // nodes hear of it over TCP
		if w.cuts(p) {
			w.withdraw(p)
		}
		if w.consumer == consumerDead {
			// Its process is gone, so that nobody holds anything: the sender is told, and
			// clears the lane's bit in every slot.
			for i := range p.slots {
				w.ledger[i] &^= 1 << modelBit
			}
		}
		w.producerBell, w.consumerBell = 0, 0
		w.router = routerDone
	}
	return nil
}

// readWithdrawn reads an entry that was withdrawn.
func (w *world) readWithdrawn() error {
	position := uint32(w.cut.tail) - w.cut.count + w.read
	w.read++
	at := entriesWord + entryWords*(position&w.sender.mask)
	message := w.words[at] >> 16
	for i, word := range w.words[at : at+entryWords] {
		if word>>16 != message || word&0xff != uint64(i) || w.fate[message] != queued {
			return violated("withdrawn message %d is torn: word %d is %#x", message, i, word)
		}
	}
	return nil
}

// withdraw is what the producer does when it hears of a cut.
func (w *world) withdraw(p *plan) {
	producer := Producer{state: w.sender, ring: w.ring[:Capacity(p.limit)]}
	producer.Since(w.cut.tail-uint64(w.cut.count), func(cookie uint64) {
		w.ledger[cookieSlot(cookie)] &^= 1 << modelBit
	})
}

func (w *world) cuts(p *plan) bool { return p.router == routerCuts || p.crash == consumerDies }
