package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/dataflow"
)

// checkedFile is one file and what has to be said of it.
type checkedFile struct {
	cli.File
	errorText    string
	warningTexts []string
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
				return cli.Usage(errors.New("check needs at least one dataflow file"))
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
	return cli.FilesWrong(wrong, len(files), format == outputJSON)
}

// checkFiles loads each file as serving would load them all: a name that two
// files share is found too.
func checkFiles(files []string, strict bool) []checkedFile {
	checked := make([]checkedFile, 0, len(files))
	fileOf := map[string]string{}
	for _, file := range files {
		flows, warnings, err := loadFlows([]string{file}, strict)
		var flow *dataflow.Flow
		if err == nil {
			flow = flows[0]
			if other, twice := fileOf[flow.Name]; twice {
				err = sameName(file, flow.Name, other)
			}
			fileOf[flow.Name] = file
		}
		result := checkedFile{File: cli.CheckedFile(file, flow, warnings, err)}
		for _, warning := range warnings {
			result.warningTexts = append(result.warningTexts, warning.String())
		}
		if err != nil {
			result.errorText = err.Error()
		}
		checked = append(checked, result)
	}
	return checked
}

func writeChecked(w io.Writer, files []checkedFile, format string, ok bool) error {
	if format == outputJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		said := cli.Checked{OK: ok, Files: []cli.File{}}
		for _, file := range files {
			said.Files = append(said.Files, file.File)
		}
		return encoder.Encode(said)
	}
	for _, file := range files {
		for _, text := range file.warningTexts {
			if _, err := fmt.Fprintln(w, text); err != nil {
				return err
			}
		}
		line := file.errorText
		if file.OK {
			line = file.String()
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}
