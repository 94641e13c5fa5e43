package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/dataflow"
)

// validated is what `validate -o json` says of one file.
type validated struct {
	File     string             `json:"file"`
	OK       bool               `json:"ok"`
	Name     string             `json:"name,omitempty"`
	Nodes    int                `json:"nodes"`
	Edges    int                `json:"edges"`
	Errors   []validatedProblem `json:"errors"`
	Warnings []validatedProblem `json:"warnings"`
}

type validatedProblem struct {
	File       string `json:"file"`
	Line       int    `json:"line,omitempty"`
	Col        int    `json:"col,omitempty"`
	Message    string `json:"message"`
	Excerpt    string `json:"excerpt,omitempty"`
	Suggestion string `json:"suggestion,omitempty"`
}

func newValidateCommand(t *tool) *cobra.Command {
	var strict bool
	command := &cobra.Command{
		Use:   "validate FLOW.yml...",
		Short: "Look for mistakes in dataflow files",
		Long: `validate reads dataflow files as the broker would and lists everything that is
wrong with them, each with its place. No broker is needed. Exit status 78 if any
is wrong.`,
		Example: `  brokerctl validate camera.yml
  brokerctl validate --strict *.yml
  brokerctl validate -o json camera.yml`,
		Args:              arguments(1, 1<<20, "at least one dataflow file"),
		ValidArgsFunction: completeFlows,
	}
	command.Flags().BoolVar(&strict, "strict", false, "refuse keys that brokerd would ignore")
	command.RunE = func(_ *cobra.Command, files []string) error {
		return t.validate(files, strict)
	}
	return command
}

func (t *tool) validate(files []string, strict bool) error {
	results := make([]validated, 0, len(files))
	wrong := 0
	for _, file := range files {
		flow, warnings, err := dataflow.Load(file, dataflow.Options{Strict: strict})
		result := validated{File: file, OK: err == nil, Errors: problemsOf(file, err), Warnings: []validatedProblem{}}
		for _, warning := range warnings {
			result.Warnings = append(result.Warnings, validatedProblem(warning))
			if t.output == outputText {
				fmt.Fprintln(t.out, warning)
			}
		}
		switch {
		case err != nil:
			wrong++
			if t.output == outputText {
				fmt.Fprintln(t.out, err)
			}
		default:
			result.Name, result.Nodes, result.Edges = flow.Name, len(flow.Nodes), len(flow.Edges())
			if t.output == outputText {
				fmt.Fprintf(t.out, "%s: ok (dataflow %q, %s, %s)\n", file, flow.Name, plural(result.Nodes, "node"), plural(result.Edges, "edge"))
			}
		}
		results = append(results, result)
	}
	if t.output == outputJSON {
		if err := writeJSON(t.out, map[string]any{"ok": wrong == 0, "files": results}); err != nil {
			return err
		}
	}
	if wrong == 0 {
		return nil
	}
	failed := &exitError{code: exitConfig}
	if t.output == outputText {
		failed.err = fmt.Errorf("%d of %d files wrong", wrong, len(files))
	}
	return failed
}

// problemsOf lists what an error of dataflow.Load consists of.
func problemsOf(file string, err error) []validatedProblem {
	problems := []validatedProblem{}
	var listed *dataflow.Errors
	switch {
	case err == nil:
	case errors.As(err, &listed):
		for _, p := range listed.List {
			problems = append(problems, validatedProblem(p))
		}
		if listed.More > 0 {
			problems = append(problems, validatedProblem{File: file, Message: fmt.Sprintf("and %d more", listed.More)})
		}
	default:
		problems = append(problems, validatedProblem{File: file, Message: err.Error()})
	}
	return problems
}
