package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/dataflow"
)

// checkedFile is what `check -o json` says of one file.
type checkedFile struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Name     string           `json:"name,omitempty"`
	Nodes    int              `json:"nodes"`
	Edges    int              `json:"edges"`
	Errors   []checkedProblem `json:"errors"`
	Warnings []checkedProblem `json:"warnings"`

	errorText    string
	warningTexts []string
}

type checkedProblem struct {
	File       string `json:"file"`
	Line       int    `json:"line,omitempty"`
	Col        int    `json:"col,omitempty"`
	Message    string `json:"message"`
	Excerpt    string `json:"excerpt,omitempty"`
	Suggestion string `json:"suggestion,omitempty"`
}

func newCheckCommand() *cobra.Command {
	var strict bool
	command := &cobra.Command{
		Use:   "check FILE...",
		Short: "Look for mistakes in dataflow files",
		Long: `check reads dataflow files as serving would and lists everything that is wrong
with them, each with its place. It starts nothing. Exit status 78 if any is wrong.`,
		Example: `  brokerd check camera.yml
  brokerd check --strict *.yml
  brokerd check -o json camera.yml | jq '.files[].errors'`,
		Args: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(errors.New("check needs at least one dataflow file"))
			}
			return nil
		},
	}
	command.Flags().BoolVar(&strict, "strict", false, "refuse keys that brokerd would ignore")
	format := addOutputFlag(command)
	command.RunE = func(command *cobra.Command, files []string) error {
		return check(command.OutOrStdout(), files, strict, *format)
	}
	return command
}

func check(w io.Writer, files []string, strict bool, format string) error {
	checked := checkFiles(files, strict)
	wrong := 0
	for _, file := range checked {
		if !file.OK {
			wrong++
		}
	}
	if err := writeChecked(w, checked, format, wrong == 0); err != nil {
		return err
	}
	if wrong == 0 {
		return nil
	}
	failed := &exitError{code: exitConfig}
	if format == outputText {
		failed.err = fmt.Errorf("%d of %d files wrong", wrong, len(files))
	}
	return failed
}

// checkFiles loads each file as serving would load them all: a name that two
// files share is found too.
func checkFiles(files []string, strict bool) []checkedFile {
	checked := make([]checkedFile, 0, len(files))
	fileOf := map[string]string{}
	for _, file := range files {
		result := checkedFile{File: file, Errors: []checkedProblem{}, Warnings: []checkedProblem{}}
		flows, warnings, err := loadFlows([]string{file}, strict)
		for _, warning := range warnings {
			result.Warnings = append(result.Warnings, asChecked(dataflow.Problem(warning)))
			result.warningTexts = append(result.warningTexts, warning.String())
		}
		if err == nil {
			flow := flows[0]
			result.Name, result.Nodes, result.Edges = flow.Name, len(flow.Nodes), len(flow.Edges())
			if other, twice := fileOf[flow.Name]; twice {
				err = sameName(file, flow.Name, other)
			}
			fileOf[flow.Name] = file
		}
		if err != nil {
			for _, problem := range problemsOf(err) {
				if problem.File == "" {
					problem.File = file
				}
				result.Errors = append(result.Errors, asChecked(problem))
			}
			result.errorText = err.Error()
		}
		result.OK = err == nil
		checked = append(checked, result)
	}
	return checked
}

func asChecked(p dataflow.Problem) checkedProblem {
	return checkedProblem{File: p.File, Line: p.Line, Col: p.Col, Message: p.Message, Excerpt: p.Excerpt, Suggestion: p.Suggestion}
}

func writeChecked(w io.Writer, files []checkedFile, format string, ok bool) error {
	if format == outputJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(struct {
			OK    bool          `json:"ok"`
			Files []checkedFile `json:"files"`
		}{ok, files})
	}
	for _, file := range files {
		for _, text := range file.warningTexts {
			if _, err := fmt.Fprintln(w, text); err != nil {
				return err
			}
		}
		line := file.errorText
		if file.OK {
			line = fmt.Sprintf("%s: ok (dataflow %q, %s, %s)", file.File, file.Name, plural(file.Nodes, "node"), plural(file.Edges, "edge"))
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
