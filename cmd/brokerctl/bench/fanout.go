package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// fanoutPace is the same for all numbers of receivers, so that only their number
// differs.
func (r *runner) fanoutPace() time.Duration {
	return r.spec.pace(&Path{}, r.spec.FanoutSize, slices.Max(r.spec.Fanout))
}

// fanoutPlan is about how long one series takes.
func (r *runner) fanoutPlan() time.Duration {
	if len(r.spec.Fanout) == 0 {
		return 0
	}
	pace := r.fanoutPace()
	return pace * time.Duration(r.spec.count(pace))
}

// fanout measures what more receivers cost the sender, and how late they get
// their messages.
func (r *runner) fanout(ctx context.Context) error {
	if len(r.spec.Fanout) == 0 {
		return nil
	}
	for _, path := range r.spec.FanoutPaths {
		if err := r.fanoutOf(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) fanoutOf(ctx context.Context, path string) (err error) {
	var teams []*team
	defer func() { err = stopAll(teams, err) }()
	size, results := r.spec.FanoutSize, make([]FanoutResult, len(r.spec.Fanout))
	for i, n := range r.spec.Fanout {
		r.progress(0, fmt.Sprintf("%s, 1→%d: first messages", path, n))
		t, err := r.start(ctx, path, n)
		if err != nil {
			return err
		}
		teams = append(teams, t)
		if err := t.prepare(ctx, size); err != nil {
			return err
		}
		if _, err := t.series(ctx, order{Size: size, Count: warmup(size)}); err != nil {
			return err
		}
		results[i] = FanoutResult{Path: path, Receivers: n, Bytes: size}
	}
	pace := r.fanoutPace()
	o := order{Size: size, Count: r.spec.count(pace), Pace: pace, Times: true}
	for round := range r.spec.Rounds {
		for i := range teams {
			k := (i + round) % len(teams)
			r.progress(r.fanoutPlan(), fmt.Sprintf("%s, %s, 1→%d", FormatBytes(size), path, r.spec.Fanout[k]))
			out, err := teams[k].series(ctx, o)
			if err != nil {
				return err
			}
			results[k].add(out)
		}
	}
	r.report.Fanout = append(r.report.Fanout, results...)
	return nil
}
