package main

import "github.com/brokerd/brokerd/dataflow"

// sourcesFirst orders the nodes of a flow so that each comes after those it
// gets messages from. Where the flow goes in a circle, the file's order decides
// where to cut it.
func sourcesFirst(flow *dataflow.Flow) []string {
	const (
		unseen = iota
		underWay
		placed
	)
	state := map[string]int{}
	order := make([]string, 0, len(flow.Nodes))
	var place func(n *dataflow.Node)
	place = func(n *dataflow.Node) {
		state[n.ID] = underWay
		for _, in := range n.Inputs {
			if in.Source.IsTimer() {
				continue
			}
			if from, ok := flow.Node(in.Source.Node); ok && state[from.ID] == unseen {
				place(from)
			}
		}
		state[n.ID] = placed
		order = append(order, n.ID)
	}
	for i := range flow.Nodes {
		if state[flow.Nodes[i].ID] == unseen {
			place(&flow.Nodes[i])
		}
	}
	return order
}
