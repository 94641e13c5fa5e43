package node

import (
	"time"

	"github.com/brokerd/brokerd/wire"
)

const (
	// keptPause is the time between two words to the broker about what this node
	// keeps, unless it has evacuated something: then both are said.
	keptPause = time.Second
	// stuckPause is the time between two lines in the log about messages that cannot
	// be evacuated.
	stuckPause = 10 * time.Second
)

// reports are what the broker has not been told of evacuated messages.
type reports struct {
	all  []*evacuated
	kept wire.Kept // as the broker of this session knows it
	told time.Time
}

// evacuated are some messages of one input and path. Tokens are worth something in
// their session only.
type evacuated struct {
	input   string
	session *session // of the tokens; nil: they came on a lane
	tokens  []wire.Token
	region  wire.RegionID // of the oldest, as seq
	seq     wire.Seq
	bytes   uint64
	count   uint64
	held    int64 // nanoseconds, of the oldest
}

// of returns the report that a message belongs to.
func (p *reports) of(in *input, s *session, lane bool) *evacuated {
	if lane {
		s = nil
	}
	for _, x := range p.all {
		if x.input == in.info.ID && x.session == s && len(x.tokens) < wire.TokensMax && x.count < wire.EvacuatedMax {
			return x
		}
	}
	x := &evacuated{input: in.info.ID, session: s}
	p.all = append(p.all, x)
	return x
}

func (x *evacuated) add(region wire.RegionID, seq wire.Seq, bytes uint64, held int64, token wire.Token) {
	if x.count == 0 || held > x.held {
		x.region, x.seq, x.held = region, seq, held
	}
	x.count++
	x.bytes += bytes
	if token != 0 {
		x.tokens = append(x.tokens, token)
	}
}

// report tells the broker what is new, with r.mu held, and returns when there is
// more to tell. What it cannot be told now waits for the next session, but for
// tokens: those of a lost connection are given back with the estate.
func (r *receiver) report(now time.Time) time.Duration {
	v, s := &r.evac, r.session
	if s == nil || !s.evacuates {
		return never
	}
	p := &v.reports
	kept := wire.Kept{Messages: v.moved, Bytes: r.n.privateBytes.Load() + v.heap, Stuck: v.stuck, Text: v.why[:min(len(v.why), wire.TextBytesMax)]}
	wait := never
	if kept != p.kept {
		wait = max(0, keptPause-now.Sub(p.told))
		if wait == 0 || len(p.all) > 0 {
			s.link.send(&kept)
			p.kept, p.told, wait = kept, now, never
		}
	}
	left := p.all[:0]
	for _, x := range p.all {
		if x.session == nil && !s.lanes {
			left = append(left, x)
		} else if x.session == nil || x.session == s {
			r.sendEvacuated(s, x)
		}
	}
	clear(p.all[len(left):])
	p.all = left
	return wait
}

func (r *receiver) sendEvacuated(s *session, x *evacuated) {
	m := &wire.Evacuated{
		Tokens: x.tokens, Region: x.region, Seq: x.seq, Bytes: x.bytes,
		HeldMS: uint64(time.Duration(x.held) / time.Millisecond), Count: uint32(x.count),
	}
	known := false
	for i, in := range s.recv.inputs {
		if in.info.ID == x.input { // the last of them is the newest
			m.Input, known = wire.InputIndex(i), true
		}
	}
	if known { // else it was removed from the dataflow while there was no broker
		s.link.send(m)
	}
}

// stuckLine returns what the log is to be told of messages that cannot be
// evacuated, if it is time for that. r.mu is held, and the log is told without it.
func (r *receiver) stuckLine() func() {
	v := &r.evac
	if v.stuck == 0 || time.Since(v.toldLog) < stuckPause {
		return nil
	}
	v.toldLog = time.Now()
	stuck, why, moved, bytes, most := v.stuck, v.why, v.moved, r.n.privateBytes.Load()+v.heap, v.max
	return func() {
		r.n.log.Warn("messages are held for too long and cannot be evacuated", "messages", stuck, "error", why,
			"kept_messages", moved, "kept_bytes", bytes, "held_max", most)
	}
}
