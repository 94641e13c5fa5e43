package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/wire"
)

func newStopCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:   "stop DATAFLOW",
		Short: "Ask the nodes of a dataflow to end",
		Long: `stop has the broker send Stop to every connected node of a dataflow. Nodes end by
themselves when they see it; stop does not wait for that.`,
		Example:           `  brokerctl stop camera`,
		Args:              arguments(1, 1, "the name of a dataflow (`brokerctl status` lists them)"),
		ValidArgsFunction: t.completeDataflows,
		RunE: func(command *cobra.Command, args []string) error {
			err := t.call(command.Context(), wire.VerbStop, wire.StopRequest{Dataflow: args[0]}, nil)
			if errors.Is(err, wire.ErrNotFound) || errors.Is(err, wire.ErrUnknownDataflow) {
				return fmt.Errorf("%w (`brokerctl status` lists the dataflows)", err)
			}
			if err != nil {
				return err
			}
			if t.output == outputJSON {
				return writeJSON(t.out, map[string]string{"stopped": args[0]})
			}
			_, err = fmt.Fprintf(t.out, "nodes of %s were asked to stop\n", args[0])
			return err
		},
	}
}
