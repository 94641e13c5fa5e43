package dataflow

import "fmt"

// outputRef is an output and where it is declared.
type outputRef struct {
	node   int
	output string
	at     place
}

// resolve checks what needs the whole file: that every source exists, that every
// output has a reader. Cycles are allowed.
func (r *reader) resolve(flow *Flow) {
	idx := index{flow: flow, nodes: map[string]int{}, outputs: map[Source]bool{}}
	for i := range flow.Nodes {
		if id := flow.Nodes[i].ID; id != "" {
			idx.nodes[id] = i
			idx.ids = append(idx.ids, id)
		}
	}
	for _, o := range r.outputs {
		idx.outputs[Source{Node: flow.Nodes[o.node].ID, Output: o.output}] = true
	}
	read := map[Source]bool{}
	for _, ref := range r.sources {
		src := flow.Nodes[ref.node].Inputs[ref.input].Source
		if src.Node == "" {
			continue // a timer, or reported already
		}
		key := Source{Node: src.Node, Output: src.Output}
		read[key] = true
		if i, ok := idx.nodes[src.Node]; !idx.outputs[key] && !(ok && r.vague[i]) {
			r.unknownSource(idx, ref, src)
		}
	}
	if len(r.problems) > 0 {
		return // what else looks odd may come of them
	}
	for _, o := range r.outputs {
		id := flow.Nodes[o.node].ID
		if !read[Source{Node: id, Output: o.output}] {
			r.warn(o.at, fmt.Sprintf("nobody reads the output %s/%s", id, o.output), "")
		}
	}
	for _, n := range flow.Nodes {
		if len(n.Inputs) == 0 && len(n.Outputs) == 0 {
			r.warn(r.nodeAt[n.ID], fmt.Sprintf("the node %s has neither inputs nor outputs", n.ID), "")
		}
	}
}

// index finds nodes and outputs.
type index struct {
	flow    *Flow
	nodes   map[string]int
	ids     []string
	outputs map[Source]bool // with Node and Output only
}

func (r *reader) unknownSource(idx index, ref sourceRef, src Source) {
	if r.full() {
		r.more++
		return
	}
	i, known := idx.nodes[src.Node]
	switch {
	case src.Output == "":
		suggestion := sourceForm
		if known && len(idx.flow.Nodes[i].Outputs) > 0 {
			suggestion = "did you mean " + src.Node + "/" + idx.flow.Nodes[i].Outputs[0] + "?"
		}
		r.problem(ref.at, fmt.Sprintf("%s is not a source: there is no /", quote(src.Text)), suggestion)
		return
	case known:
		message := fmt.Sprintf("the node %s has no output %s", src.Node, quote(src.Output))
		r.problem(ref.at, message, outputSuggestion(&idx.flow.Nodes[i], src.Output))
		return
	}
	suggestion := "the nodes are: " + joined(idx.ids)
	if near, ok := nearest(src.Node, idx.ids); ok {
		suggestion = "did you mean " + near + "/" + src.Output + "?"
		n := &idx.flow.Nodes[idx.nodes[near]]
		if out, ok := nearest(src.Output, n.Outputs); ok {
			suggestion = "did you mean " + near + "/" + out + "?"
		}
	} else if len(idx.ids) == 0 {
		suggestion = ""
	}
	r.problem(ref.at, fmt.Sprintf("no node is called %s", quote(src.Node)), suggestion)
}

// outputSuggestion tells which outputs a node has.
func outputSuggestion(n *Node, written string) string {
	switch near, ok := nearest(written, n.Outputs); {
	case ok:
		return "did you mean " + n.ID + "/" + near + "?"
	case len(n.Outputs) == 0:
		return n.ID + " has no outputs: add  outputs: [" + written + "]  to it"
	default:
		return "the outputs of " + n.ID + " are: " + joined(n.Outputs)
	}
}
