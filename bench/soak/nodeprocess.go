//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/brokerd/brokerd/bench/soak/books"
	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/wire"
)

// nodeCommand is the first argument of a process that is a node; the second is a
// nodeOrder.
const nodeCommand = "node"

// nodeOrder is what a node process needs to know.
type nodeOrder struct {
	Node string
	Life uint32
	Dir  string // of the books
	Seed uint64
}

// order is one line to a node process.
type order struct {
	Do string // halt: send no more; release: hold nothing; report; close
}

// answer is one line from a node process.
type answer struct {
	Done    string      `json:",omitempty"` // an order
	Fault   string      `json:",omitempty"` // something that must never be
	Stats   *node.Stats `json:",omitempty"` // answers report
	Reports int         `json:",omitempty"` // hoarded messages that were looked at again
}

// connectPatience is how long a node waits for a broker.
const connectPatience = 2 * time.Minute

// nodeProcess is one life of a node.
type nodeProcess struct {
	nodeOrder
	spec *nodeSpec
	n    *node.Node

	out     sync.Mutex // guards answers
	answers *json.Encoder

	diaryMu sync.Mutex // guards what follows
	diary   *books.Diary
	session uint64
	broker  uint64

	sends   sync.WaitGroup
	halt    context.Context
	stop    context.CancelFunc
	senders []*sender
	receiver
}

// serveNode is the main function of a node process.
func serveNode(text string, in io.Reader, out, errOut io.Writer) error {
	p := &nodeProcess{answers: json.NewEncoder(out)}
	if err := json.Unmarshal([]byte(text), &p.nodeOrder); err != nil {
		return err
	}
	var err error
	if p.spec, err = specOf(p.Node); err != nil {
		return err
	}
	if p.diary, err = books.OpenDiary(p.Dir, p.Node, p.Life); err != nil {
		return err
	}
	if err := p.openInputs(); err != nil {
		return err
	}
	if p.n, err = p.connect(errOut); err != nil {
		return err
	}
	p.halt, p.stop = context.WithCancel(context.Background())
	for i := range p.spec.outputs {
		s, err := p.newSender(i)
		if err != nil {
			return err
		}
		p.senders = append(p.senders, s)
	}
	for _, s := range p.senders {
		p.sends.Go(func() { s.run(p.halt) })
	}
	if p.spec.role == roleHoarder || p.spec.role == roleFrozen {
		go p.watchKept(p.halt)
	}
	received := make(chan struct{})
	go func() {
		defer close(received)
		p.receive()
	}()
	err = p.obey(in)
	p.stop()
	p.sends.Wait()
	err = errors.Join(err, p.n.Close())
	<-received
	p.letGo(time.Time{}, true)
	p.say(answer{Done: "close"})
	return err
}

// connect joins the dataflow. The broker may not know yet that the life before
// this one has ended.
func (p *nodeProcess) connect(errOut io.Writer) (*node.Node, error) {
	cfg, err := node.ConfigFromEnv()
	if err != nil {
		return nil, err
	}
	cfg.BackoffMax = 200 * time.Millisecond
	cfg.Logger = slog.New(&ear{p: p, Handler: slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: slog.LevelWarn})})
	ctx, cancel := context.WithTimeout(context.Background(), connectPatience)
	defer cancel()
	for {
		n, err := node.Connect(ctx, cfg)
		if err == nil || ctx.Err() != nil {
			return n, err
		}
		if !errors.Is(err, wire.ErrDuplicateNode) && !errors.Is(err, wire.ErrTooManyConnections) && !errors.Is(err, wire.ErrShuttingDown) {
			return nil, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ear hears from the library's log which session of which broker the node has.
type ear struct {
	slog.Handler
	p *nodeProcess
}

func (e *ear) Enabled(context.Context, slog.Level) bool { return true }

func (e *ear) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "connected to the broker" {
		entry := books.Entry{Kind: books.EntrySession, Time: time.Now()}
		r.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "session":
				entry.Session = a.Value.Uint64()
			case "instance":
				entry.Broker = books.BrokerHash(a.Value.String())
			}
			return true
		})
		e.p.diaryMu.Lock()
		e.p.session, e.p.broker = entry.Session, entry.Broker
		e.p.diary.Write(entry)
		e.p.diaryMu.Unlock()
	}
	if !e.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return e.Handler.Handle(ctx, r)
}

func (e *ear) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &ear{e.Handler.WithAttrs(attrs), e.p}
}

func (e *ear) WithGroup(name string) slog.Handler { return &ear{e.Handler.WithGroup(name), e.p} }

// note writes to the diary, with the session that the node has now.
func (p *nodeProcess) note(e books.Entry) {
	p.diaryMu.Lock()
	defer p.diaryMu.Unlock()
	e.Time = time.Now()
	if e.Kind == books.EntryInput || e.Kind == books.EntryOutput {
		e.Session, e.Broker = p.session, p.broker
	}
	p.diary.Write(e)
}

func (p *nodeProcess) say(a answer) {
	p.out.Lock()
	defer p.out.Unlock()
	_ = p.answers.Encode(a) // nobody listens any more: the end of the orders will follow
}

func (p *nodeProcess) fault(format string, args ...any) {
	p.say(answer{Fault: fmt.Sprintf(format, args...)})
}

// obey follows orders until the last one.
func (p *nodeProcess) obey(in io.Reader) error {
	orders := json.NewDecoder(bufio.NewReader(in))
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			os.Exit(0) // whoever gave orders is gone
		}
		a := answer{Done: o.Do}
		switch o.Do {
		case "halt":
			p.stop()
			p.sends.Wait()
		case "release":
			p.holdNothing()
		case "report":
			stats := p.n.Stats()
			a.Stats, a.Reports = &stats, int(p.rechecks.Load())
		case "close":
			return nil
		default:
			return fmt.Errorf("unknown order %q", o.Do)
		}
		p.say(a)
	}
}

// sender sends on one output.
type sender struct {
	p      *nodeProcess
	place  int
	spec   outputSpec
	output *node.Output
	stamps *stamper
	book   *books.Sent
	random *rand.Rand
	buffer []byte
	number uint64
	ticked time.Time
}

func (p *nodeProcess) newSender(place int) (*sender, error) {
	spec := p.spec.outputs[place]
	output, err := p.n.Output(spec.id)
	if err != nil {
		return nil, err
	}
	book, err := books.OpenSent(p.Dir, p.Node, spec.id, p.Life)
	if err != nil {
		return nil, err
	}
	return &sender{
		p: p, place: place, spec: spec, output: output, book: book,
		stamps: newStamper(p.Life, p.Node+"/"+spec.id, spec.max),
		random: rand.New(rand.NewPCG(p.Seed, uint64(place))),
		buffer: make([]byte, spec.max),
	}, nil
}
