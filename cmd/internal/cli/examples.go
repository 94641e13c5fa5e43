package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// Example is one command line of an example in the help, for tests that it means
// something.
type Example struct {
	Line    string
	Environ []string // NAME=value
	Args    []string // those behind the program's name
}

// Examples lists the examples in the help of a command and of all below it, each
// without its comment and what it is piped into. Lines that do not call the
// command's root have no Args.
func Examples(command *cobra.Command) []Example {
	var examples []Example
	for line := range strings.Lines(command.Example) {
		example := Example{Line: strings.TrimSpace(line)}
		text := example.Line
		for _, end := range []string{" #", " | ", " >"} {
			text, _, _ = strings.Cut(text, end)
		}
		words := strings.Fields(text)
		for len(words) > 0 && strings.Contains(words[0], "=") {
			example.Environ = append(example.Environ, words[0])
			words = words[1:]
		}
		if len(words) > 0 && words[0] == command.Root().Name() {
			example.Args = []string{}
			for _, word := range words[1:] {
				example.Args = append(example.Args, strings.Trim(word, `"'`))
			}
		}
		examples = append(examples, example)
	}
	for _, sub := range command.Commands() {
		examples = append(examples, Examples(sub)...)
	}
	return examples
}
