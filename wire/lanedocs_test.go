package wire_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// The chapter on lanes is all that a client in another language has. Here is one:
// its two ends follow the numbered steps of the page, and know of words only what
// the page's table says. It has to get on with the real ends.

// pageWords are the words that the page names, by name.
func pageWords(t *testing.T) map[string]int {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, found := strings.Cut(string(page), "#### 17.2.1 The lane")
	chapter, _, cut := strings.Cut(chapter, "#### 17.2.2")
	if !found || !cut {
		t.Fatal("no chapter with the layout")
	}
	words := map[string]int{}
	row := regexp.MustCompile(`(?m)^\| (\d+)[^|]*\| (\d+)[^|]*\| ([A-Z]*(?: \d)?) *\| [^|]*\| ([^|:]*)`)
	for _, m := range row.FindAllStringSubmatch(chapter, -1) {
		word, _ := strconv.Atoi(m[1])
		at, _ := strconv.Atoi(m[2])
		if at != 8*word {
			t.Errorf("word %d is at byte %d", word, at)
		}
		name := m[3]
		if name == "" {
			name = strings.TrimSpace(m[4])
		}
		words[name] = word
	}
	for _, name := range []string{"C", "queue_size", "policy", "lane id", "TAIL", "HEAD", "WANTED", "REFUSED", "FAILED",
		"WINDOW", "LOGGED", "NOTED", "DROPS 0", "DROPS 1", "entry s, 0 ≤ s < C"} {
		if _, ok := words[name]; !ok {
			t.Fatalf("the table has no %q: %v", name, words)
		}
	}
	words["entries"] = words["entry s, 0 ≤ s < C"]
	return words
}

// pageSender is the sender of section 17.5.
type pageSender struct {
	at       map[string]int
	words    []uint64
	capacity uint64
	limit    uint32
	policy   wire.Policy

	t    uint64
	e, p uint32
	ring []lane.Descriptor
	drop [5]uint64 // copy of the window: count, bytes, first, last, oldest
	num  uint64
}

const closed = 1 << 63

func position(head uint64) uint32 { return uint32(head) + uint32(head>>32) }

// push is 17.5.1. The steps that only a second process makes necessary are those
// that this test cannot reach.
func (s *pageSender) push(d lane.Descriptor) lane.Verdict {
	word := func(name string) *uint64 { return &s.words[s.at[name]] }
	why := func() lane.Verdict { // 7
		if *word("TAIL") == s.t|closed {
			return lane.Closed
		}
		return lane.Corrupt
	}
	h := *word("HEAD") // 1
	if uint32(h>>32) != s.e {
		return why()
	}
	q := uint32(s.t) - position(h) // 2
	if q > uint32(s.t)-s.p {
		return lane.Corrupt
	}
	s.p = position(h)
	if q == s.limit { // 3
		switch tail := *word("TAIL"); {
		case tail == s.t|closed:
			return lane.Closed
		case tail != s.t:
			return lane.Corrupt
		}
		switch s.policy {
		case wire.PolicyBlock:
			return lane.Full
		case wire.PolicyDropNewest:
			*word("REFUSED")++
			s.note(d)
			return lane.Refused
		}
		*word("HEAD") = uint64(uint32(h>>32)+1)<<32 | uint64(uint32(h)) // 4
		s.note(s.ring[uint64(s.p)%s.capacity])
		s.e++
		s.p++
	}
	entry := s.words[s.at["entries"]+8*int(s.t%s.capacity):] // 5
	for i, v := range []uint64{uint64(d.Seq), uint64(d.TimeNS), uint64(d.Region), d.Offset, d.Length,
		uint64(d.MetaRegion), d.MetaOffset, d.MetaLength} {
		entry[i] = v
	}
	if *word("TAIL") != s.t { // 6
		return why()
	}
	*word("TAIL")++
	s.ring[s.t%s.capacity] = d
	s.t++
	return lane.Pushed
}

// note is 17.5.2.
func (s *pageSender) note(d lane.Descriptor) {
	w := s.words[s.at["WINDOW"]]
	anew := w != s.num // 1
	if anew {
		s.num, s.drop = w, [5]uint64{0, 0, uint64(d.Seq), uint64(d.Seq), uint64(d.TimeNS)}
	}
	s.drop[0]++ // 2
	s.drop[1] += d.Length
	s.drop[2], s.drop[3] = min(s.drop[2], uint64(d.Seq)), max(s.drop[3], uint64(d.Seq))
	s.drop[4] = min(s.drop[4], uint64(d.TimeNS))
	window := s.words[s.at[fmt.Sprintf("DROPS %d", w%2)]:] // 3
	if anew {
		window[5] = 0
	}
	copy(window, s.drop[:])
	if anew {
		window[5] = w
	}
}

// pageReceiver is the receiver of section 17.6.
type pageReceiver struct {
	at       map[string]int
	words    []uint64
	capacity uint64
	limit    uint32

	k                        uint32
	tail                     uint64
	evicted, refused, failed uint64
}

// pop is 17.6.1, up to step 8.
func (r *pageReceiver) pop(d *lane.Descriptor) (v lane.Verdict, dropped uint64, ring bool) {
	word := func(name string) *uint64 { return &r.words[r.at[name]] }
	lost := func(head uint64) uint64 {
		n := uint64(uint32(head>>32)-uint32(r.evicted)) + *word("REFUSED") - r.refused + *word("FAILED") - r.failed
		r.evicted, r.refused, r.failed = head>>32, *word("REFUSED"), *word("FAILED")
		return n
	}
	h := *word("HEAD") // 1
	if uint32(h) != r.k {
		return lane.Corrupt, 0, false
	}
	tail := *word("TAIL") // 2
	if tail&^closed < r.tail {
		return lane.Corrupt, 0, false
	}
	r.tail = tail &^ closed
	q := uint32(tail) - position(h)
	switch {
	case q == 0 && tail&closed == 0: // 3
		return lane.Empty, 0, false
	case q == 0:
		return lane.Ended, lost(h), false
	case q > r.limit: // 4
		return lane.Corrupt, 0, false
	}
	entry := r.words[r.at["entries"]+8*int(uint64(position(h))%r.capacity):] // 5
	*d = lane.Descriptor{Seq: wire.Seq(entry[0]), TimeNS: int64(entry[1]), Region: wire.RegionID(entry[2]), Offset: entry[3],
		Length: entry[4], MetaRegion: wire.RegionID(entry[5]), MetaOffset: entry[6], MetaLength: entry[7]}
	*word("HEAD") = h&^0xffff_ffff | uint64(uint32(h)+1) // 6
	r.k++
	dropped = lost(h)                                                      // 7
	if w := *word("WANTED"); w != 0 && position(h)+1-uint32(w-1) < 1<<31 { // 8
		*word("WANTED") = 0
		ring = true
	}
	return lane.Got, dropped, ring
}

type (
	anySender   func(d lane.Descriptor) lane.Verdict
	anyReceiver func(d *lane.Descriptor) (lane.Verdict, uint64, bool)
)

func TestDocumentedLanes(t *testing.T) {
	at := pageWords(t)
	for _, policy := range []wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest, wire.PolicyBlock} {
		for _, queue := range []uint32{1, 2, 3, 8, 100} {
			for _, pageSends := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v queue %d page sends %v", policy, queue, pageSends), func(t *testing.T) {
					playLane(t, at, lane.Config{Lane: 0x5f3a9c01_00000009, QueueSize: queue, Policy: policy}, pageSends)
				})
			}
		}
	}
}

// playLane has one end of the page and one real end exchange messages, and the
// router close the lane in the end.
func playLane(t *testing.T, at map[string]int, cfg lane.Config, pageSends bool) {
	capacity := uint64(1)
	for capacity < uint64(cfg.QueueSize) {
		capacity *= 2
	}
	size := shmpool.SlotClass(1024 + 64*capacity)
	if lane.Geometry(cfg.QueueSize) != (shmpool.Geometry{SlotBytes: size, Slots: 1}) {
		t.Fatalf("slot of %d bytes, the page says %d", lane.Geometry(cfg.QueueSize).SlotBytes, size)
	}
	words := make([]uint64, size/8)
	if err := lane.Init(words, cfg); err != nil {
		t.Fatal(err)
	}
	checkConstants(t, at, words, cfg, capacity)
	keeper := lane.NewKeeper(words, cfg, nil)
	send, receive, want := ends(t, at, words, cfg, capacity, pageSends)
	random := rand.New(rand.NewPCG(7, uint64(cfg.QueueSize)))
	var pushed, taken, dropped, told, droppedBytes uint64
	var queue []lane.Descriptor
	var logged lane.Drops
	look := func(d lane.Drops, ok bool) {
		if !ok {
			return
		}
		if logged.SeqLast >= d.SeqFirst || d.SeqFirst > d.SeqLast || d.OldestNS != int64(d.SeqFirst) {
			t.Fatalf("drops %+v after %+v", d, logged)
		}
		logged.Count, logged.Bytes, logged.SeqLast = logged.Count+d.Count, logged.Bytes+d.Bytes, d.SeqLast
	}
	seq := wire.Seq(0)
	for range 5000 {
		switch random.IntN(5) {
		case 0, 1:
			seq++
			d := lane.Descriptor{Seq: seq, TimeNS: int64(seq), Region: 3, Offset: 4096 * uint64(seq), Length: uint64(seq) % 7, MetaRegion: 4, MetaOffset: 9, MetaLength: 2}
			full := len(queue) == int(cfg.QueueSize)
			v := send(d)
			expected := lane.Pushed
			if full {
				expected = [...]lane.Verdict{lane.Pushed, lane.Refused, lane.Full}[cfg.Policy]
			}
			if v != expected {
				t.Fatalf("push %d with %d queued: %v, want %v", seq, len(queue), v, expected)
			}
			if v == lane.Pushed {
				if full {
					droppedBytes += queue[0].Length
					queue = queue[1:]
					dropped++
				}
				queue = append(queue, d)
				pushed++
			} else if v == lane.Refused {
				droppedBytes += d.Length
				dropped++
			}
		case 2, 3:
			if cfg.Policy == wire.PolicyBlock {
				want(1)
			}
			var d lane.Descriptor
			v, lost, ring := receive(&d)
			if len(queue) == 0 {
				if v != lane.Empty {
					t.Fatalf("pop of nothing: %v", v)
				}
				continue
			}
			if v != lane.Got || d != queue[0] {
				t.Fatalf("pop: %v %+v, want %+v", v, d, queue[0])
			}
			if lost != dropped-told {
				t.Fatalf("pop of %d: %d lost, want %d", d.Seq, lost, dropped-told)
			}
			if ring != (cfg.Policy == wire.PolicyBlock) {
				t.Fatalf("pop with %d queued: ring %v", len(queue), ring)
			}
			queue = queue[1:]
			taken++
			told += lost
		default:
			d, ok, err := keeper.Drops()
			if err != nil {
				t.Fatal(err)
			}
			look(d, ok)
		}
	}
	if err := keeper.Close(); err != nil {
		t.Fatal(err)
	}
	if v := send(lane.Descriptor{Seq: seq + 1}); v != lane.Closed {
		t.Errorf("push to a closed lane: %v", v)
	}
	var d lane.Descriptor
	for range queue {
		v, lost, _ := receive(&d)
		if v != lane.Got {
			t.Fatalf("closed lane: %v", v)
		}
		told += lost
		taken++
	}
	v, lost, _ := receive(&d)
	told += lost
	look(keeper.Remainder())
	if logged.Count != dropped || logged.Bytes != droppedBytes {
		t.Errorf("logged %+v; dropped %d with %d bytes", logged, dropped, droppedBytes)
	}
	c, err := keeper.Counters()
	if v != lane.Ended || err != nil || c.Pushed != pushed || c.Taken != taken || c.Evicted+c.Refused != dropped || told != dropped {
		t.Errorf("%v, %+v, %v; pushed %d, taken %d, dropped %d, told %d", v, c, err, pushed, taken, dropped, told)
	}
}

func ends(t *testing.T, at map[string]int, words []uint64, cfg lane.Config, capacity uint64, pageSends bool) (anySender, anyReceiver, func(room int)) {
	if pageSends {
		s := &pageSender{at: at, words: words, capacity: capacity, limit: cfg.QueueSize, policy: cfg.Policy, ring: make([]lane.Descriptor, capacity)}
		c, err := lane.NewConsumer(words, cfg)
		if err != nil {
			t.Fatal(err)
		}
		want := func(room int) { // 17.5.3, step 1
			words[at["WANTED"]] = 1 + uint64(uint32(s.t)-cfg.QueueSize+uint32(room))
		}
		return s.push, c.Pop, want
	}
	p, err := lane.NewProducer(words, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &pageReceiver{at: at, words: words, capacity: capacity, limit: cfg.QueueSize}
	send := func(d lane.Descriptor) lane.Verdict {
		v, _, _ := p.Push(&d, uint64(d.Seq))
		return v
	}
	return send, r.pop, p.Want
}

func checkConstants(t *testing.T, at map[string]int, words []uint64, cfg lane.Config, capacity uint64) {
	t.Helper()
	if words[0] != 0x3130454E414C5242 {
		t.Errorf("magic %#x", words[0])
	}
	for name, want := range map[string]uint64{"C": capacity, "queue_size": uint64(cfg.QueueSize),
		"policy": uint64(cfg.Policy), "lane id": uint64(cfg.Lane), "WINDOW": 1, "TAIL": 0, "HEAD": 0} {
		if got := words[at[name]]; got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
}
