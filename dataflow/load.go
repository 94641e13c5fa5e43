package dataflow

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Options changes how a file is read. The zero value is the usual way.
type Options struct {
	// Strict makes errors of the warnings about keys that brokerd ignores.
	Strict bool
}

// Load reads the dataflow in the file at path. What is wrong with its content
// comes back as an *Errors; a file that cannot be read as the error of the
// file system, wrapped.
func Load(path string, opt Options) (*Flow, []Warning, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("dataflow: %w", err)
	}
	defer f.Close()
	// One byte past the limit is enough for Parse to see that it is too long.
	data, err := io.ReadAll(io.LimitReader(f, FileBytesMax+1))
	if err != nil {
		return nil, nil, fmt.Errorf("dataflow: %w", err)
	}
	return Parse(path, data, opt)
}

// Parse reads a dataflow from data. name is the file's name for messages; the
// dataflow takes its name from it when the file has no key name.
// The error is always an *Errors.
func Parse(name string, data []byte, opt Options) (*Flow, []Warning, error) {
	r := &reader{file: name, strict: opt.Strict}
	flow := r.parse(data)
	warnings := sortWarnings(r.warnings)
	if len(r.problems) > 0 {
		return nil, warnings, r.errors()
	}
	return flow, warnings, nil
}

// parse goes from bytes to a Flow. Findings are left in the reader; with any
// problem among them the Flow must not be used.
func (r *reader) parse(data []byte) *Flow {
	if len(data) > FileBytesMax {
		r.whole(fmt.Sprintf("the file is longer than %d bytes", FileBytesMax), "split it into several dataflows")
		return nil
	}
	if !r.decode(data) {
		return nil
	}
	tokens, ok := r.tokenize()
	if !ok {
		return nil
	}
	root, ok := r.tree(tokens)
	if !ok {
		return nil
	}
	flow := r.flow(root)
	r.resolve(flow)
	return flow
}

// errors returns the findings in the order of the file.
func (r *reader) errors() *Errors {
	list := slices.Clone(r.problems)
	slices.SortStableFunc(list, byPlace)
	return &Errors{List: slices.Compact(list), More: r.more}
}

func byPlace(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
}

func sortWarnings(list []Warning) []Warning {
	slices.SortStableFunc(list, func(a, b Warning) int { return byPlace(Problem(a), Problem(b)) })
	return slices.Compact(list)
}

// nameOfFile makes a dataflow's name of its file's name.
func nameOfFile(file string) string {
	base := filepath.Base(filepath.ToSlash(file))
	for _, ext := range []string{".yml", ".yaml"} {
		base = strings.TrimSuffix(base, ext)
	}
	name := strings.Map(func(c rune) rune {
		if isIDRune(c) {
			return c
		}
		return '-'
	}, base)
	name = strings.TrimLeft(name, ".-")
	if name == "" {
		return "dataflow"
	}
	return name[:min(len(name), IDBytesMax)]
}
