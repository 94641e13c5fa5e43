package dataflow

import (
	"fmt"
	"maps"

	"github.com/goccy/go-yaml/ast"
)

const fileForm = "a dataflow is:  nodes:  and below it a list of nodes, each with an id"

// flow reads the whole file. It goes on after every error that leaves something
// to look at.
func (r *reader) flow(root ast.Node) *Flow {
	r.anchors = map[string][]anchor{}
	r.nodeAt = map[string]place{}
	r.vague = map[int]bool{}
	ast.Walk(collector{r}, root)
	flow := &Flow{File: r.file, Name: nameOfFile(r.file)}
	list, ok := r.mapping(root, where(root), "a dataflow", fileForm)
	if !ok {
		return flow
	}
	keys, _ := r.classify(list, fileKeys)
	if e, ok := keys["name"]; ok {
		if s, ok := r.scalar(e.value, e.at, "name", ""); ok && r.id(s, "dataflow") {
			flow.Name = s.text
		}
	}
	shared := envReader{r: r, vars: map[string]string{}}
	if e, ok := keys["env"]; ok {
		shared.read(e)
	}
	e, ok := keys["nodes"]
	if !ok {
		r.problem(where(root), "the key nodes is missing", fileForm)
		return flow
	}
	r.nodes(flow, e, shared.vars)
	return flow
}

func (r *reader) nodes(flow *Flow, e entry, shared map[string]string) {
	values, ok := r.list(e.value, e.at, "nodes", "write each node as  - id: …")
	if !ok {
		return
	}
	if len(values) == 0 {
		r.problem(e.at, "nodes is empty", "a dataflow has at least one node")
		return
	}
	for i, v := range values {
		if i == NodesMax {
			r.problem(where(v), fmt.Sprintf("more than %d nodes", NodesMax), "split the file into several dataflows")
			return
		}
		flow.Nodes = append(flow.Nodes, Node{Env: maps.Clone(shared)})
		r.node(&flow.Nodes[i], i, v)
	}
}

// envReader reads mappings of environment variables into one set.
type envReader struct {
	r     *reader
	vars  map[string]string
	given map[string]place // in the mappings read so far
}

// read adds the variables of one mapping. What is in vars from elsewhere is
// replaced; what an earlier read gave is not.
func (v *envReader) read(e entry) {
	const form = "write  env:  and below it NAME: value"
	if absent(e.value) {
		return
	}
	if v.given == nil {
		v.given = map[string]place{}
	}
	list, ok := v.r.mapping(e.value, e.at, e.key, form)
	if !ok {
		return
	}
	for _, item := range list {
		if len(v.given) == EnvMax {
			v.r.problem(item.at, fmt.Sprintf("more than %d environment variables", EnvMax), "")
			return
		}
		if !v.name(item) {
			continue
		}
		s, ok := v.r.scalar(item.value, item.at, "the variable "+item.key, `write "" for an empty text`)
		if !ok {
			continue
		}
		v.given[item.key] = item.at
		v.vars[item.key] = s.text
	}
}

func (v *envReader) name(item entry) bool {
	if first, twice := v.given[item.key]; twice {
		v.r.problem(item.at, fmt.Sprintf("the variable %s is given twice, first in %s", item.key, first), "remove one of them")
		return false
	}
	if item.key == "" {
		v.r.problem(item.at, "a variable without a name", "")
		return false
	}
	for _, c := range item.key {
		if c == '=' || c == 0 {
			v.r.problem(item.at, fmt.Sprintf("%s cannot be the name of a variable: %q is not allowed in it", quote(item.key), c), "")
			return false
		}
	}
	return true
}
