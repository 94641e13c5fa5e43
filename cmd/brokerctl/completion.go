package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/wire"
)

// completionTimeout bounds what a press of the tab key may wait for the broker.
const completionTimeout = 500 * time.Millisecond

// completeFlows completes names of dataflow files.
func completeFlows(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yml", "yaml"}, cobra.ShellCompDirectiveFilterFileExt
}

// completeDataflows completes names of the dataflows that the broker has. Flags
// are parsed before, so --addr counts. No broker: no suggestions, no error.
func (t *tool) completeDataflows(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	status, err := t.statusForCompletion(command.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, 0, len(status.Dataflows))
	for _, d := range status.Dataflows {
		names = append(names, d.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (t *tool) statusForCompletion(ctx context.Context) (wire.Status, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	var status wire.Status
	err := t.call(ctx, wire.VerbStatus, nil, &status)
	return status, err
}
