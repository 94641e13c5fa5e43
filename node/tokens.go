package node

import (
	"time"

	"github.com/brokerd/brokerd/wire"
)

const (
	// tellDelayMax: after so long at the latest a token is given back, also if the
	// user does not ask for messages, so that an idle input pins no memory; and the
	// broker knows what the user has got.
	tellDelayMax = 3 * time.Millisecond
	// doneTokensMax are given back at once, without waiting for the timer.
	doneTokensMax = 1024
)

// giveBack notes a token for the broker, with r.mu held. The caller flushes the
// link if the verdict says so.
func (r *receiver) giveBack(s *session, token wire.Token) appended {
	v := &s.recv
	if v.over {
		return appendDown
	}
	v.done = append(v.done, token)
	if len(v.done) >= doneTokensMax {
		return r.sendDone(s)
	}
	r.tellSoon(s)
	return appendDone
}

// tellSoon has the broker told what there is to tell, also if the user does not
// come back soon, with r.mu held.
func (r *receiver) tellSoon(s *session) {
	v := &s.recv
	if v.tellArmed || v.over {
		return
	}
	v.tellArmed = true
	if v.tellTimer == nil {
		v.tellTimer = time.AfterFunc(tellDelayMax, func() { r.tell(s) })
	} else {
		v.tellTimer.Reset(tellDelayMax)
	}
}

func (r *receiver) sendDone(s *session) appended {
	verdict := s.link.append(&wire.Done{Tokens: s.recv.done}, time.Now(), false)
	s.recv.done = s.recv.done[:0]
	return verdict
}

// tell is the timer's function.
func (r *receiver) tell(s *session) {
	r.mu.Lock()
	v, verdict := &s.recv, appendDone
	v.tellArmed = false
	switch {
	case v.over:
	case v.consumed != v.reported:
		// A user who works on a message for long has it, also if the connection breaks
		// meanwhile. He asks for no other: what has been asked for and has not come
		// stays with the broker if he has had all that came.
		limit := v.limit
		if v.consumed == v.delivered {
			limit = v.delivered
		}
		verdict = r.tellConsumed(s, limit)
	case len(v.done) > 0:
		verdict = r.sendDone(s)
	}
	r.mu.Unlock()
	if verdict == appendWrite {
		s.link.flush()
	}
}
