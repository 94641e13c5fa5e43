package node

// errorsPendingMax bounds the EventErrors that wait in the queue. More are left to
// the log.
const errorsPendingMax = 64

// pendingEvents knows which events other than messages wait in a receiver's
// queue, so that one which says the same takes the place of the first: a broker
// that repeats itself must not fill the memory of a node whose user is busy.
// Guarded by the receiver's mutex.
type pendingEvents struct {
	stop   *Event
	closed map[string]*Event // by input; no message of the input is behind it
	errors int
}

// post queues an event other than a message.
func (r *receiver) post(ev Event) {
	r.mu.Lock()
	defer r.unlockLook()
	if r.closed != nil {
		return
	}
	p := &r.pending
	switch ev.Kind {
	case EventStop:
		if p.stop != nil {
			p.stop.Reason = ev.Reason
			return
		}
		p.stop = &ev
	case EventInputClosed:
		if earlier := p.closed[ev.Input]; earlier != nil {
			earlier.Reason = ev.Reason
			return
		}
		if p.closed == nil {
			p.closed = make(map[string]*Event)
		}
		p.closed[ev.Input] = &ev
	case EventError:
		if p.errors >= errorsPendingMax {
			return
		}
		p.errors++
	}
	r.queue.push().event = &ev
}

// behind notes that a message of an input is queued: if the input is closed
// again, that is news.
func (p *pendingEvents) behind(in *input) {
	if len(p.closed) > 0 {
		delete(p.closed, in.info.ID)
	}
}

// taken notes that ev has left the queue.
func (p *pendingEvents) taken(ev *Event) {
	switch {
	case ev.Kind == EventError:
		p.errors--
	case p.stop == ev:
		p.stop = nil
	case ev.Kind == EventInputClosed && p.closed[ev.Input] == ev:
		delete(p.closed, ev.Input)
	}
}

// postReconnected queues EventReconnected, with r.mu held, when no message is in
// the queue. It stands for an earlier one, too, and one EventInputClosed of each
// input stays before it: a connection that is lost again and again does not fill
// the queue.
func (r *receiver) postReconnected(reason string) {
	seen := make(map[string]bool)
	for range r.queue.len() {
		q := r.queue.pop()
		switch ev := q.event; {
		case ev == nil: // a lane starts
		case ev.Kind == EventReconnected, ev.Kind == EventInputClosed && seen[ev.Input]:
			continue
		case ev.Kind == EventInputClosed:
			seen[ev.Input] = true
		}
		*r.queue.push() = q
	}
	r.queue.push().event = &Event{Kind: EventReconnected, Reason: reason}
	clear(r.pending.closed) // one that comes now is about the new connection
}
