package main

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/node"
)

func TestHelpNamesTheEnvironment(t *testing.T) {
	_, help, _ := command("--help")
	for _, name := range []string{node.EnvAddr, node.EnvAuthTokenFile, node.EnvTLSCA, node.EnvTLSName, node.EnvTLSCert, node.EnvTLSKey, "NO_COLOR"} {
		if !strings.Contains(help, "\n  "+name+" ") {
			t.Errorf("--help lacks %s:\n%s", name, help)
		}
	}
	if _, help, _ := command("graph", "--help"); strings.Contains(help, "NO_COLOR") {
		t.Error("the help of each command lists the environment")
	}
}

// Whoever types an example of the help gets what it says, if the files are there.
func TestHelpExamples(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "camera.yml", "nodes:\n  - {id: a, path: ./a, outputs: [x]}\n  - {id: b, path: ./b, inputs: {y: a/x}}\n")
	examples := cli.Examples(newRootCommand(streams{io.Discard, io.Discard}, nil))
	if len(examples) < 10 {
		t.Errorf("only %d examples", len(examples))
	}
	for _, example := range examples {
		t.Run(example.Line, func(t *testing.T) { checkExample(t, example) })
	}
}

func checkExample(t *testing.T, example cli.Example) {
	t.Helper()
	if example.Args == nil {
		t.Fatal("it does not call brokerctl")
	}
	var args []string
	for _, arg := range example.Args {
		files, err := filepath.Glob(arg)
		if err != nil || !strings.Contains(arg, "*") {
			files = []string{arg}
		}
		args = append(args, files...)
	}
	root := newRootCommand(streams{io.Discard, io.Discard}, nil)
	found, rest, err := root.Find(args)
	if err == nil {
		err = found.ParseFlags(rest)
	}
	if err == nil {
		err = found.ValidateArgs(found.Flags().Args())
	}
	if err == nil {
		err = root.PersistentPreRunE(found, found.Flags().Args())
	}
	if err != nil {
		t.Fatal(err)
	}
	switch found.Name() {
	case "validate", "graph", "version": // they need no broker
		if code, _, stderr := command(args...); code != cli.ExitOK || stderr != "" {
			t.Errorf("exit status %d: %s", code, stderr)
		}
	case "bench":
		flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
		flags.StringP("output", "o", "", "")
		options := bench.NewOptions(flags, bench.Own(), benchReferences)
		if err := flags.Parse(rest); err != nil {
			t.Fatal(err)
		}
		if _, err := options.Spec(); err != nil {
			t.Error(err)
		}
	}
}
