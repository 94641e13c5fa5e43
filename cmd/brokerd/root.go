package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/internal/cli"
)

const rootLong = `brokerd connects the processes of a dataflow. Between nodes of this machine messages
of any size go through shared memory, on lanes from process to process. Where there
is no lane they go through brokerd over TCP: small ones inside the frame, large ones
in shared memory if the node sees it. Every dropped message is accounted for.

Without a subcommand it serves until it is stopped. SIGTERM and SIGINT let nodes
end first; a second one exits at once. SIGHUP reads the dataflow files, the token and
the certificates again, and leaves alone what did not change in them.

Exit status: 0 ended in good order, 1 failed while running, 2 wrong usage,
78 wrong configuration or dataflow file.`

const rootExample = `  brokerd demo                                   # see it work, on photographs
  brokerd --dataflow camera.yml                  # serve one dataflow on 127.0.0.1:7447
  brokerd --config /etc/brokerd/brokerd.yaml     # as the systemd unit does
  brokerd --listen 0.0.0.0:7447 --tls-cert cert.pem --tls-key key.pem --auth-token-file token
  brokerd check camera.yml lidar.yml             # look at dataflow files, start nothing
  brokerd config --config brokerd.yaml           # what would be in force, and why`

// newRootCommand builds the command line. A new tree each time: cobra keeps
// what it parsed in its commands.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "brokerd",
		Short:         "Broker of a dataflow: routes messages, hands out shared memory",
		Long:          rootLong,
		Example:       rootExample,
		Args:          noArguments,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.Usage(err) })
	root.SetUsageTemplate(root.UsageTemplate() + settingsUsage())
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	asServe(root)

	serve := &cobra.Command{
		Use:   "serve",
		Short: "Serve (also what brokerd does without a subcommand)",
		Long:  rootLong,
		Args:  noArguments,
	}
	asServe(serve)
	root.AddCommand(serve, newConfigCommand(), newCheckCommand(), newVersionCommand(), newDemoCommand())
	return root
}

// asServe makes a command the one that serves.
func asServe(command *cobra.Command) {
	flags := addSettingsFlags(command.Flags())
	command.RunE = func(command *cobra.Command, _ []string) error {
		return serve(command, flags)
	}
}

// settingsUsage is the end of --help for the commands that take settings.
func settingsUsage() string {
	var b strings.Builder
	b.WriteString(`{{if .LocalFlags.Lookup "listen"}}
Environment and configuration file (flag over environment over file over default):
`)
	table := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintf(table, "  %s\tthe configuration file, in place of --config\n", configEnv)
	var s settings
	for _, o := range s.options() {
		fmt.Fprintf(table, "  %s\t%s: %s\n", o.env(), o.key, placeholder(o))
	}
	// A tabwriter fails only as its writer does, and a Builder does not.
	_ = table.Flush()
	b.WriteString("  NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM   set by systemd\n  NO_COLOR   no colours in console logs\n{{end}}")
	return b.String()
}

func placeholder(o option) string {
	if o.value.list() {
		return "[" + o.value.kind() + ", ...]"
	}
	return o.value.kind()
}
