package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/dataflow"
)

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
	checked := cli.Checked{Files: []cli.File{}}
	wrong := 0
	for _, file := range files {
		flow, warnings, err := dataflow.Load(file, dataflow.Options{Strict: strict})
		result := cli.CheckedFile(file, flow, warnings, err)
		checked.Files = append(checked.Files, result)
		if err != nil {
			wrong++
		}
		if t.output != outputText {
			continue
		}
		for _, warning := range warnings {
			fmt.Fprintln(t.out, warning)
		}
		if err != nil {
			fmt.Fprintln(t.out, err)
		} else {
			fmt.Fprintln(t.out, result.String())
		}
	}
	checked.OK = wrong == 0
	if t.output == outputJSON {
		if err := writeJSON(t.out, checked); err != nil {
			return err
		}
	}
	return cli.FilesWrong(wrong, len(files), t.output == outputJSON)
}
