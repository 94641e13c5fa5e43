//go:build linux

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/wire"
)

// programEnv makes the test binary a node; its value is a program.
const programEnv = "TEST_AS_NODE"

// program says what a node process does by itself. The rest it is told to.
type program struct {
	Receive  bool          // get events from the start
	Sleep    time.Duration // after each message
	Keep     int           // messages that are held at a time; the oldest goes first
	KeepAll  bool          // none is ever released, unless told to
	Watch    int           // goroutines that read all that is held, over and over
	Takeover bool
	Misuse   string // of the first message that comes, see misuse
	// Auto is a send order that it follows by itself, once so many of the output's
	// edges are on lanes.
	Auto      *order
	AutoLanes int
}

// order is one line to a node process. Do says which of the others matter.
type order struct {
	ID     int
	Do     string // send, halt, await, report, mark, deafen, recheck, release, misuse, close_output, cut, trap, open, close
	Output string // send, await, close_output
	Count  uint64 // send: 0 is until halt; await: receivers

	Sizes []int         // send: bytes of the payloads, in turn
	Every time.Duration // send: pace; 0: as fast as it goes
	Loan  bool          // send: in place, without a copy

	Misuse string  // misuse: of a loan of Sizes[0] bytes
	How    trapEnd // open
}

// answer is one line from a node process.
type answer struct {
	ID     int     `json:",omitempty"` // of the order; 0: unasked
	Ready  bool    `json:",omitempty"` // unasked: it is connected
	Local  bool    `json:",omitempty"` // with Ready
	Fault  string  `json:",omitempty"` // unasked: something that must never be
	Error  string  `json:",omitempty"` // what the order ended with
	Code   string  `json:",omitempty"` // of Error, if the broker said so
	Sent   *sent   `json:",omitempty"` // answers send
	Report *report `json:",omitempty"` // answers report
}

// sent is the account of one send order.
type sent struct {
	Life         uint64
	First, Last  uint64            // sequence numbers, failed ones included
	Sent         uint64            // messages published
	NoMemory     uint64            // messages that got ErrNoMemory
	NoMemoryText string            // of the last
	MaxGap       time.Duration     // longest time between two that went out
	Elapsed      time.Duration     // from the first to the last
	Others       map[string]uint64 // other errors, by text
}

// received is the account of one input and one life of its sender.
type received struct {
	Life        uint64
	Count       uint64
	Bytes       uint64
	Spans       [][2]uint64 // sequence numbers, first and last of each run
	Dropped     uint64      // sum of what the messages said
	Unexplained uint64      // gaps that the messages did not announce, since the last connect
}

// inputReport is the account of one input.
type inputReport struct {
	Lives  []*received
	MaxGap time.Duration // longest time without a message since mark
	P50    time.Duration // age of the messages since mark, a few per cent too much
	P99    time.Duration
	Closed string // reason; empty: open
	Fresh  bool   // nothing received since the last (re)connect
}

// report is what a node process has seen and done.
type report struct {
	Inputs     map[string]*inputReport
	Stats      node.Stats
	Kept       int      // messages held on purpose
	Watched    int      // times that all of these were read by watchers
	Notes      []string // events other than messages
	Reconnects int
	Sending    map[string]sent // by output, while it goes on
}

// nodeProcess is the state of a node process.
type nodeProcess struct {
	program program
	n       *node.Node
	out     sync.Mutex // guards answers
	answers *json.Encoder

	sends sync.WaitGroup
	halt  context.Context
	stop  context.CancelFunc
	life  uint64
	ears  context.Context // ends with the order to take no more messages
	shut  context.CancelFunc
	deaf  chan struct{} // closed when none is taken any more
	trap  atomic.Pointer[trap]
	ticks map[string]bool // inputs that a timer feeds

	mu      sync.Mutex // guards what follows
	report  report
	last    map[string]time.Time // by input: of the last message
	ages    map[string]*ages     // by input: since mark
	kept    []keptMessage
	numbers map[string]uint64 // by output: the last sequence number
	sending map[string]*sent

	// watching is held while kept messages are read, or released.
	watching sync.RWMutex
}

type keptMessage struct {
	message node.Message
	input   string
}

// runProgram is the main function of a node process.
func runProgram(text string) int {
	p := &nodeProcess{
		answers: json.NewEncoder(os.Stdout), life: rand.Uint64(),
		report: report{Inputs: map[string]*inputReport{}}, last: map[string]time.Time{}, ages: map[string]*ages{},
		numbers: map[string]uint64{}, sending: map[string]*sent{},
	}
	if err := json.Unmarshal([]byte(text), &p.program); err != nil {
		p.say(answer{Fault: err.Error()})
		return 2
	}
	cfg, err := node.ConfigFromEnv()
	if err != nil {
		p.say(answer{Fault: err.Error()})
		return 2
	}
	cfg.Takeover = p.program.Takeover
	cfg.BackoffMax = 100 * time.Millisecond
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p.n, err = node.Connect(ctx, cfg)
	cancel()
	if err != nil {
		p.say(failed(0, err))
		return 3
	}
	p.ticks = map[string]bool{}
	for _, in := range p.n.Inputs() {
		p.ticks[in.ID] = strings.HasPrefix(in.Source, "timer/")
	}
	p.leaveOnTerm()
	p.renewHalt()
	p.ears, p.shut = context.WithCancel(context.Background())
	p.deaf = make(chan struct{})
	if p.program.Receive {
		go p.receive()
	}
	for range p.program.Watch {
		go p.watch()
	}
	p.say(answer{Ready: true, Local: p.n.Local()})
	if o := p.program.Auto; o != nil {
		p.sends.Go(func() { p.say(p.sendAlone(p.halt, *o)) })
	}
	orders := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			return 0 // whoever gave orders is gone
		}
		if o.Do == "close" {
			p.stop()
			p.sends.Wait()
			err := p.n.Close()
			p.say(failed(o.ID, err))
			return 0
		}
		p.obey(o)
	}
}

func (p *nodeProcess) renewHalt() { p.halt, p.stop = context.WithCancel(context.Background()) }

func (p *nodeProcess) say(a answer) {
	p.out.Lock()
	defer p.out.Unlock()
	_ = p.answers.Encode(a) // nobody listens any more: the end of the orders will follow
}

// failed is the answer to an order that ended with err, which may be nil.
func failed(id int, err error) answer {
	a := answer{ID: id}
	if err != nil {
		a.Error = err.Error()
		var refusal *wire.Error
		if errors.As(err, &refusal) {
			a.Code = refusal.Code.String()
		}
	}
	return a
}

// obey follows one order. What takes time answers later.
func (p *nodeProcess) obey(o order) {
	switch o.Do {
	case "send":
		ctx := p.halt
		p.sends.Go(func() { p.say(p.send(ctx, o)) })
	case "halt":
		p.stop()
		p.sends.Wait()
		p.renewHalt()
		p.say(answer{ID: o.ID})
	case "await":
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			out, err := p.n.Output(o.Output)
			if err == nil {
				err = out.WaitReceivers(ctx, int(o.Count))
			}
			p.say(failed(o.ID, err))
		}()
	case "close_output":
		out, err := p.n.Output(o.Output)
		if err == nil {
			err = out.Close()
		}
		p.say(failed(o.ID, err))
	case "report":
		p.say(answer{ID: o.ID, Report: p.currentReport()})
	case "mark":
		p.mark()
		p.say(answer{ID: o.ID})
	case "deafen":
		p.shut()
		<-p.deaf
		p.say(answer{ID: o.ID})
	case "cut":
		p.say(failed(o.ID, cutConnection()))
	case "trap":
		p.setTrap(o.ID)
	case "open":
		p.openTrap(o.ID, o.How)
	case "recheck":
		p.say(failed(o.ID, p.recheck(false)))
	case "release":
		p.say(failed(o.ID, p.recheck(true)))
	case "misuse":
		out, err := p.n.Output(o.Output)
		if err == nil {
			err = misuseLoan(out, o.Sizes[0], o.Misuse)
		}
		p.say(failed(o.ID, err))
	default:
		p.say(failed(o.ID, fmt.Errorf("unknown order %q", o.Do)))
	}
}

// mark starts the measurement of gaps anew.
func (p *nodeProcess) mark() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for id, in := range p.report.Inputs {
		in.MaxGap = 0
		p.last[id], p.ages[id] = now, &ages{}
	}
}

func (p *nodeProcess) currentReport() *report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.report
	now := time.Now()
	r.Inputs = map[string]*inputReport{}
	for id, in := range p.report.Inputs {
		c := *in
		if c.Closed == "" {
			c.MaxGap = max(c.MaxGap, now.Sub(p.last[id]))
		}
		c.P50, c.P99 = p.ages[id].percentiles()
		c.Lives = nil
		for _, l := range in.Lives {
			life := *l
			life.Spans = append([][2]uint64(nil), l.Spans...)
			c.Lives = append(c.Lives, &life)
		}
		r.Inputs[id] = &c
	}
	r.Notes = append([]string(nil), p.report.Notes...)
	r.Kept = len(p.kept)
	r.Stats = p.n.Stats()
	r.Sending = map[string]sent{}
	for id, s := range p.sending {
		c := *s
		c.Others = nil
		r.Sending[id] = c
	}
	return &r
}

// sendAlone waits for lanes, and then sends.
func (p *nodeProcess) sendAlone(ctx context.Context, o order) answer {
	out, err := p.n.Output(o.Output)
	for err == nil && out.Lanes() < p.program.AutoLanes {
		time.Sleep(100 * time.Microsecond)
		err = ctx.Err()
	}
	if err != nil {
		return failed(0, err)
	}
	return p.send(ctx, o)
}

// send is the work of one send order.
func (p *nodeProcess) send(ctx context.Context, o order) answer {
	out, err := p.n.Output(o.Output)
	if err != nil {
		return failed(o.ID, err)
	}
	stamps := newStamper(p.life)
	p.mu.Lock()
	number := p.numbers[o.Output]
	s := &sent{Life: p.life, First: number + 1, Others: map[string]uint64{}}
	p.sending[o.Output] = s
	p.mu.Unlock()
	begun := time.Now()
	last, next := begun, begun
	var buffer []byte
	for i := uint64(0); (o.Count == 0 || i < o.Count) && ctx.Err() == nil; i++ {
		if o.Every > 0 {
			next = next.Add(o.Every)
			time.Sleep(time.Until(next))
			if late := time.Since(next); late > time.Second {
				next = next.Add(late) // it was held up: no burst to make up for it
			}
		}
		size := o.Sizes[int(i)%len(o.Sizes)]
		if buffer == nil || len(buffer) < size {
			buffer = make([]byte, size)
		}
		err := p.publish(ctx, out, o.Loan, buffer[:size], stamps, number+1)
		now := time.Now()
		p.mu.Lock()
		switch {
		case err == nil:
			number++
			s.Sent++
			s.MaxGap = max(s.MaxGap, now.Sub(last))
			last = now
		case errors.Is(err, node.ErrNoMemory):
			number++ // it has a number like any other: receivers see the gap
			s.NoMemory++
			s.NoMemoryText = err.Error()
		case ctx.Err() == nil:
			s.Others[err.Error()]++
		}
		s.Last, s.Elapsed = number, now.Sub(begun)
		p.numbers[o.Output] = number
		p.mu.Unlock()
		if err != nil {
			time.Sleep(time.Millisecond)
			if !errors.Is(err, node.ErrNoMemory) {
				break
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sending, o.Output)
	s.Last, s.Elapsed = number, time.Since(begun)
	return answer{ID: o.ID, Sent: s}
}

func (p *nodeProcess) publish(ctx context.Context, out *node.Output, inPlace bool, buffer []byte, stamps *stamper, number uint64) error {
	if !inPlace {
		stamps.stamp(buffer, number)
		return out.Send(ctx, buffer)
	}
	loan, err := out.Loan(ctx, len(buffer))
	if err != nil {
		return err
	}
	defer loan.Discard()
	if p.trap.Load() != nil {
		stamps.stamp(loan.Bytes(), number-1) // what is there now must never get out
		p.pass()
	}
	stamps.stamp(loan.Bytes(), number)
	return loan.Publish(ctx)
}

// receive is the event loop of a node process.
func (p *nodeProcess) receive() {
	defer close(p.deaf)
	if p.program.Misuse == "lost" {
		readLost(loseMessage(p.n))
	}
	for ev := range p.n.Events(p.ears) {
		switch ev.Kind {
		case node.EventInput:
			if p.program.Misuse != "" {
				misuse(ev.Message, p.program.Misuse)
			}
			p.take(ev)
			if p.program.Sleep > 0 {
				time.Sleep(p.program.Sleep)
			}
		case node.EventInputClosed:
			p.mu.Lock()
			p.input(ev.Input).Closed = ev.Reason
			p.report.Notes = append(p.report.Notes, fmt.Sprintf("%v %s: %s", ev.Kind, ev.Input, ev.Reason))
			p.mu.Unlock()
		case node.EventReconnected:
			p.mu.Lock()
			p.report.Reconnects++
			for _, in := range p.report.Inputs {
				in.Fresh = true
			}
			p.mu.Unlock()
		case node.EventStop:
			p.note("%v: %s", ev.Kind, ev.Reason)
		case node.EventError:
			p.note("%v: %v", ev.Kind, ev.Err)
		}
	}
	if err := p.n.Err(); err != nil {
		p.note("end: %v", err)
	}
}

func (p *nodeProcess) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.Notes = append(p.report.Notes, fmt.Sprintf(format, args...))
}

func (p *nodeProcess) input(id string) *inputReport {
	in := p.report.Inputs[id]
	if in == nil {
		in = &inputReport{Fresh: true}
		p.report.Inputs[id] = in
		p.last[id], p.ages[id] = time.Now(), &ages{}
	}
	return in
}

// take checks one message, enters it into the books, and keeps or releases it.
func (p *nodeProcess) take(ev node.Event) {
	m := ev.Message
	age := m.Age()
	number := uint64(m.Seq())
	var life uint64
	var err error
	tick := p.ticks[ev.Input]
	if !tick {
		life, err = check(m.Payload(), number)
	} else if n := len(m.Payload()); n > 0 {
		err = fmt.Errorf("tick %d: %d bytes", number, n)
	}
	if err != nil {
		p.say(answer{Fault: ev.Input + ": " + err.Error()})
	}
	p.mu.Lock()
	in := p.input(ev.Input)
	now := time.Now()
	in.MaxGap = max(in.MaxGap, now.Sub(p.last[ev.Input]))
	p.last[ev.Input] = now
	p.ages[ev.Input].add(age)
	in.Closed = ""
	if fault := in.enter(life, number, m.Dropped(), len(m.Payload())); fault != "" {
		p.say(answer{Fault: ev.Input + ": " + fault})
	}
	var old []keptMessage
	if !tick && (p.program.KeepAll || p.program.Keep > 0) {
		p.kept = append(p.kept, keptMessage{m, ev.Input})
		if over := len(p.kept) - p.program.Keep; over > 0 && !p.program.KeepAll {
			old = append(old, p.kept[:over]...)
			p.kept = append(p.kept[:0], p.kept[over:]...)
		}
	} else {
		old = []keptMessage{{m, ev.Input}}
	}
	p.mu.Unlock()
	p.pass()
	for _, k := range old {
		if !tick {
			p.checkKept(k)
		}
		k.message.Release()
	}
}

// enter notes one message. It returns what must never be: a number again, or one
// that goes back.
func (in *inputReport) enter(life, number, dropped uint64, bytes int) (fault string) {
	var l *received
	if n := len(in.Lives); n > 0 && in.Lives[n-1].Life == life {
		l = in.Lives[n-1]
	} else {
		for _, old := range in.Lives {
			if old.Life == life {
				return fmt.Sprintf("message %d of a sender that another one has followed", number)
			}
		}
		l = &received{Life: life}
		in.Lives = append(in.Lives, l)
		in.Fresh = true
	}
	l.Count++
	l.Bytes += uint64(bytes)
	l.Dropped += dropped
	n := len(l.Spans)
	if n == 0 {
		l.Spans = append(l.Spans, [2]uint64{number, number})
		in.Fresh = false
		return ""
	}
	span := &l.Spans[n-1]
	if number <= span[1] {
		return fmt.Sprintf("message %d after message %d", number, span[1])
	}
	missing := number - span[1] - 1
	if !in.Fresh && missing != dropped {
		l.Unexplained += max(missing, dropped) - min(missing, dropped)
	}
	if missing == 0 {
		span[1] = number
	} else {
		l.Spans = append(l.Spans, [2]uint64{number, number})
	}
	in.Fresh = false
	return ""
}

func (p *nodeProcess) checkKept(k keptMessage) error {
	_, err := check(k.message.Payload(), uint64(k.message.Seq()))
	if err != nil {
		err = fmt.Errorf("%s: held: %w", k.input, err)
		p.say(answer{Fault: err.Error()})
	}
	return err
}

// watch reads what is held until the process ends.
func (p *nodeProcess) watch() {
	for {
		begun := time.Now()
		p.watching.RLock()
		p.mu.Lock()
		kept := p.kept
		if len(kept) > 0 {
			p.report.Watched++
		}
		p.mu.Unlock()
		for _, k := range kept {
			_ = p.checkKept(k) // it has said so
		}
		p.watching.RUnlock()
		time.Sleep(time.Since(begun) + time.Millisecond) // others want to run, too
	}
}

// recheck reads all kept messages once more. With release it lets go of them, and
// keeps no more.
func (p *nodeProcess) recheck(release bool) error {
	if release {
		p.watching.Lock()
		defer p.watching.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, k := range p.kept {
		errs = append(errs, p.checkKept(k))
		if release {
			k.message.Release()
		}
	}
	if release {
		p.kept, p.program.Keep, p.program.KeepAll = nil, 0, false
	}
	return errors.Join(errs...)
}
