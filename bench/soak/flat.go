package main

import (
	"fmt"
	"math"
	"slices"
)

// series is one number over time that must not grow.
type series struct {
	Name string
	Unit string // bytes, or nothing
	T    []float64
	V    []float64 // at T, in seconds
	// How much it may grow: the larger of the two.
	Absolute float64
	Relative float64
}

// verdict is the judgement of one series.
type verdict struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit,omitempty"`
	Level  float64 `json:"level"`  // median
	Growth float64 `json:"growth"` // over the time that was judged
	Limit  float64 `json:"limit"`  // of growth
	Flat   bool    `json:"flat"`
	Note   string  `json:"note,omitempty"`
}

// bins is how many pieces a series is cut into.
const bins = 12

// judge tells whether a series grows. What it looks at is the lower quartile in
// each of twelve pieces: memory that is in use goes up and down with the load, and
// only its floor tells of a leak. Growth is the smaller of two estimates, so that
// neither a step of a moment nor one odd end makes it: the slope by Theil and Sen
// (the median of the slopes of all pairs) over the whole time, and the last third's
// median less the first's.
func judge(s series) verdict {
	v := verdict{Name: s.Name, Unit: s.Unit}
	if len(s.V) < 2*bins {
		v.Flat, v.Note = true, fmt.Sprintf("%d samples are too few to judge", len(s.V))
		return v
	}
	t, floor := floors(s)
	v.Level = quantile(s.V, 0.5)
	slope := theilSen(t, floor) * (s.T[len(s.T)-1] - s.T[0])
	third := len(floor) / 3
	thirds := quantile(floor[len(floor)-third:], 0.5) - quantile(floor[:third], 0.5)
	v.Growth = min(slope, thirds)
	v.Limit = max(s.Absolute, s.Relative*quantile(floor, 0.5))
	v.Flat = v.Growth <= v.Limit
	return v
}

// floors returns the middle and the lower quartile of each piece of a series.
func floors(s series) (t, floor []float64) {
	for i := range bins {
		from, to := i*len(s.V)/bins, (i+1)*len(s.V)/bins
		t = append(t, quantile(s.T[from:to], 0.5))
		floor = append(floor, quantile(s.V[from:to], 0.25))
	}
	return t, floor
}

func theilSen(t, v []float64) float64 {
	var slopes []float64
	for i := range t {
		for j := i + 1; j < len(t); j++ {
			if t[j] > t[i] {
				slopes = append(slopes, (v[j]-v[i])/(t[j]-t[i]))
			}
		}
	}
	return quantile(slopes, 0.5)
}

func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(v))
	return sorted[int(math.Round(q*float64(len(sorted)-1)))]
}
