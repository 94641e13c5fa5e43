package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// runner is one run of the benchmark.
type runner struct {
	env    *Env
	spec   Spec
	paths  []*Path // all that there are
	report *Report
	teams  int // started so far

	planned, spent time.Duration // what the series take by plan
}

// Run measures what spec says of paths. It leaves no process behind.
func Run(ctx context.Context, spec Spec, paths []*Path, env Env) (*Report, error) {
	if err := spec.Validate(paths); err != nil {
		return nil, err
	}
	r := &runner{env: &env, spec: spec, paths: paths, report: newReport(spec)}
	r.plan()
	for _, part := range []func(context.Context) error{r.turns, r.fanout, r.flat, r.first} {
		if err := part(ctx); err != nil {
			return nil, err
		}
	}
	r.report.finish()
	r.progress(0, "")
	return r.report, nil
}

// plan adds up how long everything takes, for the progress shown.
func (r *runner) plan() {
	s := r.spec
	for _, size := range s.sizes() {
		for _, name := range s.Paths {
			path, err := Find(r.paths, name)
			if err != nil || !path.carries(size) {
				continue
			}
			if slices.Contains(s.Sizes, size) {
				pace := s.pace(path, size, 1)
				r.planned += time.Duration(s.Rounds*s.count(pace)) * pace
			}
			if slices.Contains(s.UnpacedSizes, size) {
				r.planned += time.Duration(s.Rounds) * s.unpacedPlan()
			}
		}
	}
	r.planned += time.Duration(len(s.FanoutPaths)*s.Rounds*len(s.Fanout)) * r.fanoutPlan()
	r.planned += time.Duration(len(s.FlatPaths)*s.Rounds*len(s.FlatSizes)) * r.flatPlan()
	r.planned += time.Duration(len(s.FirstPaths)*2*r.firstRounds()) * firstPlan
}

// unpacedPlan is about how long one unpaced series takes.
func (s Spec) unpacedPlan() time.Duration {
	return max(s.Unpaced, 20*time.Millisecond)
}

// progress tells what comes next, and that what came before took so long by
// plan.
func (r *runner) progress(planned time.Duration, what string) {
	if r.env.Progress != nil {
		done := 1.0
		if what != "" {
			done = min(1, float64(r.spent)/float64(max(1, r.planned)))
		}
		r.env.Progress(done, what)
	}
	r.spent += planned
}

// start starts the processes of a path.
func (r *runner) start(ctx context.Context, name string, receivers int) (*team, error) {
	path, err := Find(r.paths, name)
	if err != nil {
		return nil, err
	}
	r.teams++
	return newTeam(ctx, r.env, path, receivers, r.teams)
}

// stopAll ends teams; what went wrong with that is added to err, unless err says
// it already.
func stopAll(teams []*team, err error) error {
	var all []error
	for _, t := range teams {
		all = append(all, t.stop())
	}
	if err != nil {
		return err
	}
	return errors.Join(all...)
}

// turns has the paths take turns, size by size.
func (r *runner) turns(ctx context.Context) (err error) {
	var teams []*team
	defer func() { err = stopAll(teams, err) }()
	for _, name := range r.spec.Paths {
		r.progress(0, "starting "+name)
		t, err := r.start(ctx, name, 1)
		if err != nil {
			return err
		}
		teams = append(teams, t)
	}
	for _, size := range r.spec.sizes() {
		able := slices.DeleteFunc(slices.Clone(teams), func(t *team) bool { return !t.path.carries(size) })
		if len(able) == 0 {
			continue
		}
		if err := r.size(ctx, size, able); err != nil {
			return err
		}
	}
	return nil
}

// turn is one path's part in the rounds of one size.
type turn struct {
	*team
	unpaced int // messages
	latency PathLatency
	rate    PathThroughput
}

// size measures the teams for one size.
func (r *runner) size(ctx context.Context, size int, teams []*team) error {
	paced, unpaced := slices.Contains(r.spec.Sizes, size), slices.Contains(r.spec.UnpacedSizes, size)
	var turns []*turn
	for _, t := range teams {
		r.progress(0, fmt.Sprintf("%s, %s: first messages", FormatBytes(size), t.path.Name))
		n, err := r.warm(ctx, t, size)
		if err != nil {
			return err
		}
		turns = append(turns, &turn{team: t, unpaced: n,
			latency: PathLatency{Path: t.path.Name}, rate: PathThroughput{Path: t.path.Name}})
	}
	memcpy, err := teams[0].sender.ask(order{Verb: verbMemcpy, Size: size, Count: 20})
	if err != nil {
		return err
	}
	for round := range r.spec.Rounds {
		for i := range turns {
			// Whoever is second meets the caches that the first has left: turn the
			// order round every time.
			t := turns[(i+round)%len(turns)]
			if paced {
				if err := r.pacedTurn(ctx, t, size); err != nil {
					return err
				}
			}
			if unpaced {
				if err := r.unpacedTurn(ctx, t, size); err != nil {
					return err
				}
			}
		}
	}
	if paced {
		row := LatencyRow{Bytes: size, MemcpyP50NS: percentile(sorted(memcpy.TimesNS), 0.5)}
		for _, t := range turns {
			row.Paths = append(row.Paths, t.latency)
		}
		r.report.Latency = append(r.report.Latency, row)
	}
	if unpaced {
		row := ThroughputRow{Bytes: size}
		for _, t := range turns {
			row.Paths = append(row.Paths, t.rate)
		}
		r.report.Throughput = append(r.report.Throughput, row)
	}
	return nil
}

// warm sends the first messages of a size, which pay for regions, mappings and
// buffers, and returns how many an unpaced series should have.
func (r *runner) warm(ctx context.Context, t *team, size int) (unpaced int, err error) {
	if err := t.prepare(ctx, size); err != nil {
		return 0, err
	}
	o := order{Size: size, Count: warmup(size)}
	if _, err := t.series(ctx, o); err != nil {
		return 0, err
	}
	if r.spec.Unpaced == 0 {
		return r.spec.UnpacedCount, nil
	}
	out, err := t.series(ctx, o)
	if err != nil {
		return 0, err
	}
	perSecond := float64(o.Count) / max(1e-9, out.elapsed.Seconds())
	return min(unpacedMax, max(10, int(perSecond*r.spec.Unpaced.Seconds()))), nil
}

func (r *runner) pacedTurn(ctx context.Context, t *turn, size int) error {
	pace := r.spec.pace(t.path, size, 1)
	o := order{Size: size, Count: r.spec.count(pace), Pace: pace, Times: true}
	r.progress(pace*time.Duration(o.Count), fmt.Sprintf("%s, %s", FormatBytes(size), t.path.Name))
	out, err := t.series(ctx, o)
	if err != nil {
		return err
	}
	t.latency.add(out)
	return nil
}

func (r *runner) unpacedTurn(ctx context.Context, t *turn, size int) error {
	if t.unpaced == 0 {
		return nil
	}
	r.progress(r.spec.unpacedPlan(), fmt.Sprintf("%s, %s, back to back", FormatBytes(size), t.path.Name))
	out, err := t.series(ctx, order{Size: size, Count: t.unpaced})
	if err != nil {
		return err
	}
	t.rate.add(out, t.unpaced)
	return nil
}
