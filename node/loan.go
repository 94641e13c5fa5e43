package node

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/brokerd/brokerd/node/internal/protect"
)

const (
	loansKept = 64
	// loanBufferBytesKept: larger heap buffers are left to the garbage collector.
	loanBufferBytesKept = 4 << 20
)

// Loan is memory to write one message into: a slot of shared memory, or for small
// messages and nodes that are not local a heap buffer. It is a small handle; copies
// of it end together.
type Loan struct {
	state      *loanState
	generation uint64
	output     *Output
}

type loanState struct {
	generation atomic.Uint64 // odd while the loan is open
	rec        *loanRecord
}

// loanRecord is what there is to give back. It must not lead to its state, or the
// garbage collector would never find that unused: so output, which leads to the
// unused states, is set only while the loan is open.
type loanRecord struct {
	output *Output
	estate *estate        // nil: heap buffer
	lease  lease          // its buffer is the loan's bytes
	heap   []byte         // kept from loan to loan
	guard  *protect.Block // in protect mode: what the user writes to instead
}

// Loan returns memory for a message of n bytes. It takes no round trip to the
// broker if a slot is free. The memory is not cleared.
//
// It waits while the broker is away, and, if a receiver has policy block, while
// there is no memory. Errors: the context's, ErrClosed, ErrOutputClosed,
// ErrNoMemory, ErrTooLarge.
func (o *Output) Loan(ctx context.Context, n int) (Loan, error) {
	if n < 0 {
		panic(fmt.Sprintf("node: Loan of %d bytes", n))
	}
	var l lease
	var e *estate
	for {
		var err error
		if e, err = o.place(ctx, n); err != nil {
			return Loan{}, err
		}
		if e == nil {
			if err := o.checkFrame(n); err != nil {
				o.reportFailure(err, n)
				return Loan{}, err
			}
			break
		}
		if l, err = e.memory.take(ctx, n, o); err == nil {
			break
		}
		if errors.Is(err, errInline) { // if there is memory until Publish it may still get a slot
			e = nil
			break
		}
		if !errors.Is(err, errLinkDown) {
			o.reportFailure(err, n)
			return Loan{}, err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	st := o.newLoanState()
	rec := st.rec
	rec.output, rec.estate, rec.lease = o, e, l
	if e == nil {
		if cap(rec.heap) < n {
			rec.heap = make([]byte, n)
		}
		rec.lease.buffer = rec.heap[:n:n]
	}
	if o.n.vault != nil {
		rec.protect(n)
	}
	return Loan{state: st, generation: st.generation.Add(1), output: o}, nil
}

// checkFrame returns ErrTooLarge if a payload of n bytes does not fit in a frame
// of the connection there is.
func (o *Output) checkFrame(n int) error {
	o.mu.Lock()
	s := o.session
	o.mu.Unlock()
	if s == nil || uint64(n)+publishOverheadBytes <= s.welcome.FrameMax {
		return nil
	}
	return s.tooLarge(o, n)
}

func (o *Output) newLoanState() *loanState {
	if last := len(o.loans) - 1; last >= 0 {
		st := o.loans[last]
		o.loans[last] = nil
		o.loans = o.loans[:last]
		return st
	}
	st := &loanState{rec: &loanRecord{}}
	runtime.AddCleanup(st, lostLoan, st.rec)
	return st
}

func (l Loan) check(use string) *loanRecord {
	if l.state == nil {
		panic("node: " + use + " of the zero Loan")
	}
	if l.state.generation.Load() != l.generation {
		panic(fmt.Sprintf("node: %s of a loan of output %q after it was published or discarded", use, l.output.id))
	}
	return l.state.rec
}

// Bytes returns the memory, of the length asked for. It is the caller's to write
// until Publish or Discard; a later use panics here, and a slice kept from before
// must not be written any more: receivers read it.
func (l Loan) Bytes() []byte {
	rec := l.check("Bytes")
	if rec.guard != nil {
		return rec.guarded()
	}
	return rec.lease.buffer
}

// Truncate shortens the message to its first n bytes.
func (l Loan) Truncate(n int) {
	rec := l.check("Truncate")
	if n < 0 || n > len(rec.lease.buffer) {
		panic(fmt.Sprintf("node: Truncate to %d of a loan of %d bytes", n, len(rec.lease.buffer)))
	}
	rec.lease.buffer = rec.lease.buffer[:n:n]
}

// Publish sends the message, without a copy if it lies in shared memory. It waits
// as Send does. If it fails the loan is still the caller's: Publish again, or
// Discard. If the connection was lost since the loan was taken, or a small message
// has to go to a lane that was not there then, the payload is copied to where it
// belongs now.
//
// Errors: ErrLoanSpent if the loan was published or discarded before, and those
// of Send.
func (l Loan) Publish(ctx context.Context, metadata ...Attr) error {
	if l.state == nil || l.state.generation.Load() != l.generation {
		return ErrLoanSpent
	}
	rec, o := l.state.rec, l.output
	if rec.guard != nil {
		copy(rec.lease.buffer, rec.guarded())
	}
	fallback := false
	for {
		out := outgoing{payload: rec.lease.buffer, fallback: fallback}
		if rec.estate != nil {
			out = outgoing{estate: rec.estate, lease: rec.lease}
		}
		err := o.post(ctx, &out, metadata)
		if err == nil {
			if rec.guard != nil {
				rec.spend(protect.Published, out.seq)
			}
			l.finish()
			return nil
		}
		if !isElsewhere(err) {
			return err
		}
		if fallback, err = rec.move(ctx, errors.Is(err, errInline)); err != nil {
			return err
		}
	}
}

// move copies the payload to where the message belongs now: out of a slot of a
// connection that is gone, or into one because a lane was started, or (inline, or
// if there is none) to the heap: then it goes inline for want of memory.
func (rec *loanRecord) move(ctx context.Context, inline bool) (fallback bool, err error) {
	o, old, gone := rec.output, rec.lease, rec.estate
	size := len(old.buffer)
	for {
		e, err := o.place(ctx, size)
		if err != nil {
			return false, err
		}
		if !inline && e == gone && (e == nil || !old.spoilt(true)) {
			return false, nil
		}
		var l lease
		if e != nil && !inline {
			l, err = e.memory.take(ctx, size, o)
			if errors.Is(err, errLinkDown) {
				continue
			}
			if inline = errors.Is(err, errInline); err != nil && !inline {
				return false, err // the loan is still there: no failed message yet
			}
		}
		if e == nil || inline {
			e = nil
			rec.heap = append(rec.heap[:0], old.buffer...)
			l.buffer = rec.heap
		} else {
			copy(l.buffer, old.buffer)
		}
		o.n.stats.copied(size)
		rec.estate, rec.lease = e, l
		if gone != nil {
			gone.memory.discard(old.token)
		}
		return inline, nil
	}
}

// finish ends the handle after its message was published.
func (l Loan) finish() {
	l.output.mu.Lock()
	defer l.output.mu.Unlock()
	l.state.generation.Add(1)
	l.output.keepLoanState(l.state)
}

func (o *Output) keepLoanState(st *loanState) {
	rec := st.rec
	rec.output, rec.estate, rec.lease, rec.guard = nil, nil, lease{}, nil
	if cap(rec.heap) > loanBufferBytesKept {
		rec.heap = nil
	}
	if len(o.loans) < loansKept {
		o.loans = append(o.loans, st)
	}
}

// Discard gives the memory back unpublished. After Publish has succeeded, a
// second time, or for the zero Loan it does nothing, so that it can be deferred.
func (l Loan) Discard() {
	if l.state == nil || !l.state.generation.CompareAndSwap(l.generation, l.generation+1) {
		return
	}
	rec, o := l.state.rec, l.output
	if rec.guard != nil {
		rec.spend(protect.Discarded, 0)
	}
	o.mu.Lock()
	e, token := rec.estate, rec.lease.token
	o.keepLoanState(l.state)
	o.mu.Unlock()
	if e != nil {
		e.memory.discard(token)
	}
}

// lostLoan is called when the garbage collector found a state that nobody points
// to.
func lostLoan(rec *loanRecord) {
	o := rec.output
	if o == nil {
		return // an unused state
	}
	if rec.guard != nil {
		rec.spend(protect.Forgotten, 0)
	}
	if rec.estate != nil {
		rec.estate.memory.discard(rec.lease.token)
	}
	count := o.n.stats.forgotten.Add(1)
	o.n.log.Warn("loan was garbage collected without Publish or Discard",
		"output", o.id, "bytes", len(rec.lease.buffer), "count", count)
}
