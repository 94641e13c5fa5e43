package main

import (
	"strings"
	"testing"
)

// The dataflow has what the soak promises. Whether it is one, brokerd says.
func TestFlow(t *testing.T) {
	if len(nodes) != 12 {
		t.Errorf("%d nodes", len(nodes))
	}
	if got := strings.Count(flowText(), "- id: "); got != len(nodes) {
		t.Errorf("%d nodes in the text", got)
	}
	roles := map[role]int{}
	environs := map[string]int{}
	policies := map[string]int{}
	for _, n := range nodes {
		roles[n.role]++
		environs[n.environ]++
		for _, in := range n.inputs {
			policies[in.policy]++
			if n.input(in.id) < 0 || !strings.Contains(in.source, "/") {
				t.Errorf("input %+v", in)
			}
		}
	}
	if roles[roleSlow] != 1 || roles[roleFrozen] != 1 || roles[roleHoarder] != 1 || roles[roleVeteran] < 2 {
		t.Errorf("roles %v", roles)
	}
	if environs["BROKERD_NO_SHM=1"] != 1 || environs["BROKERD_NO_LANES=1"] != 2 || len(policies) != 3 {
		t.Errorf("environs %v, policies %v", environs, policies)
	}
}
