//go:build linux

package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"strconv"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// palette is that of Okabe and Ito: people who see few colours can tell them apart.
var palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff},
}

// curve is one line of a panel.
type curve struct {
	name  string
	value func(sample) (v float64, owner int, ok bool) // a line breaks where the owner changes
}

// panel is one diagram of the picture; all have the same axis of time.
type panel struct {
	title  string
	curves []curve
}

func panels() []panel {
	broker := func(value func(sample, *usage) float64) func(sample) (float64, int, bool) {
		return func(s sample) (float64, int, bool) {
			if s.Broker == nil {
				return 0, 0, false
			}
			return value(s, s.Broker), s.Broker.Pid, true
		}
	}
	node := func(id string, value func(usage) float64) func(sample) (float64, int, bool) {
		return func(s sample) (float64, int, bool) {
			u, ok := s.Nodes[id]
			return value(u), u.Pid, ok
		}
	}
	nodesSum := func(s sample) (sum float64, _ int, ok bool) {
		for _, u := range s.Nodes {
			sum += float64(u.Own)
		}
		return sum / mib, 0, len(s.Nodes) > 0
	}
	own := func(u usage) float64 { return float64(u.Own) / mib }
	files := func(u usage) float64 { return float64(u.Files) }
	mappings := func(u usage) float64 { return float64(u.Mappings) }
	return []panel{
		{"memory of its own, MiB", []curve{
			{"brokerd", broker(func(_ sample, u *usage) float64 { return own(*u) })},
			{"logger", node("logger", own)}, {"lidar", node("lidar", own)},
			{"all nodes / 10", func(s sample) (float64, int, bool) { v, o, ok := nodesSum(s); return v / 10, o, ok }},
		}},
		{"/dev/shm, MiB", []curve{
			{"under names", func(s sample) (float64, int, bool) { return float64(s.ShmBytes) / mib, 0, true }},
			{"pool of brokerd, retired included", func(s sample) (float64, int, bool) { return float64(s.PoolUsed) / mib, 0, s.PoolUsed > 0 }},
			{"retired", func(s sample) (float64, int, bool) { return float64(s.Retired) / mib, 0, s.PoolUsed > 0 }},
		}},
		{"objects in /dev/shm", []curve{{"names", func(s sample) (float64, int, bool) { return float64(s.ShmObjects), 0, true }}}},
		{"descriptors", []curve{
			{"brokerd", broker(func(_ sample, u *usage) float64 { return files(*u) })},
			{"logger", node("logger", files)}, {"lidar", node("lidar", files)},
		}},
		{"mappings", []curve{
			{"brokerd", broker(func(_ sample, u *usage) float64 { return mappings(*u) })},
			{"logger", node("logger", mappings)}, {"lidar", node("lidar", mappings)},
		}},
		{"goroutines of brokerd", []curve{
			{"goroutines", func(s sample) (float64, int, bool) {
				if s.Broker == nil {
					return 0, 0, false
				}
				return float64(s.Goroutines), s.Broker.Pid, s.Goroutines > 0
			}},
		}},
	}
}

const (
	picturePixels = 1500 // across
	panelPixels   = 190
	plotDPI       = 110
)

// drawPicture writes the picture of a soak as PNG.
func drawPicture(path, title string, w *world, samples []sample, start, warm time.Time, quiet [2]time.Time) error {
	list := panels()
	minutes := func(t time.Time) float64 { return t.Sub(start).Minutes() }
	end := 0.0
	if n := len(samples); n > 0 {
		end = minutes(samples[n-1].Time)
	}
	rows := make([][]*plot.Plot, 0, len(list)+1)
	for i, p := range list {
		d := newPanel(p.title, end)
		if i == 0 {
			d.Title.Text = title
			d.Title.Padding = 4
		}
		shade(d, minutes(quiet[0]), minutes(quiet[1]))
		if err := addKills(d, w.events, minutes); err != nil {
			return err
		}
		for j, c := range p.curves {
			if err := addCurve(d, c, palette[j%len(palette)], samples, minutes, len(p.curves) > 1); err != nil {
				return err
			}
		}
		if len(p.curves) > 1 {
			d.Y.Max *= headroom
		}
		rows = append(rows, []*plot.Plot{d})
	}
	rate, err := ratePanel(samples, w.events, minutes, end, quiet)
	if err != nil {
		return err
	}
	rate.X.Tick.Marker = ticks(10, true)
	rate.X.Label.Text = fmt.Sprintf("minutes; red: brokerd killed (%d times); ticks below: a node killed (%d), restarted (%d), stopped (%d); shaded: nobody touches brokerd",
		w.counts["kill brokerd"], w.counts["kill"], w.counts["restart"], w.counts["stop"])
	rows = append(rows, []*plot.Plot{rate})
	return writePNG(path, rows)
}

func newPanel(title string, end float64) *plot.Plot {
	d := plot.New()
	d.Y.Label.Text = title
	d.Y.Min = 0
	d.X.Min, d.X.Max = 0, end
	d.Legend.Top, d.Legend.Left = true, true
	d.Legend.ThumbnailWidth = vg.Points(14)
	d.Legend.Padding = vg.Points(1)
	for _, size := range []*font.Length{&d.X.Tick.Label.Font.Size, &d.Y.Tick.Label.Font.Size, &d.Legend.TextStyle.Font.Size, &d.Y.Label.TextStyle.Font.Size, &d.X.Label.TextStyle.Font.Size} {
		*size = vg.Points(8)
	}
	d.Title.TextStyle.Font.Size = vg.Points(10)
	d.Y.Tick.Marker = ticks(4, true)
	d.X.Tick.Marker = ticks(10, false)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xe6}, color.Gray{0xe6}
	d.Add(grid)
	return d
}

// ticks places about n ticks at round numbers, with labels or without.
func ticks(n int, labels bool) plot.TickerFunc {
	return func(low, high float64) []plot.Tick {
		step := math.Pow(10, math.Floor(math.Log10((high-low)/float64(n))))
		for _, factor := range []float64{1, 2, 5, 10} {
			if (high-low)/(step*factor) <= float64(n)+0.5 {
				step *= factor
				break
			}
		}
		var all []plot.Tick
		for i := math.Ceil(low / step); i*step <= high*1.0001; i++ {
			tick := plot.Tick{Value: i * step}
			if tick.Label = " "; labels {
				tick.Label = strconv.FormatFloat(i*step, 'g', 4, 64)
			}
			all = append(all, tick)
		}
		return all
	}
}

// headroom is the part of a panel above the highest value, for the legend.
const headroom = 1.4

// shade paints the time in which nobody touches the broker.
func shade(d *plot.Plot, from, to float64) { d.Add(&shadow{from, to}) }

type shadow struct{ from, to float64 }

// Plot implements plot.Plotter.
func (s *shadow) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	a, b := x(s.from), x(min(s.to, p.X.Max))
	c.FillPolygon(color.NRGBA{0x00, 0x9e, 0x73, 0x14}, []vg.Point{{X: a, Y: c.Min.Y}, {X: b, Y: c.Min.Y}, {X: b, Y: c.Max.Y}, {X: a, Y: c.Max.Y}})
}

// addKills marks what was done to the world.
func addKills(d *plot.Plot, events []event, minutes func(time.Time) float64) error {
	k := &killMarks{}
	for _, e := range events {
		switch {
		case e.Who == "brokerd" && e.What == "kill":
			k.broker = append(k.broker, minutes(e.Time))
		case e.Who != "brokerd":
			k.node = append(k.node, minutes(e.Time))
		}
	}
	d.Add(k)
	return nil
}

type killMarks struct{ broker, node []float64 }

// Plot implements plot.Plotter.
func (k *killMarks) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	red := draw.LineStyle{Color: color.NRGBA{0xd0, 0x20, 0x20, 0x70}, Width: vg.Points(0.6)}
	grey := draw.LineStyle{Color: color.Gray{0x80}, Width: vg.Points(0.5)}
	for _, t := range k.broker {
		c.StrokeLine2(red, x(t), c.Min.Y, x(t), c.Max.Y)
	}
	for _, t := range k.node {
		c.StrokeLine2(grey, x(t), c.Min.Y, x(t), c.Min.Y+vg.Points(3))
	}
}

// addCurve adds the pieces of a curve, one for each process that it is about.
func addCurve(d *plot.Plot, c curve, colour color.Color, samples []sample, minutes func(time.Time) float64, legend bool) error {
	style := draw.LineStyle{Color: colour, Width: vg.Points(1)}
	var piece plotter.XYs
	owner := 0
	flush := func() error {
		if len(piece) == 0 {
			return nil
		}
		line, err := plotter.NewLine(piece)
		if err != nil {
			return err
		}
		line.LineStyle = style
		d.Add(line)
		if legend {
			d.Legend.Add(c.name, line)
			legend = false
		}
		piece = nil
		return nil
	}
	for _, s := range samples {
		v, o, ok := c.value(s)
		if !ok || o != owner {
			if err := flush(); err != nil {
				return err
			}
		}
		if ok {
			owner = o
			piece = append(piece, plotter.XY{X: minutes(s.Time), Y: v})
		}
	}
	return flush()
}

// ratePanel shows how many messages a second were sent.
func ratePanel(samples []sample, events []event, minutes func(time.Time) float64, end float64, quiet [2]time.Time) (*plot.Plot, error) {
	d := newPanel("messages sent a second", end)
	shade(d, minutes(quiet[0]), minutes(quiet[1]))
	if err := addKills(d, events, minutes); err != nil {
		return nil, err
	}
	last := -1
	rate := curve{"sent", func(s sample) (float64, int, bool) {
		last++
		if last == 0 {
			return 0, 0, false
		}
		before := samples[last-1]
		return float64(s.Sent-min(s.Sent, before.Sent)) / s.Time.Sub(before.Time).Seconds(), 0, true
	}}
	return d, addCurve(d, rate, palette[0], samples, minutes, false)
}

func writePNG(path string, rows [][]*plot.Plot) (err error) {
	width := font.Length(picturePixels) * vg.Inch / plotDPI
	height := font.Length(panelPixels*len(rows)) * vg.Inch / plotDPI
	canvas := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(plotDPI))
	dc := draw.New(canvas)
	tiles := draw.Tiles{Rows: len(rows), Cols: 1, PadX: vg.Points(4), PadY: vg.Points(6), PadTop: vg.Points(4), PadBottom: vg.Points(4), PadLeft: vg.Points(4), PadRight: vg.Points(12)}
	for i, c := range plot.Align(rows, tiles, dc) {
		rows[i][0].Draw(c[0])
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = vgimg.PngCanvas{Canvas: canvas}.WriteTo(f)
	if closing := f.Close(); err == nil {
		err = closing
	}
	return err
}
