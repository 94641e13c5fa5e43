package dataflow

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// anchor is a value that was given a name with &name.
type anchor struct {
	at    place
	value ast.Node
}

// collector finds the anchors of a tree in the order of the file.
type collector struct{ r *reader }

func (c collector) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		name := a.Name.GetToken().Value
		c.r.anchors[name] = append(c.r.anchors[name], anchor{placeOf(a.GetToken()), a.Value})
	}
	return c
}

// plain follows anchors and aliases to the value behind them. The value of an
// alias is not copied, and the format has few levels, so that aliases of aliases
// cannot multiply. An alias that leads nowhere is reported; ok is false then.
func (r *reader) plain(n ast.Node) (value ast.Node, ok bool) {
	for range depthMax {
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.AliasNode:
			a, ok := r.behind(v)
			if !ok {
				r.problem(where(v), fmt.Sprintf("no anchor &%s before this alias", v.Value.GetToken().Value), "")
				return nil, false
			}
			n = a.value
		default:
			return n, true
		}
	}
	r.problem(where(n), "an alias that stands for itself", "")
	return nil, false
}

// behind returns the last anchor of that name before the alias.
func (r *reader) behind(alias *ast.AliasNode) (found anchor, ok bool) {
	at := where(alias)
	for _, a := range r.anchors[alias.Value.GetToken().Value] {
		if a.at.line < at.line || a.at.line == at.line && a.at.col < at.col {
			found, ok = a, true
		}
	}
	return found, ok
}

// entry is one key: value of a mapping.
type entry struct {
	key   string
	at    place // of the key
	value ast.Node
}

// kind says what a value is, in the words of messages.
func kind(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.FloatNode:
		return "a number with a fraction"
	case *ast.IntegerNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	}
	return "something else"
}

// where returns the place at which a value starts.
func where(n ast.Node) place {
	switch v := n.(type) {
	case nil:
		return place{1, 1}
	case *ast.MappingNode:
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return where(v.Values[0])
		}
	case *ast.MappingValueNode:
		return placeOf(v.Key.GetToken())
	}
	return placeOf(n.GetToken())
}

// absent reports whether a key was written without a value.
func absent(n ast.Node) bool {
	if n == nil {
		return true
	}
	_, null := n.(*ast.NullNode)
	return null
}

// mapping returns the entries of a mapping in the order of the file. Keys that
// come twice are reported and left out. what names the thing in messages.
func (r *reader) mapping(n ast.Node, at place, what, form string) ([]entry, bool) {
	n, ok := r.plain(n)
	if !ok {
		return nil, false
	}
	var values []*ast.MappingValueNode
	switch v := n.(type) {
	case *ast.MappingNode:
		values = v.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{v}
	default:
		r.wrongKind(n, at, what, "a mapping", form)
		return nil, false
	}
	first := make(map[string]place, len(values))
	list := make([]entry, 0, len(values))
	for _, v := range values {
		e, ok := r.entry(v)
		if !ok {
			continue
		}
		if at, twice := first[e.key]; twice {
			r.problem(e.at, fmt.Sprintf("%s is given twice here, first in %s", quote(e.key), at), "remove one of them")
			continue
		}
		first[e.key] = e.at
		list = append(list, e)
	}
	return list, true
}

func (r *reader) entry(v *ast.MappingValueNode) (entry, bool) {
	key := v.Key
	var n ast.Node = key
	if a, ok := n.(*ast.AnchorNode); ok {
		n = a.Value
	}
	e := entry{at: where(key), value: v.Value}
	switch k := n.(type) {
	case *ast.StringNode:
		e.key = k.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		e.key = k.GetToken().Value
	default:
		r.problem(e.at, "a key must be plain text", "write key: value")
		return e, false
	}
	return e, true
}

// list returns the values of a list.
func (r *reader) list(n ast.Node, at place, what, form string) ([]ast.Node, bool) {
	n, ok := r.plain(n)
	if !ok {
		return nil, false
	}
	if s, ok := n.(*ast.SequenceNode); ok {
		return s.Values, true
	}
	r.wrongKind(n, at, what, "a list", form)
	return nil, false
}

// wrongKind reports a value that is not what it must be. at is the place of its
// key, for values that were left out.
func (r *reader) wrongKind(n ast.Node, at place, what, want, form string) {
	if absent(n) {
		r.problem(at, what+" has no value", form)
		return
	}
	r.problem(where(n), fmt.Sprintf("%s must be %s, but this is %s", what, want, kind(n)), form)
}

// scalar is a value without parts.
type scalar struct {
	text string // as meant; numbers as written
	at   place
	node ast.Node
}

// scalar returns a text, number or truth value as text. Anything else is
// reported.
func (r *reader) scalar(n ast.Node, at place, what, form string) (scalar, bool) {
	n, ok := r.plain(n)
	s := scalar{at: at, node: n}
	if !ok {
		return s, false
	}
	if !absent(n) {
		s.at = where(n)
	}
	switch v := n.(type) {
	case *ast.StringNode:
		s.text = v.Value
	case *ast.LiteralNode:
		s.text = v.Value.Value
	case *ast.BoolNode:
		s.text = "false"
		if v.Value {
			s.text = "true"
		}
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		s.text = n.GetToken().Value
	default:
		r.wrongKind(n, at, what, "text", form)
		return s, false
	}
	switch {
	case len(s.text) > TextBytesMax:
		r.problem(s.at, fmt.Sprintf("%s has %d bytes, %d are allowed", what, len(s.text), TextBytesMax), "")
		return s, false
	case strings.ContainsRune(s.text, 0):
		r.problem(s.at, what+" contains a zero byte", "")
		return s, false
	}
	return s, true
}

// id reads the id of a node, output or input.
func (r *reader) id(s scalar, what string) bool {
	fault := idFault(s.text)
	if fault == "" {
		return true
	}
	message := fmt.Sprintf("%s is not a valid %s id: %s", quote(s.text), what, fault)
	suggestion := idRule
	if bare := strings.Trim(s.text, "` \t\n"); bare != s.text && idFault(bare) == "" {
		suggestion = "did you mean " + bare + "?"
	}
	r.problem(s.at, message, suggestion)
	return false
}
