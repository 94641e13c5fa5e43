package node

import (
	"fmt"

	"github.com/brokerd/brokerd/wire"
)

// recordList is the table of held messages, oldest first.
type recordList struct {
	first, last *record
	count       int
	bytes       int
}

func (l *recordList) insert(rec *record) {
	rec.prev = l.last
	if l.last != nil {
		l.last.next = rec
	} else {
		l.first = rec
	}
	l.last = rec
	l.count++
	l.bytes += len(rec.payload)
}

func (l *recordList) remove(rec *record) {
	if rec.prev != nil {
		rec.prev.next = rec.next
	} else {
		l.first = rec.next
	}
	if rec.next != nil {
		rec.next.prev = rec.prev
	} else {
		l.last = rec.prev
	}
	rec.prev, rec.next, rec.held = nil, nil, false
	l.count--
	l.bytes -= len(rec.payload)
}

// HeldMessage describes a message that the user has not released.
type HeldMessage struct {
	Input string
	Seq   wire.Seq
	Bytes int
	// Evacuated says that it is in memory of this process, and costs its sender
	// nothing any more.
	Evacuated bool
}

// Held lists the messages that were received and not released, oldest first.
func (n *Node) Held() []HeldMessage {
	r := &n.receiver
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []HeldMessage
	for rec := r.held.first; rec != nil; rec = rec.next {
		all = append(all, HeldMessage{Input: rec.input.info.ID, Seq: rec.seq, Bytes: len(rec.payload), Evacuated: rec.watched.moved})
	}
	return all
}

func (h HeldMessage) String() string {
	text := fmt.Sprintf("%s seq %d (%d bytes)", h.Input, h.Seq, h.Bytes)
	if h.Evacuated {
		text += ", evacuated"
	}
	return text
}
