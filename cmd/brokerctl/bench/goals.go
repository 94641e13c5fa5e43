package bench

import (
	"fmt"
	"slices"
)

// Names of paths that goals are set by, but that others than this package bring.
const (
	PathLimit  = "limit"
	PathShmipc = "shmipc"
)

// Goal is one thing that lanes have to reach, and whether they did.
type Goal struct {
	What    string  `json:"what"`
	AtMost  bool    `json:"at_most"` // else at least
	Bound   float64 `json:"bound"`
	Value   float64 `json:"value"` // median of the rounds
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
	Reached bool    `json:"reached"`
}

// The bounds that goals set.
const (
	latencyToLimitMax   = 1.25
	latencyToShmipcMax  = 1.0
	loanFlatMax         = 1.5 // largest to smallest size
	loanFlatSmall       = 64  // bytes
	loanFlatLarge       = 40 << 20
	rateToLimitMin      = 0.9
	rateSize            = 64 // bytes
	fanoutMax           = 1.5
	fanoutReceivers     = 8
	firstMax            = 2.0
	allocsMax           = 0.005 // objects a message: what the runtime allocates now and then
	allocsMessagesLeast = 2000  // a round; fewer say nothing, for the same reason
)

func newGoal(what string, atMost bool, bound float64, sp Spread) Goal {
	g := Goal{What: what, AtMost: atMost, Bound: bound, Value: sp.Median, Min: sp.Min, Max: sp.Max}
	g.Reached = atMost && sp.Median <= bound || !atMost && sp.Median >= bound
	return g
}

// goals judges what was measured; what was not has no line.
func goals(r *Report) []Goal {
	return slices.Concat(latencyGoals(r), loanGoal(r), rateGoal(r), fanoutGoal(r), allocGoals(r), firstGoal(r))
}

func latencyGoals(r *Report) (all []Goal) {
	for _, to := range []struct {
		path  string
		bound float64
	}{{PathLimit, latencyToLimitMax}, {PathShmipc, latencyToShmipcMax}} {
		for _, row := range r.Latency {
			lane, other := row.path(PathLane), row.path(to.path)
			if lane == nil || other == nil {
				continue
			}
			if sp, ok := ratio(lane.RoundP50NS, other.RoundP50NS); ok {
				all = append(all, newGoal(fmt.Sprintf("one-way %s, lane / %s", FormatBytes(row.Bytes), to.path), true, to.bound, sp))
			}
		}
	}
	return all
}

func loanGoal(r *Report) []Goal {
	for _, f := range r.Flat {
		if small := r.smallest(f.Path); f.Path == PathLaneLoan && small.Bytes == loanFlatSmall && f.Bytes == loanFlatLarge {
			what := fmt.Sprintf("one-way lane-loan, %s / %s", FormatBytes(f.Bytes), FormatBytes(small.Bytes))
			return []Goal{newGoal(what, true, loanFlatMax, f.Ratio)}
		}
	}
	return nil
}

func rateGoal(r *Report) []Goal {
	for _, row := range r.Throughput {
		lane, limit := row.path(PathLane), row.path(PathLimit)
		if row.Bytes != rateSize || lane == nil || limit == nil {
			continue
		}
		if sp, ok := ratio(lane.RoundPerSecond, limit.RoundPerSecond); ok {
			return []Goal{newGoal(fmt.Sprintf("messages a second, %s, lane / limit", FormatBytes(row.Bytes)), false, rateToLimitMin, sp)}
		}
	}
	return nil
}

func fanoutGoal(r *Report) []Goal {
	for _, f := range r.Fanout {
		if f.Path == PathLane && f.Receivers == fanoutReceivers && r.fewest(PathLane).Receivers == 1 {
			edges := fmt.Sprintf("of a Send of %s, 1→%d / 1→1", FormatBytes(f.Bytes), f.Receivers)
			return []Goal{
				newGoal("processor time "+edges, true, fanoutMax, f.SendCPURatio),
				newGoal("cost "+edges, true, fanoutMax, f.SendRatio),
			}
		}
	}
	return nil
}

func allocGoals(r *Report) (all []Goal) {
	for _, row := range r.Throughput {
		for _, name := range []string{PathLane, PathLaneLoan} {
			p := row.path(name)
			if p == nil || p.Allocs.messages < allocsMessagesLeast {
				continue
			}
			worst := max(p.Allocs.Send, p.Allocs.Receive)
			all = append(all, newGoal(fmt.Sprintf("allocations a message, %s, %s", FormatBytes(row.Bytes), name),
				true, allocsMax, Spread{worst, worst, worst}))
		}
	}
	return all
}

func firstGoal(r *Report) (all []Goal) {
	for _, f := range r.First {
		if f.Path != PathLane {
			continue
		}
		memory := "as it comes"
		if f.Reserved {
			memory = "reserved"
		}
		what := fmt.Sprintf("first message of %s / later ones, memory %s", FormatBytes(f.Bytes), memory)
		all = append(all, newGoal(what, true, firstMax, f.Ratio))
	}
	return all
}
