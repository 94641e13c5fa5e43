package bench

import (
	"context"
	"fmt"
	"time"
)

// flat measures paths whose times should not depend on the size, at two sizes
// that take turns: what the machine does meanwhile hits both.
func (r *runner) flat(ctx context.Context) error {
	for _, path := range r.spec.FlatPaths {
		if err := r.flatOf(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// flatPlan is about how long one series takes.
func (r *runner) flatPlan() time.Duration {
	return r.spec.Interval * time.Duration(r.spec.count(r.spec.Interval))
}

func (r *runner) flatOf(ctx context.Context, path string) (err error) {
	r.progress(0, "starting "+path)
	t, err := r.start(ctx, path, 1)
	if err != nil {
		return err
	}
	defer func() { err = stopAll([]*team{t}, err) }()
	results := make([]FlatResult, len(r.spec.FlatSizes))
	for i, size := range r.spec.FlatSizes {
		results[i] = FlatResult{Path: path, Bytes: size}
		if err := t.prepare(ctx, size); err != nil {
			return err
		}
		if _, err := t.series(ctx, order{Size: size, Count: warmup(size)}); err != nil {
			return err
		}
	}
	pace := r.spec.pace(t.path, 0, 1)
	for round := range r.spec.Rounds {
		for i := range results {
			result := &results[(i+round)%len(results)]
			r.progress(r.flatPlan(), fmt.Sprintf("%s, %s beside other sizes", FormatBytes(result.Bytes), path))
			if err := t.prepare(ctx, result.Bytes); err != nil {
				return err
			}
			out, err := t.series(ctx, order{Size: result.Bytes, Count: r.spec.count(pace), Pace: pace, Times: true})
			if err != nil {
				return err
			}
			result.add(out)
		}
	}
	r.report.Flat = append(r.report.Flat, results...)
	return nil
}
