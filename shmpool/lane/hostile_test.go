package lane

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// What one call may take, in steps: more would be a peer that keeps it busy.
const (
	hostilePushSteps = 64
	hostilePopSteps  = 16 * popTriesMax
)

// hostile is a lane of which a peer scribbles over every word, at any moment.
type hostile struct {
	tb       testing.TB
	input    []byte
	cfg      Config
	words    []uint64
	producer *Producer
	consumer *Consumer
	keeper   *Keeper
	ledger   []uint64
}

// byte returns the next byte of the input; the script ends with it.
func (h *hostile) byte() byte {
	if len(h.input) == 0 {
		return 0
	}
	b := h.input[0]
	h.input = h.input[1:]
	return b
}

func (h *hostile) uint64() uint64 {
	var b [8]byte
	n := copy(b[:], h.input)
	h.input = h.input[n:]
	return binary.LittleEndian.Uint64(b[:])
}

// controlWords are those that a peer would aim at.
var controlWords = [...]int{tailWord, headWord, wantedWord, refusedWord, failedWord, windowWord, loggedWord,
	windowsWord + windowNumber, windowsWord + windowWords + windowNumber, magicWord, capacityWord, queueSizeWord,
	notedWord + windowCount, notedWord + windowSeqFirst, notedWord + windowSeqLast, notedWord + windowNumber}

// scribble changes a word: to anything, or by a little, which is harder to notice.
func (h *hostile) scribble() {
	b := h.byte()
	i := controlWords[int(b&0x1f)%len(controlWords)]
	if b&0x20 != 0 {
		i = int(h.byte()) * len(h.words) / 256
	}
	switch b >> 6 {
	case 0:
		h.words[i] = h.uint64()
	case 1:
		h.words[i] += uint64(int64(int8(h.byte())))
	case 2:
		h.words[i] ^= 1 << (h.byte() & 63)
	case 3:
		h.words[i] += uint64(int64(int8(h.byte()))) << 32
	}
	if b&0x10 != 0 {
		h.ledger[0] = h.uint64()
	}
}

func (h *hostile) push() {
	p := h.producer
	d := descriptor(1, 2)
	p.op.start(&p.state, &d)
	for steps := 0; !p.op.step(&p.state, p.words, p.ring); steps++ {
		if steps > hostilePushSteps {
			h.tb.Fatalf("a push takes more than %d steps", steps)
		}
		if h.byte()&7 == 0 {
			h.scribble()
		}
	}
	if v := p.op.verdict; v != Pushed && v != Refused && v != Full && v != Closed && v != Corrupt {
		h.tb.Fatalf("a push ends with %v", v)
	}
}

func (h *hostile) pop() {
	c := h.consumer
	c.op.start()
	for steps := 0; !c.op.step(&c.state, c.words); steps++ {
		if steps > hostilePopSteps {
			h.tb.Fatalf("a pop takes more than %d steps", steps)
		}
		if h.byte()&7 == 0 {
			h.scribble()
		}
	}
	if v := c.op.verdict; v != Got && v != Empty && v != Ended && v != Corrupt {
		h.tb.Fatalf("a pop ends with %v", v)
	}
}

func (h *hostile) cut() {
	c := cut{}
	for steps := uint32(0); !c.step(h.cfg.QueueSize, h.words); steps++ {
		if steps > 2*h.cfg.QueueSize+8 {
			h.tb.Fatalf("a cut takes more than %d steps", steps)
		}
		if h.byte()&3 == 0 {
			h.scribble()
		}
	}
	if c.ok && c.count > h.cfg.QueueSize {
		h.tb.Fatalf("%d withdrawn, the queue size is %d", c.count, h.cfg.QueueSize)
	}
}

// keep calls what the router calls at its ticks.
func (h *hostile) keep() {
	if c, err := h.keeper.Counters(); err == nil && (c.Queued > h.cfg.QueueSize || c.Taken+c.Evicted > c.Pushed) {
		h.tb.Fatalf("impossible counters: %+v", c)
	}
	d, ok, _ := h.keeper.Drops()
	if ok != (d.Count > 0) {
		h.tb.Fatalf("drops: %+v, %v", d, ok)
	}
	h.keeper.Confirm(d.Count)
	_ = h.keeper.Close()
	if w, err := h.keeper.Cut(); err == nil && w.Count > h.cfg.QueueSize {
		h.tb.Fatalf("%d withdrawn", w.Count)
	}
	_, _ = h.keeper.Remainder()
}

// ends calls everything else.
func (h *hostile) ends() {
	if n, v := h.producer.Room(); n > int(h.cfg.QueueSize) || (n > 0) != (v == Pushed) {
		h.tb.Fatalf("room for %d, %v", n, v)
	}
	h.producer.Want(int(int8(h.byte())))
	h.producer.Failed(1)
	h.producer.Closed()
	cookies := 0
	h.producer.Since(h.uint64(), func(uint64) { cookies++ })
	if cookies > len(h.producer.ring) {
		h.tb.Fatalf("%d cookies", cookies)
	}
	h.consumer.Ready()
	var d Descriptor
	h.consumer.Pop(&d)
	h.producer.Push(&d, 1)
	l := NewLedger(h.ledger)
	l.Lend(0, 1)
	l.Clear(0, 0)
	if l.Held(0, 1) {
		h.tb.Fatal("held after it was cleared")
	}
}

func runHostile(tb testing.TB, input []byte) {
	h := &hostile{tb: tb, input: input}
	h.cfg = Config{Lane: 9, QueueSize: 1 + uint32(h.byte())%9, Policy: wire.Policy(h.byte() % 3)}
	h.words = make([]uint64, Bytes(Capacity(h.cfg.QueueSize))/8)
	h.ledger = make([]uint64, 1)
	if err := Init(h.words, h.cfg); err != nil {
		tb.Fatal(err)
	}
	var err error
	if h.producer, err = NewProducer(h.words, h.cfg); err != nil {
		tb.Fatal(err)
	}
	if h.consumer, err = NewConsumer(h.words, h.cfg); err != nil {
		tb.Fatal(err)
	}
	h.keeper = NewKeeper(h.words, h.cfg, nil)
	for len(h.input) > 0 {
		switch b := h.byte(); b % 16 {
		case 0, 1, 2, 3, 4:
			h.push()
		case 5, 6, 7, 8:
			h.pop()
		case 9:
			h.cut()
		case 10:
			h.keep()
		case 11:
			// Ends and a router that come to a lane that was scribbled over already.
			if p, err := NewProducer(h.words, h.cfg); err == nil {
				h.producer = p
			}
			if c, err := NewConsumer(h.words, h.cfg); err == nil {
				h.consumer = c
			}
			h.keeper = NewKeeper(h.words, h.cfg, nil)
		case 12:
			h.ends()
		default:
			h.scribble()
		}
	}
}

// TestHostile scribbles at random. Bounds of slices are checked by the language:
// reading out of range would be a panic.
func TestHostile(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	input := make([]byte, 600)
	for range 20_000 {
		for i := range input {
			input[i] = byte(random.Uint32())
		}
		runHostile(t, input)
	}
}

func FuzzHostile(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		input := make([]byte, 200)
		for i := range input {
			input[i] = byte(random.Uint32())
		}
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, input []byte) { runHostile(t, input) })
}
