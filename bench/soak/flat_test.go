package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Growth is told from noise, from a load that goes up and down, and from one step.
func TestJudge(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, test := range map[string]struct {
		value func(second int) float64
		flat  bool
	}{
		"constant":             {func(int) float64 { return 100 }, true},
		"noise":                {func(int) float64 { return 100 + 60*random.Float64() }, true},
		"saw":                  {func(s int) float64 { return 100 + float64(s%97) }, true},
		"falls":                {func(s int) float64 { return 400 - float64(s)/3 }, true},
		"a peak at the end":    {func(s int) float64 { return 100 + math.Max(0, float64(s-880))*10 }, true},
		"a leak":               {func(s int) float64 { return 100 + float64(s)/10 }, false},
		"a leak under noise":   {func(s int) float64 { return 100 + float64(s)/10 + 60*random.Float64() }, false},
		"a leak under a saw":   {func(s int) float64 { return 100 + float64(s)/10 + float64(s%97) }, false},
		"a leak that sets in":  {func(s int) float64 { return 100 + math.Max(0, float64(s-400))/5 }, false},
		"twice as much, stays": {func(s int) float64 { return 100 + 100*float64(min(1, s/450)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := series{Name: name, Absolute: 20, Relative: 0.1}
			for second := range 900 {
				s.T, s.V = append(s.T, float64(second)), append(s.V, test.value(second))
			}
			if v := judge(s); v.Flat != test.flat {
				t.Errorf("%+v", v)
			}
		})
	}
	if v := judge(series{T: []float64{1, 2}, V: []float64{1, 100}}); !v.Flat || v.Note == "" {
		t.Errorf("two samples: %+v", v)
	}
}
