package actors

import (
	"errors"
	"sync"

	"github.com/brokerd/brokerd/wire"
)

// ownedBytesMin is the body length from which a message gets memory of its own,
// which the router then keeps instead of copying it again.
const ownedBytesMin = 32 << 10

// Batch carries the messages that one read of a socket brought, in order, from
// the session to the router. It owns all memory behind them. Batches are pooled:
// decoding and handing over allocates nothing in steady state.
type Batch struct {
	messages []NodeMessage
	arena    []byte       // metadata and payload of small messages
	tokens   []wire.Token // of Next and Done
}

var batches = sync.Pool{New: func() any { return new(Batch) }}

// NewBatch returns an empty batch. Whoever holds it last calls Free.
func NewBatch() *Batch { return batches.Get().(*Batch) }

// Len is the number of messages.
func (b *Batch) Len() int { return len(b.messages) }

// Add decodes one body and copies what it needs of it: body may be reused at
// once. Messages of optional kinds that this version does not know are left out
// without an error. Any error is d's, and leaves the batch as it was.
func (b *Batch) Add(body []byte, d *wire.Decoder) error {
	owned := len(body) >= ownedBytesMin
	if owned {
		body = append([]byte(nil), body...)
	}
	m, err := d.Decode(body)
	if errors.Is(err, wire.ErrUnknownOptional) {
		return nil
	}
	if err != nil {
		return err
	}
	b.AddMessage(m, owned)
	return nil
}

// AddMessage appends a decoded message. What it aliases is copied unless owned
// says that the batch may keep it.
func (b *Batch) AddMessage(m wire.Message, owned bool) {
	b.messages = append(b.messages, NodeMessage{Kind: m.Kind(), Owned: owned})
	nm := &b.messages[len(b.messages)-1]
	switch m := m.(type) {
	case *wire.Publish:
		nm.Publish = *m
		if !owned {
			nm.Publish.Metadata = b.keep(m.Metadata)
			nm.Publish.Payload = b.keep(m.Payload)
		}
	case *wire.Next:
		nm.Next = *m
		nm.Next.Done = b.keepTokens(m.Done)
	case *wire.Done:
		nm.Done.Tokens = b.keepTokens(m.Tokens)
	default:
		nm.Other = m
	}
}

// keep copies p. When the arena has to grow, slices of the old one stay valid.
func (b *Batch) keep(p []byte) []byte {
	if len(p) == 0 {
		return nil
	}
	start := len(b.arena)
	b.arena = append(b.arena, p...)
	return b.arena[start:len(b.arena):len(b.arena)]
}

func (b *Batch) keepTokens(tokens []wire.Token) []wire.Token {
	if len(tokens) == 0 {
		return nil
	}
	start := len(b.tokens)
	b.tokens = append(b.tokens, tokens...)
	return b.tokens[start:len(b.tokens):len(b.tokens)]
}

// What a pooled batch may keep, so that one flood does not pin memory for ever.
const (
	batchMessagesKept = 2048
	batchArenaKept    = 256 << 10
)

// Free gives the batch back. Nothing of it may be used afterwards.
func (b *Batch) Free() {
	if b == nil {
		return
	}
	clear(b.messages)
	b.messages, b.arena, b.tokens = b.messages[:0], b.arena[:0], b.tokens[:0]
	if cap(b.messages) <= batchMessagesKept && cap(b.arena) <= batchArenaKept && cap(b.tokens) <= batchArenaKept/8 {
		batches.Put(b)
	}
}
