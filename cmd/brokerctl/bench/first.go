package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	// firstSettle is how long after the memory was reserved the first message is
	// sent: a sender reserves at its start, and receivers map in the background.
	firstSettle = 500 * time.Millisecond
	// firstSteady is how many later messages the first one is compared with.
	firstSteady = 15
	// firstPlan is about how long one try takes, the start of processes included.
	firstPlan = 2 * time.Second
	// firstRoundsMax: each try starts its own processes.
	firstRoundsMax = 5
)

func (r *runner) firstRounds() int { return min(r.spec.Rounds, firstRoundsMax) }

// first compares the first large message of fresh processes with later ones, with
// and without memory reserved for it.
func (r *runner) first(ctx context.Context) error {
	for _, path := range r.spec.FirstPaths {
		results := []FirstResult{
			{Path: path, Bytes: r.spec.FirstSize, Reserved: true},
			{Path: path, Bytes: r.spec.FirstSize},
		}
		for range r.firstRounds() {
			for i := range results {
				if err := r.firstOf(ctx, &results[i]); err != nil {
					return err
				}
			}
		}
		r.report.First = append(r.report.First, results...)
	}
	return nil
}

func (r *runner) firstOf(ctx context.Context, result *FirstResult) (err error) {
	what := "first message"
	if result.Reserved {
		what = "first message, memory reserved"
	}
	r.progress(firstPlan, fmt.Sprintf("%s, %s, %s", FormatBytes(result.Bytes), result.Path, what))
	t, err := r.start(ctx, result.Path, 1)
	if err != nil {
		return err
	}
	defer func() { err = stopAll([]*team{t}, err) }()
	if err := t.prepare(ctx, result.Bytes); err != nil {
		return err
	}
	if result.Reserved {
		err := t.within(teamTimeout, func() error {
			_, err := t.sender.ask(order{Verb: verbReserve, Size: result.Bytes, Count: Window(result.Bytes)})
			return err
		})
		if err != nil {
			return err
		}
	}
	select {
	case <-time.After(firstSettle):
	case <-ctx.Done():
		return ctx.Err()
	}
	pace := r.spec.pace(t.path, result.Bytes, 1)
	out, err := t.series(ctx, order{Size: result.Bytes, Count: 1 + firstSteady, Pace: pace, Times: true})
	if err != nil {
		return err
	}
	steady := slices.Clone(out.oneWayNS[1:])
	// The messages just after the first may still meet new memory.
	steady = steady[len(steady)/3:]
	result.FirstNS = append(result.FirstNS, out.oneWayNS[0])
	result.SteadyP50NS = append(result.SteadyP50NS, percentile(sorted(steady), 0.5))
	return nil
}
