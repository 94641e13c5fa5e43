package main

import (
	"errors"
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
)

// curves are the lines of the picture in the order of its legend. The colours are
// those of Okabe and Ito: people who see few colours can tell them apart.
var curves = []struct {
	path, name string
	colour     color.RGBA
	dashed     bool
}{
	{pathNATS, "NATS", color.RGBA{0xcc, 0x79, 0xa7, 0xff}, false},
	{bench.PathTCP, "TCP socket", color.RGBA{0xe6, 0x9f, 0x00, 0xff}, false},
	{bench.PathUnix, "unix socket", color.RGBA{0x8c, 0x6d, 0x1f, 0xff}, false},
	{bench.PathBrokered, "brokerd, through the broker", color.RGBA{0x56, 0xb4, 0xe9, 0xff}, false},
	{bench.PathShmipc, "shmipc-go", color.RGBA{0x00, 0x9e, 0x73, 0xff}, false},
	{bench.PathLane, "brokerd, on a lane: Send", color.RGBA{0x00, 0x45, 0x9c, 0xff}, false},
	{bench.PathLaneLoan, "brokerd, on a lane: written in place", color.RGBA{0xd5, 0x5e, 0x00, 0xff}, false},
	{bench.PathLimit, "what the machine needs at least for a copy", color.RGBA{0x50, 0x50, 0x50, 0xff}, true},
}

const (
	plotWidth, plotHeight = 8 * vg.Inch, 4.6 * vg.Inch
	microsecond           = 1e3 // nanoseconds
)

// errNothingToDraw reports a run without paced messages.
var errNothingToDraw = errors.New("--plot: nothing to draw: no sizes were measured")

// plotLatency draws the medians of the paced messages over their sizes; the ending
// of the file's name says how (.png, .svg, .pdf).
func plotLatency(file string, report *bench.Report) error {
	plot.DefaultFont.Variant = "Sans"
	p := plot.New()
	p.Title.Text = "One-way time of a message, median"
	p.Title.Padding = vg.Points(6)
	p.X.Label.Text = "payload; " + report.Machine.CPU + fmt.Sprintf(", %d cores, %s", report.Machine.Cores, report.Machine.Kernel)
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding = vg.Points(2)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xe4}, color.Gray{0xe4}
	p.Add(grid)
	var sizes []plot.Tick
	for _, row := range report.Latency {
		if row.Bytes > 0 {
			sizes = append(sizes, plot.Tick{Value: float64(row.Bytes), Label: bench.FormatBytes(row.Bytes)})
		}
	}
	if len(sizes) == 0 {
		return errNothingToDraw
	}
	p.X.Tick.Marker = plot.ConstantTicks(sizes)
	low, high := math.Inf(1), 0.0
	for _, c := range curves {
		points := medians(report, c.path)
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return fmt.Errorf("--plot: %s: %w", c.path, err)
		}
		line.Color, line.Width = c.colour, vg.Points(1.6)
		dots.Color, dots.Shape, dots.Radius = c.colour, draw.CircleGlyph{}, vg.Points(2.2)
		if c.dashed {
			line.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
		}
		p.Add(line, dots)
		p.Legend.Add(c.name, line, dots)
		for _, point := range points {
			low, high = min(low, point.Y), max(high, point.Y)
		}
	}
	p.Y.Min, p.Y.Max = decadeBelow(low), max(high*1.2, decadeBelow(low)*10)
	p.Y.Tick.Marker = plot.ConstantTicks(timeTicks(p.Y.Min, p.Y.Max))
	if err := p.Save(plotWidth, plotHeight, file); err != nil {
		return fmt.Errorf("--plot: %w", err)
	}
	return nil
}

// medians are the points of one path: bytes, nanoseconds.
func medians(report *bench.Report, path string) (points plotter.XYs) {
	for _, row := range report.Latency {
		for _, l := range row.Paths {
			if l.Path == path && row.Bytes > 0 && l.P50NS > 0 {
				points = append(points, plotter.XY{X: float64(row.Bytes), Y: float64(l.P50NS)})
			}
		}
	}
	return points
}

func decadeBelow(v float64) float64 { return math.Pow(10, math.Floor(math.Log10(v))) }

// timeTicks has a name for each power of ten, and a mark for what is between.
func timeTicks(low, high float64) (ticks []plot.Tick) {
	for decade := low; decade <= high; decade *= 10 {
		label := fmt.Sprintf("%g µs", decade/microsecond)
		if decade >= 1000*microsecond {
			label = fmt.Sprintf("%g ms", decade/microsecond/1000)
		}
		ticks = append(ticks, plot.Tick{Value: decade, Label: label})
		for k := 2.0; k < 10 && k*decade <= high; k++ {
			ticks = append(ticks, plot.Tick{Value: k * decade})
		}
	}
	return ticks
}
