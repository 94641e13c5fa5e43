package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/brokerd/brokerd/shmpool"
)

// Reserve sees to it that there is shared memory for count messages of n bytes at
// a time, granted, mapped and touched, so that the first of them are as fast as
// the later ones. Receivers map it meanwhile. It is kept as long as it is used now
// and then. Messages that travel in frames need none, and Reserve does nothing.
//
// It waits while the broker is away. Errors are those of Loan, but nothing is
// counted as a failed message.
func (o *Output) Reserve(ctx context.Context, n, count int) error {
	if n < 0 || count < 0 {
		panic(fmt.Sprintf("node: Reserve of %d messages of %d bytes", count, n))
	}
	var from *estate
	var leases []lease
	giveBack := func() {
		for _, l := range leases {
			from.memory.discard(l.token)
		}
		leases = leases[:0]
	}
	defer giveBack()
	for len(leases) < count {
		e, err := o.place(ctx, n)
		if err != nil || e == nil {
			return err
		}
		if e != from {
			giveBack()
			from = e
		}
		e.memory.expect(n, count-len(leases))
		l, err := e.memory.take(ctx, n, o)
		switch {
		case err == nil:
			leases = append(leases, l)
		case errors.Is(err, errInline):
			return fmt.Errorf("%w: output %q: %d messages of %d bytes: they will travel inline", ErrNoMemory, o.id, count, n)
		case !errors.Is(err, errLinkDown):
			return err
		}
	}
	return nil
}

// expect says that count slots for size bytes will be needed soon: a region that
// is asked for next has room for them.
func (m *memory) expect(size, count int) {
	slotBytes := shmpool.SlotClass(uint64(size))
	if slotBytes == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.class(slotBytes).reserve = uint32(min(count, shmpool.SlotsMax))
}
