package bench

import "slices"

// Spread is a ratio, taken round by round.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// ratio divides the values of the same rounds.
func ratio[T int64 | float64](of, to []T) (Spread, bool) {
	if len(of) != len(to) {
		return Spread{}, false
	}
	var all []float64
	for i := range of {
		if to[i] > 0 {
			all = append(all, float64(of[i])/float64(to[i]))
		}
	}
	if len(all) == 0 {
		return Spread{}, false
	}
	return Spread{median(all), slices.Min(all), slices.Max(all)}, true
}

// ratios compares a path with the references that were measured too.
func ratios[T int64 | float64](path string, references []string, of []T, rounds func(string) []T) map[string]Spread {
	all := map[string]Spread{}
	for _, to := range references {
		if to == path {
			continue
		}
		if sp, ok := ratio(of, rounds(to)); ok {
			all[to] = sp
		}
	}
	return all
}

func sorted(v []int64) []int64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v
}

// percentile of sorted values, nearest rank.
func percentile(v []int64, q float64) int64 {
	if len(v) == 0 {
		return 0
	}
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
