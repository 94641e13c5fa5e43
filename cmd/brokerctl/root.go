package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/node/control"
)

const rootLong = `brokerctl asks a running brokerd what goes on, and runs dataflows: it starts the
processes of a dataflow file, shows their output, and ends them in order.

The broker is the one at --addr, else at $BROKERD_ADDR, else at ` + control.DefaultAddr + `.

Exit status: 0 all is well, 1 something failed (of run: a node), 2 wrong usage,
3 no broker answers, 78 a wrong dataflow file.`

const rootExample = `  brokerctl run camera.yml              # start a dataflow's processes; Ctrl-C ends them
  brokerctl status -w                   # watch nodes and edges live
  brokerctl drops -f                    # every dropped message, as it happens
  brokerctl graph camera.yml -f dot | dot -Tsvg > camera.svg`

// environmentUsage is the end of the root's --help.
const environmentUsage = `{{if not .HasParent}}
Environment (a flag goes before its variable):
  ` + node.EnvAddr + `              the broker's HOST:PORT, for --addr
  ` + node.EnvAuthTokenFile + `   file that holds the broker's token, for --auth-token-file
  ` + node.EnvTLSCA + `            file of the certificates that may have signed the broker's; system: those of the machine
  ` + node.EnvTLSName + `          name in the broker's certificate, if it is not the host of the address
  ` + node.EnvTLSCert + `   file of brokerctl's own certificate, if the broker asks for one
  ` + node.EnvTLSKey + `    and of its key
  NO_COLOR                  no colours
{{end}}`

// tool is what every command has at hand.
type tool struct {
	streams
	signals   <-chan os.Signal
	addr      string
	tokenFile string
	output    string
}

// Forms of output.
const (
	outputText = "text"
	outputJSON = "json"
)

func newRootCommand(io streams, signals <-chan os.Signal) *cobra.Command {
	t := &tool{streams: io, signals: signals}
	root := &cobra.Command{
		Use:           "brokerctl",
		Short:         "Looks into a broker and runs dataflows",
		Long:          rootLong,
		Example:       rootExample,
		Args:          arguments(0, 0, ""),
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if !slices.Contains([]string{outputText, outputJSON}, t.output) {
				return cli.Usage(fmt.Errorf("--output: %q is neither %s nor %s", t.output, outputText, outputJSON))
			}
			return nil
		},
		RunE: func(command *cobra.Command, _ []string) error {
			if err := command.Help(); err != nil {
				return err
			}
			return &cli.Exit{Code: cli.ExitUsage, Err: errors.New("a command is needed")}
		},
	}
	root.SetUsageTemplate(root.UsageTemplate() + environmentUsage)
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.Usage(err) })
	flags := root.PersistentFlags()
	flags.StringVar(&t.addr, "addr", "", "the broker's `HOST:PORT` (default $"+node.EnvAddr+", else "+control.DefaultAddr+")")
	flags.StringVar(&t.tokenFile, "auth-token-file", "", "`FILE` that holds the broker's token (default $"+node.EnvAuthTokenFile+")")
	flags.StringVarP(&t.output, "output", "o", outputText, "form of the output: text or json")
	// The only error is that the flag does not exist.
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{outputText, outputJSON}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(
		newRunCommand(t),
		newStopCommand(t),
		newStatusCommand(t),
		newDropsCommand(t),
		newValidateCommand(t),
		newGraphCommand(t),
		newBenchCommand(t),
		newBenchProcessCommand(t),
		newVersionCommand(t),
	)
	return root
}

func newVersionCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  arguments(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			if t.output == outputJSON {
				return writeJSON(t.out, map[string]string{"version": versionText(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			_, err := fmt.Fprintf(t.out, "brokerctl %s (%s, %s/%s)\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// version is set by release builds with -ldflags "-X main.version=v1.2.3".
var version = ""

// versionText is the version, or what the Go toolchain recorded of the build.
func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "devel"
	}
	return strings.Trim(info.Main.Version, "()")
}
