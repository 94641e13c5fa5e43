package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/wire"
)

func newDropsCommand(t *tool) *cobra.Command {
	var follow bool
	command := &cobra.Command{
		Use:   "drops",
		Short: "Show which messages were dropped, where and why",
		Long: `drops shows how many messages each edge lost since the broker started, by reason.
With --follow the records of the drop log come after that, as they are written:
the first drop of an edge and reason at once, then one record a second with the
exact count.

With -o json each record is one line with the keys of the log's lines. --follow
then leaves the totals out, so that the counts of the lines can be added up.`,
		Example: `  brokerctl drops
  brokerctl drops -f
  brokerctl drops -o json | jq 'select(.reason == "queue_full")'
  brokerctl drops -f -o json >> drops.jsonl`,
		Args: arguments(0, 0, ""),
	}
	command.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new drops until Ctrl-C")
	command.RunE = func(command *cobra.Command, _ []string) error {
		ctx, cancel := untilSignal(command.Context(), t.signals)
		defer cancel()
		return t.drops(ctx, follow)
	}
	return command
}

func (t *tool) drops(ctx context.Context, follow bool) error {
	client, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	if !follow {
		ask, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		var totals []wire.DropRecord
		if err := client.Call(ask, wire.VerbDrops, wire.DropsRequest{}, &totals); err != nil {
			return t.explain(err)
		}
		return t.writeTotals(totals)
	}
	first := true
	err = client.Stream(ctx, wire.VerbDrops, wire.DropsRequest{Follow: true}, func(body json.RawMessage) error {
		if first {
			first = false
			return t.followTotals(body)
		}
		var record wire.DropRecord
		if err := json.Unmarshal(body, &record); err != nil {
			return fmt.Errorf("drop record: %w", err)
		}
		return t.writeDrop(record)
	})
	if ctx.Err() != nil {
		return nil // asked to end
	}
	return t.explain(err)
}

// followTotals shows what was lost before we began to listen.
func (t *tool) followTotals(body json.RawMessage) error {
	if t.output == outputJSON {
		return nil
	}
	var totals []wire.DropRecord
	if err := json.Unmarshal(body, &totals); err != nil {
		return fmt.Errorf("drop totals: %w", err)
	}
	if err := t.writeTotals(totals); err != nil {
		return err
	}
	_, err := fmt.Fprintln(t.out)
	return err
}

func (t *tool) writeTotals(totals []wire.DropRecord) error {
	if t.output == outputJSON {
		for _, record := range totals {
			if err := t.writeDrop(record); err != nil {
				return err
			}
		}
		return nil
	}
	if len(totals) == 0 {
		_, err := fmt.Fprintln(t.out, "nothing was dropped")
		return err
	}
	out := &table{head: []cell{text("DATAFLOW"), text("EDGE"), text("REASON"), text("POLICY"), text("PATH"), number("DROPPED")}}
	var sum uint64
	for _, r := range totals {
		sum += r.Total
		out.rows = append(out.rows, []cell{
			text(r.Dataflow), text(r.From + "→" + r.To), inked(yellow, text(r.Reason)), text(r.Policy), text(r.Path),
			number(grouped(r.Total)),
		})
	}
	for _, line := range out.lines(inColour(t.out)) {
		if _, err := fmt.Fprintln(t.out, line); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(t.out, "%s in all\n", cli.Plural(int(sum), "message"))
	return err
}

// dropLine has the keys of a line of the drop log, in their order there.
type dropLine struct {
	Level     string    `json:"level"`
	Time      time.Time `json:"ts"`
	Logger    string    `json:"logger"`
	Message   string    `json:"msg"`
	Dataflow  string    `json:"dataflow"`
	From      string    `json:"from"`
	To        string    `json:"to"`
	Reason    string    `json:"reason"`
	Policy    string    `json:"policy"`
	Count     uint64    `json:"count"`
	Total     uint64    `json:"total"`
	Bytes     uint64    `json:"bytes"`
	SeqFirst  uint64    `json:"seq_first"`
	SeqLast   uint64    `json:"seq_last"`
	QueueSize int       `json:"queue_size"`
	AgeMaxMS  float64   `json:"age_max_ms"`
	Path      string    `json:"path"`
	Sender    uint64    `json:"sender_session"`
}

func (t *tool) writeDrop(r wire.DropRecord) error {
	if t.output == outputJSON {
		return writeJSONLine(t.out, dropLine{
			Level: "warn", Time: r.Time, Logger: "drop", Message: "message dropped",
			Dataflow: r.Dataflow, From: r.From, To: r.To, Reason: r.Reason, Policy: r.Policy,
			Count: r.Count, Total: r.Total, Bytes: r.Bytes, SeqFirst: r.SeqFirst, SeqLast: r.SeqLast,
			QueueSize: r.QueueSize, AgeMaxMS: r.AgeMaxMS, Path: r.Path, Sender: r.Sender,
		})
	}
	seq := fmt.Sprintf("seq %d", r.SeqLast)
	if r.SeqFirst != r.SeqLast {
		seq = fmt.Sprintf("seq %d…%d", r.SeqFirst, r.SeqLast)
	}
	colours := inColour(t.out)
	_, err := fmt.Fprintf(t.out, "%s  %s  %s  %s dropped (%s in all), %s, %s, %s\n",
		paint(colours, faint, r.Time.Local().Format("15:04:05.000")), r.From+"→"+r.To, paint(colours, yellow, r.Reason),
		grouped(r.Count), grouped(r.Total), seq, cli.Bytes(r.Bytes), r.Path)
	return err
}
