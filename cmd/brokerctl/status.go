package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/node/control"
	"github.com/brokerd/brokerd/wire"
)

func newStatusCommand(t *tool) *cobra.Command {
	var (
		watch    bool
		verbose  bool
		interval time.Duration
	)
	command := &cobra.Command{
		Use:   "status [DATAFLOW]",
		Short: "Show nodes, edges and memory of the broker",
		Long: `status shows the broker's dataflows: which nodes are connected and how, what each
edge carries, where messages wait, are held and are dropped. KEPT is what a node
has in its own memory of messages that it held for too long. Latencies are from
the sender's Publish until the broker hands the message to the receiver's
connection. Messages on lanes do not pass through the broker: it knows how many
there are, and - stands for what it does not know. With --watch, rates are those of
the last interval.`,
		Example: `  brokerctl status
  brokerctl status camera -w                      # one dataflow, live
  brokerctl status -o json | jq '.edges[] | select(.dropped > 0)'
  brokerctl status -w --interval 10s -o json      # one line of JSON every ten seconds`,
		Args:              arguments(0, 1, ""),
		ValidArgsFunction: t.completeDataflows,
	}
	command.Flags().BoolVarP(&watch, "watch", "w", false, "keep showing it")
	command.Flags().BoolVarP(&verbose, "verbose", "v", false, "why each edge has its path, one by one")
	command.Flags().DurationVar(&interval, "interval", time.Second, "time between two looks of --watch")
	command.RunE = func(command *cobra.Command, args []string) error {
		if interval < 100*time.Millisecond {
			return cli.Usage(fmt.Errorf("--interval: %s is less than 100ms", interval))
		}
		only := ""
		if len(args) == 1 {
			only = args[0]
		}
		ctx, cancel := untilSignal(command.Context(), t.signals)
		defer cancel()
		client, err := t.dial(ctx)
		if err != nil {
			return err
		}
		defer client.Close()
		look := &statusLook{tool: t, client: client, only: only, verbose: verbose}
		if watch {
			return t.explain(look.watch(ctx, interval))
		}
		return t.explain(look.once(ctx))
	}
	return command
}

// statusLook asks one broker for its status, again and again.
type statusLook struct {
	*tool
	client  *control.Client
	only    string // name of a dataflow; empty: all
	verbose bool
	last    *wire.Status
}

func (l *statusLook) ask(ctx context.Context) (*wire.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	status := &wire.Status{}
	if err := l.client.Call(ctx, wire.VerbStatus, nil, status); err != nil {
		return nil, err
	}
	if l.only == "" {
		return status, nil
	}
	return status, l.narrow(status)
}

// narrow leaves one dataflow in the status.
func (l *statusLook) narrow(s *wire.Status) error {
	names := []string{}
	for _, d := range s.Dataflows {
		names = append(names, d.Name)
	}
	s.Dataflows = keep(s.Dataflows, func(d wire.DataflowStatus) bool { return d.Name == l.only })
	s.Nodes = keep(s.Nodes, func(n wire.NodeStatus) bool { return n.Dataflow == l.only })
	s.Edges = keep(s.Edges, func(e wire.EdgeStatus) bool { return e.Dataflow == l.only })
	if len(s.Dataflows) > 0 {
		return nil
	}
	if len(names) == 0 {
		return fmt.Errorf("no dataflow %q is loaded, nor any other", l.only)
	}
	return fmt.Errorf("no dataflow %q is loaded; there is %s", l.only, strings.Join(names, ", "))
}

// keep returns those of list that want wants; never nil, so that JSON has [].
func keep[T any](list []T, want func(T) bool) []T {
	kept := []T{}
	for _, item := range list {
		if want(item) {
			kept = append(kept, item)
		}
	}
	return kept
}

func (l *statusLook) once(ctx context.Context) error {
	status, err := l.ask(ctx)
	if err != nil {
		return err
	}
	if l.output == outputJSON {
		return writeJSON(l.out, status)
	}
	_, err = fmt.Fprintln(l.out, strings.Join(statusLines(status, nil, l.verbose, inColour(l.out)), "\n"))
	return err
}

// watch shows the status until the context ends. On a terminal it has the
// screen to itself and leaves the last look behind; elsewhere one follows the
// other.
func (l *statusLook) watch(ctx context.Context, interval time.Duration) error {
	onTerminal := isTerminal(l.out) && l.output == outputText
	var lines []string
	if onTerminal {
		// Another screen, no cursor, no line wrap; all undone at the end.
		fmt.Fprint(l.out, "\x1b[?1049h\x1b[?25l\x1b[?7l")
		defer func() {
			fmt.Fprint(l.out, "\x1b[?7h\x1b[?25h\x1b[?1049l")
			fmt.Fprintln(l.out, strings.Join(lines, "\n"))
		}()
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		status, err := l.ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case l.output == outputJSON:
			err = writeJSONLine(l.out, status)
		case onTerminal:
			lines = statusLines(status, l.last, l.verbose, inColour(l.out))
			l.draw(lines)
		default:
			_, err = fmt.Fprintln(l.out, strings.Join(statusLines(status, l.last, l.verbose, false), "\n")+"\n")
		}
		if err != nil {
			return err
		}
		l.last = status
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-resized:
				if onTerminal {
					l.draw(lines)
				}
			case <-ticker.C:
				waiting = false
			}
		}
	}
}

// draw puts lines on the screen: as many as it has room for. Each line is
// overwritten in place, which does not flicker as an empty screen would.
func (l *statusLook) draw(lines []string) {
	height := 24
	if file, ok := l.out.(*os.File); ok {
		if _, h, err := term.GetSize(int(file.Fd())); err == nil && h > 1 {
			height = h
		}
	}
	if len(lines) > height {
		more := len(lines) - height + 1
		lines = append(lines[:height-1:height-1], fmt.Sprintf("… %s (a taller window shows them)", cli.Plural(more, "more line")))
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line + "\x1b[K")
	}
	b.WriteString("\x1b[J")
	fmt.Fprint(l.out, b.String())
}

// statusLines lays a status out. before, if not nil, is an earlier one of the
// same broker; rates are then shown.
func statusLines(s, before *wire.Status, verbose, colours bool) []string {
	if before != nil && (before.Instance != s.Instance || before.UptimeSeconds >= s.UptimeSeconds) {
		before = nil
	}
	c := s.Counters
	lines := []string{
		fmt.Sprintf("%s  brokerd %s, up %s, %s", paint(colours, bold, s.Addr), s.Version, span(s.UptimeSeconds), cli.Plural(s.Connections, "connection")),
		fmt.Sprintf("shared memory  %s of %s in %s (%d cached, %d retired)", cli.Bytes(s.Memory.UsedBytes), cli.Bytes(s.Memory.LimitBytes),
			cli.Plural(s.Memory.Regions, "region"), s.Memory.CachedRegions, s.Memory.RetiredRegions),
	}
	trouble := fmt.Sprintf("%s dropped, %s protocol errors, %s refused", grouped(c.Drops), grouped(c.ProtocolErrors), grouped(c.RefusedConnections+c.AuthFailures))
	if c.Drops+c.ProtocolErrors+c.RefusedConnections+c.AuthFailures > 0 {
		trouble = paint(colours, yellow, trouble)
	}
	lines = append(lines, fmt.Sprintf("messages       %s in and %s out through the broker; %s", grouped(c.MessagesIn), grouped(c.MessagesOut), trouble))
	if len(s.Dataflows) == 0 {
		return append(lines, "", "no dataflow is loaded: `brokerctl run FLOW.yml`, or `brokerd --dataflow FLOW.yml`")
	}
	lines = append(lines, "")
	lines = append(lines, nodeTable(s).lines(colours)...)
	lines = append(lines, stuckLines(s, colours)...)
	if len(s.Edges) > 0 {
		lines = append(lines, "")
		lines = append(lines, edgeTable(s, before).lines(colours)...)
		for i, line := range pathLines(s, verbose) {
			if i == 0 {
				lines = append(lines, "")
			}
			lines = append(lines, line)
		}
	}
	return lines
}

func nodeTable(s *wire.Status) *table {
	t := &table{head: []cell{text("NODE"), text("STATE"), text("MEMORY BY"), number("SINCE"), number("REGIONS"), number("LEASED"), number("HELD"), number("KEPT"), text("CLIENT")}}
	for _, n := range s.Nodes {
		name := text(n.Dataflow + "/" + n.Node)
		if !n.Connected {
			t.rows = append(t.rows, []cell{name, inked(red, text("away")), text("-"), number("-"), number("-"), number("-"), number("-"), number("-"), text("-")})
			continue
		}
		path := text("shm")
		if !n.Local {
			path = inked(yellow, text("tcp: "+clip(n.LocalReason, 30)))
		}
		t.rows = append(t.rows, []cell{
			name, inked(green, text("up")), path, number(span(n.ConnectedSeconds)), number(fmt.Sprint(n.Regions)),
			number(cli.Bytes(n.RegionBytes)), number(cli.Bytes(n.HeldBytes)), number(cli.Bytes(n.KeptBytes)), text(n.Client),
		})
	}
	return t
}

// stuckLines names the nodes that hold messages for too long and cannot move them
// out of shared memory.
func stuckLines(s *wire.Status, colours bool) (lines []string) {
	for _, n := range s.Nodes {
		if n.Stuck > 0 {
			lines = append(lines, paint(colours, yellow, fmt.Sprintf("%s/%s holds %s for too long and cannot evacuate: %s",
				n.Dataflow, n.Node, cli.Plural(int(n.Stuck), "message"), n.StuckReason)))
		}
	}
	return lines
}

// clip cuts a text to a number of letters.
func clip(s string, letters int) string {
	if utf8.RuneCountInString(s) <= letters {
		return s
	}
	return string([]rune(s)[:letters-1]) + "…"
}
