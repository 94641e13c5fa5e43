package main

import (
	"fmt"

	"github.com/brokerd/brokerd/cmd/internal/cli"
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
		s.Addr, connected, cli.Plural(len(s.Nodes), "node"), cli.Plural(len(s.Edges), "edge"),
		cli.Bytes(s.Memory.UsedBytes), cli.Bytes(s.Memory.LimitBytes), cli.Plural(int(s.Counters.Drops), "drop"))
	if s.Counters.ProtocolErrors > 0 {
		line += fmt.Sprintf(", %s", cli.Plural(int(s.Counters.ProtocolErrors), "protocol error"))
	}
	return line
}
