//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/bench/soak/books"
	"github.com/brokerd/brokerd/node"
)

const (
	// The hoarder holds so many messages and bytes, each for up to hoardMax: many times
	// the hold timeout.
	hoardMessages = 64
	hoardBytes    = 48 * mib
	hoardMax      = 15 * time.Second
	// recheckInterval is how often it reads all of them again.
	recheckInterval = 500 * time.Millisecond
	// frozenMessages is what the node that is stopped holds at any time.
	frozenMessages = 4
	// slowPause is how long the slow node takes for a message.
	slowPause = 15 * time.Millisecond
)

// receiver is the receiving half of a node process.
type receiver struct {
	inputs   []*inputBooks
	random   *rand.Rand
	onLanes  uint64 // messages that came on lanes so far
	rechecks atomic.Int64

	keptMu    sync.Mutex // guards what follows
	kept      []keptMessage
	keptBytes int
	frugal    bool // nothing is held any more
}

// keptMessage is one that is held on purpose.
type keptMessage struct {
	message node.Message
	input   *inputBooks
	until   time.Time
}

// inputBooks is what is known of one input.
type inputBooks struct {
	spec   inputSpec
	place  int
	output uint32 // hash of the source
	life   uint32 // of the sender, 0: nothing has come
	book   *books.Taken
	last   uint64 // number, in this process and connection; 0: none
	ticked time.Time
}

// openInputs goes on with the books of the lives before, and enters where they
// ended.
func (p *nodeProcess) openInputs() error {
	p.random = rand.New(rand.NewPCG(p.Seed, 1<<32))
	for i, spec := range p.spec.inputs {
		in := &inputBooks{spec: spec, place: i, output: outputHash(spec.source)}
		p.inputs = append(p.inputs, in)
		lives, err := books.TakenLives(p.Dir, p.Node, spec.id)
		if err != nil {
			return err
		}
		for _, life := range slices.Backward(lives) {
			if err := in.open(p, life); err != nil {
				return err
			}
			if in.book.Last() > 0 { // else the life before died before it entered anything
				break
			}
		}
		p.noteInput(in)
	}
	return nil
}

// open goes on to the book of another life of the sender.
func (in *inputBooks) open(p *nodeProcess, life uint32) error {
	if in.book != nil {
		if err := in.book.Close(); err != nil {
			return err
		}
	}
	var err error
	in.life, in.last = life, 0
	in.book, err = books.OpenTaken(p.Dir, p.Node, in.spec.id, life)
	return err
}

// noteInput enters that there is a new process or connection.
func (p *nodeProcess) noteInput(in *inputBooks) {
	e := books.Entry{Kind: books.EntryInput, Port: uint8(in.place), Life: in.life}
	if in.book != nil {
		e.Number = in.book.Last()
	}
	p.note(e)
	in.last = 0
}

// receive is the event loop.
func (p *nodeProcess) receive() {
	for ev := range p.n.Events(context.Background()) {
		switch ev.Kind {
		case node.EventInput:
			p.take(ev)
		case node.EventReconnected:
			for _, in := range p.inputs {
				p.noteInput(in)
			}
			for _, s := range p.senders {
				p.note(books.Entry{Kind: books.EntryOutput, Port: uint8(s.place), Life: p.Life, Number: s.book.Begun()})
			}
		case node.EventError:
			// A region that its broker had removed, renamed or replaced before a node that
			// was stopped could map it is no fault: what is lost with it is in the log.
			if !errors.Is(ev.Err, fs.ErrNotExist) {
				p.fault("event: %v", ev.Err)
			}
		}
	}
}

// take checks one message and enters it.
func (p *nodeProcess) take(ev node.Event) {
	m := ev.Message
	in := p.inputs[p.spec.input(ev.Input)]
	number, payload := uint64(m.Seq()), m.Payload()
	stats := p.n.Stats()
	onLane := stats.LaneReceived != p.onLanes
	p.onLanes = stats.LaneReceived
	life, err := verify(payload, in.output, number)
	if err == nil && life != in.life {
		err = p.nextLife(in, life)
	}
	if err != nil {
		p.fault("%s: %v", ev.Input, err)
		m.Release()
		return
	}
	if err := in.book.Enter(number, len(payload), onLane); err != nil {
		p.fault("%s: life %d: %v", ev.Input, life, err)
	}
	// What the message says was lost is what is missing before it. With drop-newest
	// the message before a gap may tell, and of one that this node itself could not
	// read a later one tells.
	if missing := number - in.last - 1; in.last > 0 && m.Dropped() != missing && in.spec.policy != "drop-newest" && stats.Rejected == 0 {
		p.fault("%s: message %d of life %d says that %d are lost before it, and it comes behind message %d", ev.Input, number, life, m.Dropped(), in.last)
	}
	in.last = number
	if value, there := m.Metadata().Lookup("number"); there && value.Int() != int64(number) {
		p.fault("%s: message %d of life %d has the metadata of message %d", ev.Input, number, life, value.Int())
	}
	if now := time.Now(); now.Sub(in.ticked) >= tickInterval {
		in.ticked = now
		p.note(books.Entry{Kind: books.EntryTaken, Port: uint8(in.place), Life: life, Number: number})
	}
	p.keep(in, m, len(payload))
}

// nextLife goes on to another process of the sender.
func (p *nodeProcess) nextLife(in *inputBooks, life uint32) error {
	if life < in.life {
		return fmt.Errorf("a message of life %d behind one of life %d", life, in.life)
	}
	return in.open(p, life)
}

// keep does with a message what the node's role is.
func (p *nodeProcess) keep(in *inputBooks, m node.Message, bytes int) {
	now := time.Now()
	p.keptMu.Lock()
	frugal := p.frugal
	if !frugal && (p.spec.role == roleHoarder || p.spec.role == roleFrozen) {
		until := now.Add(time.Duration(p.random.Int64N(int64(hoardMax))))
		p.kept = append(p.kept, keptMessage{m, in, until})
		p.keptBytes += bytes
	} else {
		m.Release()
	}
	p.keptMu.Unlock()
	if p.spec.role == roleSlow && !frugal {
		time.Sleep(slowPause)
	}
	p.letGo(now, false)
}

// letGo releases the messages whose time is over, or which are too many, or all. It
// looks at each of them once more.
func (p *nodeProcess) letGo(now time.Time, all bool) {
	p.keptMu.Lock()
	defer p.keptMu.Unlock()
	kept := p.kept[:0]
	most, bytesMost := hoardMessages, hoardBytes
	if p.spec.role == roleFrozen {
		most = frozenMessages
	}
	for i, k := range p.kept {
		over := len(p.kept)-i+len(kept) > most || p.keptBytes > bytesMost
		if !all && !over && (p.spec.role == roleFrozen || now.Before(k.until)) {
			kept = append(kept, k)
			continue
		}
		p.recheck(k)
		p.keptBytes -= len(k.message.Payload())
		k.message.Release()
	}
	clear(p.kept[len(kept):])
	p.kept = kept
}

// recheck reads a message that is held.
func (p *nodeProcess) recheck(k keptMessage) {
	p.rechecks.Add(1)
	if _, err := verify(k.message.Payload(), k.input.output, uint64(k.message.Seq())); err != nil {
		p.fault("%s: held: %v", k.input.spec.id, err)
	}
}

// watchKept reads all that is held again and again.
func (p *nodeProcess) watchKept(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(recheckInterval):
		}
		p.keptMu.Lock()
		for _, k := range p.kept {
			p.recheck(k)
		}
		p.keptMu.Unlock()
		p.letGo(time.Now(), false)
	}
}

// holdNothing releases all, and from now on each message at once.
func (p *nodeProcess) holdNothing() {
	p.keptMu.Lock()
	p.frugal = true
	p.keptMu.Unlock()
	p.letGo(time.Time{}, true)
}
