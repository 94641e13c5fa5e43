package actors

import (
	"container/heap"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// timer feeds one edge with ticks while its receiver is connected.
type timer struct {
	edge   *edge
	period time.Duration
	next   time.Time
	seq    wire.Seq
	place  int // in the heap; meaningful while armed
	armed  bool
}

// timerHeap orders the armed timers by their next tick.
type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].next.Before(h[j].next) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}
func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.place = len(*h)
	*h = append(*h, t)
}
func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}

func (h *timerHeap) arm(t *timer, now time.Time) {
	if t.armed {
		return
	}
	t.armed, t.next = true, now.Add(t.period)
	heap.Push(h, t)
}

func (h *timerHeap) disarm(t *timer) {
	if t.armed {
		heap.Remove(h, t.place)
		t.armed = false
	}
}

// advance moves a timer that has just ticked to its next tick. It stays on the
// grid of its period; ticks that the broker was too late for are left out.
func (h *timerHeap) advance(t *timer, now time.Time) {
	t.next = t.next.Add(t.period)
	if late := now.Sub(t.next); late >= 0 {
		t.next = t.next.Add(late - late%t.period + t.period)
	}
	heap.Fix(h, t.place)
}

// tickTimers publishes a message with an empty payload for every timer that is
// due.
func (c *core) tickTimers(now time.Time) {
	for len(c.timers) > 0 && !c.timers[0].next.After(now) {
		t := c.timers[0]
		t.seq++
		m := c.stock.message()
		m.refs, m.seq, m.timeNS = 1, t.seq, t.next.UnixNano()
		t.edge.stats.published++
		c.enqueue(now, t.edge, m)
		c.unref(m)
		c.timers.advance(t, now)
	}
}
