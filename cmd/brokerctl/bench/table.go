package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Write prints the report as tables.
func (r *Report) Write(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "%s, %d cores, %s, %s\n", m.CPU, m.Cores, m.Kernel, m.Go)
	fmt.Fprintf(w, "%s, %v; load average %s before, %s after\n", m.Start.Format(time.RFC3339), m.End.Sub(m.Start), m.LoadStart, m.LoadEnd)
	fmt.Fprintf(w, "%d rounds in which the paths take turns; ratios are those of the same round: median (smallest–largest)\n", r.Spec.Rounds)
	for _, part := range []func(io.Writer) error{r.writeLatency, r.writeThroughput, r.writeFanout, r.writeFlat, r.writeFirst, r.writeGoals} {
		if err := part(w); err != nil {
			return err
		}
	}
	return nil
}

// grid is a table whose cells end with tabs.
func grid(w io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
}

// references are those that rows can be compared with, as heads of columns.
func (r *Report) referenceHeads() string {
	var b strings.Builder
	for _, to := range r.Spec.References {
		b.WriteString("× " + to + "\t\t")
	}
	return b.String()
}

func (r *Report) referenceCells(ratios map[string]Spread) string {
	var b strings.Builder
	for _, to := range r.Spec.References {
		if sp, ok := ratios[to]; ok {
			fmt.Fprintf(&b, "%.2f\t(%.2f–%.2f)\t", sp.Median, sp.Min, sp.Max)
		} else {
			b.WriteString("\t\t")
		}
	}
	return b.String()
}

func (r *Report) writeLatency(w io.Writer) error {
	if len(r.Latency) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nOne-way time, a message every %v (large ones less often)\n", r.Spec.Interval)
	tw := grid(w)
	fmt.Fprintf(tw, "size\tpath\tp50 µs\tp90 µs\tp99 µs\t%smemcpy µs\t\n", r.referenceHeads())
	for _, row := range r.Latency {
		size, memcpy := FormatBytes(row.Bytes), micros(row.MemcpyP50NS)
		for _, p := range row.Paths {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s%s\t\n",
				size, p.Path, micros(p.P50NS), micros(p.P90NS), micros(p.P99NS), r.referenceCells(p.Ratios), memcpy)
			size, memcpy = "", ""
		}
	}
	return tw.Flush()
}

func (r *Report) writeThroughput(w io.Writer) error {
	if len(r.Throughput) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nBack to back")
	tw := grid(w)
	fmt.Fprintf(tw, "size\tpath\tmessages/s\tMB/s\t%sallocs/send\tallocs/receive\t\n", r.referenceHeads())
	for _, row := range r.Throughput {
		size := FormatBytes(row.Bytes)
		for _, p := range row.Paths {
			fmt.Fprintf(tw, "%s\t%s\t%.0f\t%.0f\t%s%.3f\t%.3f\t\n", size, p.Path, p.PerSecond,
				p.PerSecond*float64(row.Bytes)/1e6, r.referenceCells(p.Ratios), p.Allocs.Send, p.Allocs.Receive)
			size = ""
		}
	}
	return tw.Flush()
}

func (r *Report) writeFanout(w io.Writer) error {
	if len(r.Fanout) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nTo several receivers, %s\n", FormatBytes(r.Fanout[0].Bytes))
	tw := grid(w)
	fmt.Fprintln(tw, "path\treceivers\tSend p50 µs\tSend p99 µs\t× fewest\t\tits CPU µs\t× fewest\t\tone-way p50 µs\tone-way p99 µs\t")
	for _, f := range r.Fanout {
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%.2f\t(%.2f–%.2f)\t%s\t%.2f\t(%.2f–%.2f)\t%s\t%s\t\n", f.Path, f.Receivers, micros(f.SendP50NS), micros(f.SendP99NS),
			f.SendRatio.Median, f.SendRatio.Min, f.SendRatio.Max, micros(f.SendCPUNS),
			f.SendCPURatio.Median, f.SendCPURatio.Min, f.SendCPURatio.Max, micros(f.OneWayP50NS), micros(f.OneWayP99NS))
	}
	return tw.Flush()
}

func (r *Report) writeFlat(w io.Writer) error {
	if len(r.Flat) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nWritten in place, a message every %v: the size should not matter\n", r.Spec.Interval)
	tw := grid(w)
	fmt.Fprintln(tw, "path\tsize\tp50 µs\tp99 µs\t× smallest\t\t")
	for _, f := range r.Flat {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%.2f\t(%.2f–%.2f)\t\n", f.Path, FormatBytes(f.Bytes),
			micros(f.P50NS), micros(f.P99NS), f.Ratio.Median, f.Ratio.Min, f.Ratio.Max)
	}
	return tw.Flush()
}

func (r *Report) writeFirst(w io.Writer) error {
	if len(r.First) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nFirst message of fresh processes, %s\n", FormatBytes(r.First[0].Bytes))
	tw := grid(w)
	fmt.Fprintln(tw, "path\tmemory\tfirst µs\tlater µs\tfirst / later\t\t")
	for _, f := range r.First {
		memory := "as it comes"
		if f.Reserved {
			memory = "reserved"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%.2f\t(%.2f–%.2f)\t\n", f.Path, memory,
			micros(percentile(sorted(f.FirstNS), 0.5)), micros(percentile(sorted(f.SteadyP50NS), 0.5)), f.Ratio.Median, f.Ratio.Min, f.Ratio.Max)
	}
	return tw.Flush()
}

func (r *Report) writeGoals(w io.Writer) error {
	if len(r.Goals) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nGoals")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, g := range r.Goals {
		verdict, sign := "met", "≤"
		if !g.Reached {
			verdict = "MISSED"
		}
		if !g.AtMost {
			sign = "≥"
		}
		spread := ""
		if g.Min != g.Max {
			spread = fmt.Sprintf("(%.2f–%.2f)", g.Min, g.Max)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s %g\t%.3g\t%s\n", verdict, g.What, sign, g.Bound, g.Value, spread)
	}
	return tw.Flush()
}

func micros(ns int64) string {
	if ns < 10_000 {
		return fmt.Sprintf("%.1f", float64(ns)/1000)
	}
	return fmt.Sprintf("%.0f", float64(ns)/1000)
}

// FormatBytes writes a size with a binary unit.
func FormatBytes(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
