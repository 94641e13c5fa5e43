package cli

import (
	"errors"
	"fmt"

	"github.com/brokerd/brokerd/dataflow"
)

// Checked is what is said of dataflow files in JSON.
type Checked struct {
	OK    bool   `json:"ok"`
	Files []File `json:"files"`
}

// File is what is said of one dataflow file.
type File struct {
	File     string    `json:"file"`
	OK       bool      `json:"ok"`
	Name     string    `json:"name,omitempty"`
	Nodes    int       `json:"nodes"`
	Edges    int       `json:"edges"`
	Errors   []Problem `json:"errors"`
	Warnings []Problem `json:"warnings"`
}

// Problem is a dataflow.Problem in JSON.
type Problem struct {
	File       string `json:"file"`
	Line       int    `json:"line,omitempty"`
	Col        int    `json:"col,omitempty"`
	Message    string `json:"message"`
	Excerpt    string `json:"excerpt,omitempty"`
	Suggestion string `json:"suggestion,omitempty"`
}

// CheckedFile describes what came of loading a file: flow, or err.
func CheckedFile(file string, flow *dataflow.Flow, warnings []dataflow.Warning, err error) File {
	f := File{File: file, OK: err == nil, Errors: []Problem{}, Warnings: []Problem{}}
	for _, warning := range warnings {
		f.Warnings = append(f.Warnings, Problem(warning))
	}
	if flow != nil {
		f.Name, f.Nodes, f.Edges = flow.Name, len(flow.Nodes), len(flow.Edges())
	}
	for _, problem := range Problems(err) {
		if problem.File == "" {
			problem.File = file
		}
		f.Errors = append(f.Errors, Problem(problem))
	}
	return f
}

// String is the line about a file that is right.
func (f *File) String() string {
	return fmt.Sprintf("%s: ok (dataflow %q, %s, %s)", f.File, f.Name, Plural(f.Nodes, "node"), Plural(f.Edges, "edge"))
}

// FilesWrong is how a command ends that has found wrong of so many files wrong:
// nil for none. said means that its output has told everything.
func FilesWrong(wrong, files int, said bool) error {
	switch {
	case wrong == 0:
		return nil
	case said:
		return Config(nil)
	}
	return Config(fmt.Errorf("%d of %d files wrong", wrong, files))
}

// Problems lists what an error of dataflow.Load consists of, or of several that
// are joined, each with its place as far as there is one.
func Problems(err error) []dataflow.Problem {
	if err == nil {
		return nil
	}
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		var problems []dataflow.Problem
		for _, one := range several.Unwrap() {
			problems = append(problems, Problems(one)...)
		}
		return problems
	}
	var listed *dataflow.Errors
	if errors.As(err, &listed) {
		problems := listed.List
		if listed.More > 0 {
			problems = append(problems[:len(problems):len(problems)],
				dataflow.Problem{File: problems[0].File, Message: fmt.Sprintf("and %d more", listed.More)})
		}
		return problems
	}
	return []dataflow.Problem{{Message: err.Error()}}
}
