package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/dataflow"
)

// Forms of a graph.
const (
	graphMermaid = "mermaid"
	graphDOT     = "dot"
)

func newGraphCommand(t *tool) *cobra.Command {
	var form string
	command := &cobra.Command{
		Use:   "graph FLOW.yml",
		Short: "Draw a dataflow as a Mermaid or Graphviz graph",
		Long: `graph prints the nodes of a dataflow file and the edges between them, as text for
Mermaid (Markdown pages show it) or Graphviz. No broker is needed.`,
		Example: `  brokerctl graph camera.yml
  brokerctl graph camera.yml -f dot | dot -Tsvg > camera.svg
  brokerctl graph camera.yml -o json | jq -r '.edges[] | .from + " " + .to'`,
		Args:              arguments(1, 1, "a dataflow file"),
		ValidArgsFunction: completeFlows,
	}
	command.Flags().StringVarP(&form, "format", "f", graphMermaid, "mermaid or dot")
	_ = command.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{graphMermaid, graphDOT}, cobra.ShellCompDirectiveNoFileComp))
	command.RunE = func(_ *cobra.Command, args []string) error {
		return t.graph(args[0], form)
	}
	return command
}

func (t *tool) graph(file, form string) error {
	if form != graphMermaid && form != graphDOT {
		return cli.Usage(fmt.Errorf("--format: %q is neither %s nor %s", form, graphMermaid, graphDOT))
	}
	flow, err := t.load(file, false)
	if err != nil {
		return err
	}
	if t.output == outputJSON {
		return writeJSON(t.out, graphOf(flow))
	}
	drawn := dataflow.Mermaid(flow)
	if form == graphDOT {
		drawn = dataflow.DOT(flow)
	}
	_, err = fmt.Fprint(t.out, drawn)
	return err
}

// load reads a dataflow file; warnings go to stderr.
func (t *tool) load(file string, strict bool) (*dataflow.Flow, error) {
	flow, warnings, err := dataflow.Load(file, dataflow.Options{Strict: strict})
	for _, warning := range warnings {
		fmt.Fprintln(t.err, warning)
	}
	if err != nil {
		return nil, cli.Config(err)
	}
	return flow, nil
}

// graphJSON is `graph -o json`.
type graphJSON struct {
	Name  string      `json:"name"`
	Nodes []graphNode `json:"nodes"`
	Edges []graphEdge `json:"edges"`
}

type graphNode struct {
	ID      string   `json:"id"`
	Path    string   `json:"path,omitempty"`
	Outputs []string `json:"outputs"`
}

type graphEdge struct {
	From          string  `json:"from"`
	To            string  `json:"to"`
	QueueSize     int     `json:"queue_size"`
	Policy        string  `json:"policy"`
	HoldTimeoutMS float64 `json:"hold_timeout_ms"`
}

func graphOf(flow *dataflow.Flow) graphJSON {
	graph := graphJSON{Name: flow.Name, Nodes: []graphNode{}, Edges: []graphEdge{}}
	for _, n := range flow.Nodes {
		graph.Nodes = append(graph.Nodes, graphNode{ID: n.ID, Path: n.Path, Outputs: append([]string{}, n.Outputs...)})
	}
	for _, e := range flow.Edges() {
		graph.Edges = append(graph.Edges, graphEdge{
			From:          e.From.String(),
			To:            e.To(),
			QueueSize:     e.Input.QueueSize,
			Policy:        e.Input.Policy.String(),
			HoldTimeoutMS: float64(e.Input.HoldTimeout.Milliseconds()),
		})
	}
	return graph
}
