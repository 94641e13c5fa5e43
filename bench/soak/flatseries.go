//go:build linux

package main

import "time"

// What a series may grow by, beside a fraction of itself. Nodes come and go, and
// with them memory, descriptors and mappings: this is what a few of them make.
const (
	growRelative = 0.25
	growOwnBytes = 32 * mib
	growShmBytes = 96 * mib
	growFiles    = 32
	growMappings = 64
	// A node keeps for a minute what it had mapped under a broker that died.
	growNodeMappings = 160
	growGoroutines   = 6
)

// judgeAll judges everything that must not grow: of the broker while nobody touches
// it, of the nodes that are never killed and of /dev/shm over the whole time.
func judgeAll(samples []sample, warm time.Time, quiet [2]time.Time) []verdict {
	quiet[0] = quiet[0].Add(quiet[1].Sub(quiet[0]) / 4) // the broker warms up, too
	var all []series
	add := func(name, unit string, from, to time.Time, absolute float64, value func(sample) (float64, bool)) {
		s := series{Name: name, Unit: unit, Absolute: absolute, Relative: growRelative}
		for _, x := range samples {
			if x.Time.Before(from) || x.Time.After(to) {
				continue
			}
			if v, ok := value(x); ok {
				s.T, s.V = append(s.T, x.Time.Sub(from).Seconds()), append(s.V, v)
			}
		}
		all = append(all, s)
	}
	process := func(name string, from, to time.Time, mappings float64, of func(sample) *usage) {
		for _, m := range []struct {
			what, unit string
			absolute   float64
			value      func(*usage) float64
		}{
			{"memory of its own", "bytes", growOwnBytes, func(u *usage) float64 { return float64(u.Own) }},
			{"descriptors", "", growFiles, func(u *usage) float64 { return float64(u.Files) }},
			{"mappings", "", mappings, func(u *usage) float64 { return float64(u.Mappings) }},
		} {
			add(name+": "+m.what, m.unit, from, to, m.absolute, func(s sample) (float64, bool) {
				if u := of(s); u != nil {
					return m.value(u), true
				}
				return 0, false
			})
		}
	}
	var end time.Time
	if len(samples) > 0 {
		end = samples[len(samples)-1].Time
	}
	process("brokerd", quiet[0], quiet[1], growMappings, func(s sample) *usage { return s.Broker })
	add("brokerd: goroutines", "", quiet[0], quiet[1], growGoroutines, func(s sample) (float64, bool) {
		return float64(s.Goroutines), s.Goroutines > 0
	})
	for _, n := range nodes {
		if n.role == roleVeteran {
			process(n.id, warm, end, growNodeMappings, func(s sample) *usage {
				if u, ok := s.Nodes[n.id]; ok {
					return &u
				}
				return nil
			})
		}
	}
	add("/dev/shm: bytes", "bytes", warm, end, growShmBytes, func(s sample) (float64, bool) { return float64(s.ShmBytes), true })
	add("/dev/shm: objects", "", warm, end, growFiles, func(s sample) (float64, bool) { return float64(s.ShmObjects), true })
	add("pool, retired regions included", "bytes", warm, end, growShmBytes, func(s sample) (float64, bool) { return float64(s.PoolUsed), s.PoolUsed > 0 })
	verdicts := make([]verdict, len(all))
	for i, s := range all {
		verdicts[i] = judge(s)
	}
	return verdicts
}
