package node

import (
	"time"

	"github.com/brokerd/brokerd/wire"
)

const (
	// doneDelayMax: a token is given back after so long at the latest, also if
	// the user does not ask for messages, so that an idle input pins no memory.
	doneDelayMax = 3 * time.Millisecond
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
	if !v.doneArmed {
		v.doneArmed = true
		if v.doneTimer == nil {
			v.doneTimer = time.AfterFunc(doneDelayMax, func() { r.flushDone(s) })
		} else {
			v.doneTimer.Reset(doneDelayMax)
		}
	}
	return appendDone
}

func (r *receiver) sendDone(s *session) appended {
	verdict := s.link.append(&wire.Done{Tokens: s.recv.done}, time.Now(), false)
	s.recv.done = s.recv.done[:0]
	return verdict
}

// flushDone is the timer's function.
func (r *receiver) flushDone(s *session) {
	r.mu.Lock()
	v, verdict := &s.recv, appendDone
	v.doneArmed = false
	if !v.over && len(v.done) > 0 {
		verdict = r.sendDone(s)
	}
	r.mu.Unlock()
	if verdict == appendWrite {
		s.link.flush()
	}
}
