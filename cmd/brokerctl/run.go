package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/node/control"
	"github.com/brokerd/brokerd/wire"
)

// runOptions are the flags of run.
type runOptions struct {
	dir           string
	skip          []string
	strict        bool
	startBroker   bool
	grace         time.Duration // between Stop and SIGTERM
	brokerTimeout time.Duration // for a lost broker to come back
}

func newRunCommand(t *tool) *cobra.Command {
	var o runOptions
	command := &cobra.Command{
		Use:   "run FLOW.yml",
		Short: "Run a dataflow: start its processes, show their output, end them in order",
		Long: `run brings a dataflow to the broker and starts its nodes as processes, receivers
before senders. Each gets ` + node.EnvAddr + `, ` + node.EnvDataflow + ` and ` + node.EnvNode + ` in its
environment; relative paths are looked up from the directory of the dataflow
file, which is also the working directory. Nodes without a path (or with path:
dynamic) are not started: whoever likes may connect as them.

Ctrl-C ends it in order: the broker tells all nodes to stop; who is still there
after --grace gets SIGTERM, sources first, and at last SIGKILL. A second Ctrl-C
kills at once. The first node that fails ends the others in the same way. When
the run is over, the dataflow is taken from the broker again.

Exit status: 0 every node ended well, 1 a node failed, 3 no broker, 78 the
dataflow file is wrong.`,
		Example: `  brokerctl run camera.yml
  brokerctl run camera.yml --start-broker          # with a brokerd of its own
  brokerctl run camera.yml --skip detector         # detector runs in a debugger
  brokerctl run camera.yml -o json | jq -r 'select(.node == "sink") | .line'`,
		Args:              arguments(1, 1, "a dataflow file"),
		ValidArgsFunction: completeFlows,
	}
	flags := command.Flags()
	flags.StringVar(&o.dir, "dir", "", "working `DIRECTORY` of the nodes (default: that of the dataflow file)")
	flags.StringArrayVar(&o.skip, "skip", nil, "do not start this `NODE` (repeatable)")
	flags.BoolVar(&o.startBroker, "start-broker", false, "start a brokerd for this run, on a free port")
	flags.DurationVar(&o.grace, "grace", 5*time.Second, "time to end after Stop, before SIGTERM")
	flags.DurationVar(&o.brokerTimeout, "broker-timeout", 30*time.Second, "time for a lost broker to come back")
	flags.BoolVar(&o.strict, "strict", false, "refuse keys in the file that brokerd would ignore")
	command.RunE = func(command *cobra.Command, args []string) error {
		return t.run(command.Context(), args[0], o)
	}
	return command
}

func (t *tool) run(ctx context.Context, file string, o runOptions) error {
	flow, err := t.load(file, o.strict)
	if err != nil {
		return err
	}
	yaml, err := os.ReadFile(file)
	if err != nil {
		return cli.Config(err)
	}
	for _, id := range o.skip {
		if _, ok := flow.Node(id); !ok {
			return cli.Usage(fmt.Errorf("--skip: %s has no node %q", file, id))
		}
	}
	r := &runner{tool: t, options: o, flow: flow, yaml: string(yaml), exits: make(chan *child, len(flow.Nodes))}
	if r.commands, err = r.resolveCommands(); err != nil {
		return cli.Config(err)
	}
	names := sourcesFirst(flow)
	if o.startBroker {
		names = append(names, brokerName)
	}
	r.printer = newPrinter(t, names)
	// See prepare: children must not outlive us, and belong to this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if o.startBroker {
		own, err := r.startBroker(ctx)
		if err != nil {
			return err
		}
		defer own.stop(r.printer)
	}
	return r.run(ctx)
}

// runner is one run of a flow. All of it is used by one goroutine, apart from
// exits.
type runner struct {
	*tool
	options  runOptions
	flow     *dataflow.Flow
	yaml     string
	commands map[string]*exec.Cmd // of the nodes to start, by id
	printer  *printer
	client   *control.Client
	children []*child    // in the order of starting
	exits    chan *child // room for all, so that no child's end waits for us
}

func (r *runner) run(ctx context.Context) error {
	client, err := r.bring(ctx)
	if err != nil {
		return err
	}
	r.client = client
	defer func() { r.client.Close() }()
	token, err := r.tokenPath()
	if err != nil {
		return cli.Config(err)
	}
	order := sourcesFirst(r.flow)
	slices.Reverse(order)
	var failure error
	for _, id := range order {
		cmd, ok := r.commands[id]
		if !ok {
			continue
		}
		cmd.Env = r.environment(id, token)
		c, err := startChild(id, cmd, r.printer.line, func(c *child) { r.exits <- c })
		if err != nil {
			failure = fmt.Errorf("node %s cannot be started: %w", id, err)
			break
		}
		r.children = append(r.children, c)
		r.printer.event(eventStarted, id, cmd.Process.Pid, fmt.Sprintf("started (pid %d)", cmd.Process.Pid))
	}
	return r.untilOver(ctx, failure)
}

// bring connects to the broker and loads the flow into it.
func (r *runner) bring(ctx context.Context) (*control.Client, error) {
	client, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	load := wire.LoadRequest{Name: r.flow.Name, YAML: r.yaml, Owner: true}
	if err := client.Call(ctx, wire.VerbLoad, load, nil); err != nil {
		client.Close()
		return nil, r.explain(err)
	}
	return client, nil
}

// environment is what a node finds around it: ours, the file's, and where the
// broker is.
func (r *runner) environment(id, tokenPath string) []string {
	env := os.Environ()
	if n, ok := r.flow.Node(id); ok {
		env = append(env, n.Environ()...)
	}
	env = append(env,
		node.EnvAddr+"="+r.address(),
		node.EnvDataflow+"="+r.flow.Name,
		node.EnvNode+"="+id)
	if tokenPath != "" {
		env = append(env, node.EnvAuthTokenFile+"="+tokenPath)
	}
	return env
}

// resolveCommands finds the program of every node to start. All that are
// missing are named at once.
func (r *runner) resolveCommands() (map[string]*exec.Cmd, error) {
	dir := r.options.dir
	if dir == "" {
		dir = filepath.Dir(r.flow.File)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	commands := map[string]*exec.Cmd{}
	var wrong []error
	for i := range r.flow.Nodes {
		n := &r.flow.Nodes[i]
		if n.Dynamic() || slices.Contains(r.options.skip, n.ID) {
			continue
		}
		path, err := programPath(n.Path, dir)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: node %s: %w", r.flow.File, n.ID, err))
			continue
		}
		cmd := exec.Command(path, n.Args...)
		cmd.Dir = dir
		commands[n.ID] = cmd
	}
	return commands, errors.Join(wrong...)
}
