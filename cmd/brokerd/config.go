package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/internal/cli"
)

// Forms of output of the commands that print something.
const (
	outputText = "text"
	outputJSON = "json"
)

// addOutputFlag gives a command -o.
func addOutputFlag(command *cobra.Command) *string {
	format := outputText
	scratch := &settingFlag{
		option: option{key: "output", value: choiceValue(&format, outputText, outputJSON)},
		shown:  choiceValue(&format, outputText, outputJSON),
		into:   layer{},
	}
	command.Flags().VarP(scratch, "output", "o", "form of the output")
	return &format
}

func newConfigCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "config",
		Short: "Print the configuration that would be in force, and where each value is from",
		Long: `config takes the same flags, environment and file as serving does and prints what
comes of them. The output is a configuration file itself.`,
		Example: `  brokerd config
  BROKERD_LOG_LEVEL=debug brokerd config --config brokerd.yaml
  brokerd config -o json`,
		Args: noArguments,
	}
	flags := addSettingsFlags(command.Flags())
	format := addOutputFlag(command)
	command.RunE = func(command *cobra.Command, _ []string) error {
		config, err := resolve(flags, os.Environ())
		if err != nil {
			return err
		}
		if _, err := config.brokerConfig(); err != nil {
			return cli.Config(err)
		}
		for _, warning := range config.warnings {
			fmt.Fprintf(command.ErrOrStderr(), "brokerd: warning: %s\n", warning)
		}
		if *format == outputJSON {
			return config.writeJSON(command.OutOrStdout())
		}
		return config.writeYAML(command.OutOrStdout())
	}
	return command
}

func (e *effective) writeYAML(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, o := range e.options() {
		var text string
		if texts := o.value.texts(); o.value.list() {
			for i := range texts {
				texts[i] = yamlScalar(texts[i])
			}
			text = "[" + strings.Join(texts, ", ") + "]"
		} else {
			text = yamlScalar(texts[0])
		}
		fmt.Fprintf(table, "%s: %s\t# %s\n", o.key, text, e.origins[o.key])
	}
	return table.Flush()
}

// plainScalar matches texts that mean themselves in YAML without quotes.
var plainScalar = regexp.MustCompile(`^[A-Za-z0-9_./][A-Za-z0-9_./:@%+-]*$`)

func yamlScalar(text string) string {
	if plainScalar.MatchString(text) {
		return text
	}
	return strconv.Quote(text)
}

func (e *effective) writeJSON(w io.Writer) error {
	type entry struct {
		Key    string `json:"key"`
		Value  any    `json:"value"`
		Origin string `json:"origin"`
	}
	entries := []entry{}
	for _, o := range e.options() {
		entries = append(entries, entry{Key: o.key, Value: jsonValue(o), Origin: e.origins[o.key]})
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(entries)
}

// jsonValue is the option's value in the type that JSON has for it.
func jsonValue(o option) any {
	texts := o.value.texts()
	if o.value.list() {
		return append([]string{}, texts...)
	}
	switch o.value.(type) {
	case scalar[bool], scalar[int]:
		return json.RawMessage(texts[0])
	}
	return texts[0]
}
