package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/brokerd/brokerd/dataflow"
)

// configBytesMax bounds a configuration file; a real one has a page.
const configBytesMax = 64 << 10

// readConfigFile reads a YAML file of options. The tree is walked by hand
// instead of decoded: every text is kept as it was written (an octal mode, for
// one), and all problems come with their places, in the same form as those of
// dataflow files.
func readConfigFile(path string, options []option) (layer, error) {
	data, _, err := readBounded(path, configBytesMax)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	reader := configReader{path: path, lines: strings.Split(string(data), "\n"), found: layer{}, options: options}
	reader.read(data)
	if len(reader.problems) > 0 {
		return nil, &dataflow.Errors{List: reader.problems}
	}
	return reader.found, nil
}

// readBounded reads a whole file, and the mode of the very file that it has read.
func readBounded(path string, bytesMax int64) ([]byte, os.FileMode, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	data, err := io.ReadAll(io.LimitReader(file, bytesMax+1))
	if err != nil {
		return nil, 0, err
	}
	if int64(len(data)) > bytesMax {
		return nil, 0, fmt.Errorf("%s is longer than %s", path, formatBytes(uint64(bytesMax)))
	}
	return data, info.Mode(), nil
}

type configReader struct {
	path     string
	lines    []string
	options  []option
	found    layer
	problems []dataflow.Problem
}

func (r *configReader) read(data []byte) {
	if !utf8.Valid(data) {
		r.problems = append(r.problems, dataflow.Problem{File: r.path, Message: "is not text in UTF-8"})
		return
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			r.report(syntax.GetToken(), syntax.GetMessage(), "")
			return
		}
		r.problems = append(r.problems, dataflow.Problem{File: r.path, Message: err.Error()})
		return
	}
	for i, document := range file.Docs {
		if document.Body == nil {
			continue
		}
		if i > 0 {
			r.report(startOf(document.Body), "a second document in the file", "")
			return
		}
		r.document(document.Body)
	}
}

func (r *configReader) document(body ast.Node) {
	switch body := body.(type) {
	case *ast.MappingNode:
		for _, entry := range body.Values {
			r.entry(entry)
		}
	case *ast.MappingValueNode:
		r.entry(body)
	case *ast.NullNode, *ast.CommentGroupNode:
	default:
		r.report(body.GetToken(), "expected settings of the form key: value", "")
	}
}

func (r *configReader) entry(entry *ast.MappingValueNode) {
	key, place := entry.Key.GetToken().Value, entry.Key.GetToken()
	o, known := r.option(key)
	if !known {
		keys := make([]string, len(r.options))
		for i, o := range r.options {
			keys[i] = o.key
		}
		suggestion := "`brokerd config` lists the settings there are"
		if near := nearest(strings.ReplaceAll(key, "-", "_"), keys); near != "" {
			suggestion = fmt.Sprintf("did you mean %q?", near)
		}
		r.report(place, fmt.Sprintf("unknown setting %q", key), suggestion)
		return
	}
	if _, twice := r.found[key]; twice {
		r.report(place, fmt.Sprintf("%q is set twice", key), "")
		return
	}
	texts, ok := r.texts(o, entry.Value)
	if !ok {
		return
	}
	if o.path {
		for i := range texts {
			texts[i] = absoluteFrom(filepath.Dir(r.path), texts[i])
		}
	}
	at := entry.Value.GetToken()
	if err := o.value.set(texts); err != nil {
		r.report(at, fmt.Sprintf("%s: %s", key, err), "")
		return
	}
	r.found[key] = layerEntry{
		texts:  texts,
		origin: fmt.Sprintf("file %s:%d", r.path, place.Position.Line),
		wrong:  func(reason string) error { return fmt.Errorf("%s:%d: %s", r.path, at.Position.Line, reason) },
	}
}

func (r *configReader) option(key string) (option, bool) {
	for _, o := range r.options {
		if o.key == key {
			return o, true
		}
	}
	return option{}, false
}

// texts returns what was written as the option's value.
func (r *configReader) texts(o option, node ast.Node) ([]string, bool) {
	if sequence, ok := node.(*ast.SequenceNode); ok {
		if !o.value.list() {
			r.report(node.GetToken(), o.key+" takes one value, not a list", "")
			return nil, false
		}
		texts := make([]string, 0, len(sequence.Values))
		for _, item := range sequence.Values {
			text, ok := r.text(o, item)
			if !ok {
				return nil, false
			}
			texts = append(texts, text)
		}
		return texts, true
	}
	text, ok := r.text(o, node)
	return []string{text}, ok
}

func (r *configReader) text(o option, node ast.Node) (string, bool) {
	switch node := node.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return node.GetToken().Value, true
	case *ast.NullNode:
		r.report(node.GetToken(), o.key+" has no value", "remove the line to have the default")
	default:
		r.report(startOf(node), fmt.Sprintf("%s takes a plain value (%s)", o.key, o.value.kind()), "")
	}
	return "", false
}

// startOf is where a node begins: the token of a mapping is its first colon.
func startOf(node ast.Node) *token.Token {
	switch node := node.(type) {
	case *ast.MappingNode:
		if !node.IsFlowStyle && len(node.Values) > 0 {
			return startOf(node.Values[0])
		}
	case *ast.MappingValueNode:
		return node.Key.GetToken()
	}
	return node.GetToken()
}

func (r *configReader) report(at *token.Token, message, suggestion string) {
	problem := dataflow.Problem{File: r.path, Message: message, Suggestion: suggestion}
	if at != nil && at.Position != nil && at.Position.Line >= 1 && at.Position.Line <= len(r.lines) {
		problem.Line, problem.Col = at.Position.Line, max(1, at.Position.Column)
		line := strings.ReplaceAll(strings.TrimRight(r.lines[problem.Line-1], "\r"), "\t", " ")
		problem.Excerpt = line + "\n" + strings.Repeat(" ", problem.Col-1) + "^"
	}
	r.problems = append(r.problems, problem)
}
