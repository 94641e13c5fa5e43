package main

import (
	"fmt"

	"github.com/brokerd/brokerd/wire"
)

// statusLine is what `systemctl status` shows: one line, the numbers that tell
// whether somebody has to look closer.
func statusLine(s *wire.Status) string {
	connected := 0
	for i := range s.Nodes {
		if s.Nodes[i].Connected {
			connected++
		}
	}
	line := fmt.Sprintf("%s: %d of %s connected, %s, shared memory %s of %s, %s",
		s.Addr, connected, plural(len(s.Nodes), "node"), plural(len(s.Edges), "edge"),
		humanBytes(s.Memory.UsedBytes), humanBytes(s.Memory.LimitBytes), plural(int(s.Counters.Drops), "drop"))
	if s.Counters.ProtocolErrors > 0 {
		line += fmt.Sprintf(", %s", plural(int(s.Counters.ProtocolErrors), "protocol error"))
	}
	return line
}

// humanBytes writes a size for people, with three significant digits.
func humanBytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), -1
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	digits := 2
	if value >= 100 {
		digits = 0
	} else if value >= 10 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %ciB", digits, value, units[unit])
}
