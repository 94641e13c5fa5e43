package dataflow

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

const (
	nodeForm   = "a node is:  - id: camera  and below it path, outputs, inputs"
	outputForm = "write  outputs: [image]  or a line  - image  for each"
	pathForm   = "give the program to start, or dynamic if somebody else starts it"
)

// node reads node number index.
func (r *reader) node(n *Node, index int, value ast.Node) {
	at := where(value)
	list, ok := r.mapping(value, at, "a node", nodeForm)
	if !ok {
		return
	}
	keys, ok := r.classify(list, nodeKeys)
	r.vague[index] = !ok
	r.nodeID(n, at, keys)
	env := envReader{r: r, vars: n.Env}
	if n.Env == nil {
		env.vars = map[string]string{}
	}
	if e, ok := keys["env"]; ok {
		env.read(e)
	}
	body := keys
	if e, ok := keys["custom"]; ok {
		body = r.custom(e, keys, &env)
		r.vague[index] = body == nil
	}
	n.Env = env.vars
	r.program(n, body)
	if e, ok := body["outputs"]; ok {
		r.nodeOutputs(n, index, e)
	}
	if e, ok := body["inputs"]; ok {
		r.nodeInputs(n, index, e)
	}
}

// nodeID reads the id; without one the rest of the node is still read.
func (r *reader) nodeID(n *Node, at place, keys map[string]entry) {
	e, ok := keys["id"]
	if !ok {
		r.problem(at, "a node without an id", "add  id: and a name")
		return
	}
	s, ok := r.scalar(e.value, e.at, "id", "")
	if !ok || !r.id(s, "node") {
		return
	}
	if s.text == "dora" || s.text == "timer" {
		r.problem(s.at, fmt.Sprintf("no node can be called %s: sources that start with it are timers", s.text), "choose another id")
		return
	}
	if first, twice := r.nodeAt[s.text]; twice {
		r.problem(s.at, fmt.Sprintf("a second node %s, the first is in %s", quote(s.text), first), "ids are unique in a file")
		return
	}
	r.nodeAt[s.text] = s.at
	n.ID = s.text
}

// custom reads the older form, in which all but the id stands below custom. It
// returns the keys that the node is made of.
func (r *reader) custom(e entry, flat map[string]entry, env *envReader) map[string]entry {
	list, ok := r.mapping(e.value, e.at, "custom", "write  custom:  and below it source, inputs, outputs")
	if !ok {
		return nil
	}
	body, _ := r.classify(list, customKeys)
	for _, key := range []string{"path", "args", "outputs", "inputs"} {
		if f, both := flat[key]; both {
			r.problem(f.at, fmt.Sprintf("the node has custom and beside it %s: only one of the two forms can be used", key),
				"move "+key+" below custom, or everything of custom one level up")
		}
	}
	for _, key := range []string{"env", "envs"} {
		if v, ok := body[key]; ok {
			env.read(v)
		}
	}
	source, ok := body["source"]
	if path, both := body["path"]; ok && both {
		r.problem(path.at, fmt.Sprintf("custom has both source (%s) and path, which mean the same", source.at), "remove one of them")
	} else if ok {
		body["path"] = source
	}
	return body
}

// program reads path and args.
func (r *reader) program(n *Node, keys map[string]entry) {
	pathKey, hasPath := keys["path"]
	argsKey, hasArgs := keys["args"]
	shell := false
	if hasPath {
		s, ok := r.scalar(pathKey.value, pathKey.at, pathKey.key, pathForm)
		switch {
		case !ok:
		case strings.TrimSpace(s.text) == "":
			r.problem(s.at, pathKey.key+" is empty", pathForm)
		case s.text == "dynamic":
		case s.text == "shell":
			shell = true
		default:
			n.Path = s.text
		}
	}
	if shell {
		r.shell(n, pathKey, argsKey, hasArgs)
		return
	}
	if !hasArgs {
		return
	}
	n.Args, _ = r.args(argsKey)
	if !hasPath {
		r.warn(argsKey.at, "args without a path have no effect", pathForm)
	}
}

// shell is dora's way to run a line of shell script: path: shell, and the line
// in args.
func (r *reader) shell(n *Node, path, args entry, hasArgs bool) {
	if !hasArgs || absent(args.value) {
		r.problem(path.at, "path: shell needs args, the line for the shell", "add args")
		return
	}
	s, ok := r.scalar(args.value, args.at, "args of path: shell", "write the line as one text")
	if !ok {
		return
	}
	n.Path, n.Args = "sh", []string{"-c", s.text}
}

// args reads the arguments: a list, or one text that is split like a shell does.
func (r *reader) args(e entry) ([]string, bool) {
	const form = `write  args: --fps 30  or  args: [--fps, "30"]`
	value, ok := r.plain(e.value)
	if !ok || absent(value) {
		return nil, ok
	}
	if _, isList := value.(*ast.SequenceNode); !isList {
		s, ok := r.scalar(value, e.at, "args", form)
		if !ok {
			return nil, false
		}
		words, fault := splitArgs(s.text)
		switch {
		case fault != "":
			r.problem(s.at, "args cannot be split into words: "+fault, `or write a list: args: [--fps, "30"]`)
			return nil, false
		case len(words) > ArgsMax:
			r.problem(s.at, fmt.Sprintf("more than %d args", ArgsMax), "")
			return nil, false
		}
		return words, true
	}
	values, _ := r.list(value, e.at, "args", form)
	var words []string
	for i, v := range values {
		if i == ArgsMax {
			r.problem(where(v), fmt.Sprintf("more than %d args", ArgsMax), "")
			return nil, false
		}
		if s, ok := r.scalar(v, where(v), "an argument", form); ok {
			words = append(words, s.text)
		}
	}
	return words, true
}

// nodeOutputs reads the list of outputs.
func (r *reader) nodeOutputs(n *Node, index int, e entry) {
	if absent(e.value) {
		return
	}
	values, ok := r.list(e.value, e.at, "outputs", outputForm)
	if !ok {
		r.vague[index] = true
		return
	}
	first := map[string]place{}
	for i, v := range values {
		if i == OutputsMax {
			r.problem(where(v), fmt.Sprintf("more than %d outputs of one node", OutputsMax), "")
			return
		}
		if len(r.outputs) == EdgesMax {
			r.problem(where(v), fmt.Sprintf("more than %d outputs in one file", EdgesMax), "split the file into several dataflows")
			return
		}
		s, ok := r.scalar(v, where(v), "an output", outputForm)
		if !ok || !r.id(s, "output") {
			r.vague[index] = true
			continue
		}
		if at, twice := first[s.text]; twice {
			r.problem(s.at, fmt.Sprintf("a second output %s of this node, the first is in %s", quote(s.text), at), "remove one of them")
			continue
		}
		first[s.text] = s.at
		n.Outputs = append(n.Outputs, s.text)
		r.outputs = append(r.outputs, outputRef{node: index, output: s.text, at: s.at})
	}
}
