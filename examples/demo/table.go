package demo

import (
	"fmt"
	"io"
	"os"
	"sync"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"golang.org/x/term"
)

// liveTable is the display on a terminal.
type liveTable struct {
	program *tea.Program
	done    sync.WaitGroup
}

func newTable(out io.Writer, interrupt func()) *liveTable {
	options := []tea.ProgramOption{
		tea.WithOutput(out),
		tea.WithFPS(10),
		// Signals are the caller's; Ctrl-C arrives here as a key.
		tea.WithoutSignalHandler(),
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		options = append(options, tea.WithInput(nil))
	}
	t := &liveTable{program: tea.NewProgram(&tableModel{interrupt: interrupt, width: 80}, options...)}
	t.done.Go(func() {
		// Without a table the demo goes on, and its summary says everything.
		_, _ = t.program.Run()
	})
	return t
}

func (t *liveTable) update(s Snapshot) { t.program.Send(s) }

// close takes the table off the screen: the summary has all of it.
func (t *liveTable) close() {
	t.program.Send(tableOver{})
	t.done.Wait()
}

// tableOver ends the table.
type tableOver struct{}

// tableModel draws a snapshot.
type tableModel struct {
	interrupt func()
	width     int
	snapshot  Snapshot
	ending    bool // Ctrl-C was pressed
	over      bool
}

// Init has nothing to begin with.
func (m *tableModel) Init() tea.Cmd { return nil }

// Update takes a snapshot, a key or the window's size.
func (m *tableModel) Update(message tea.Msg) (tea.Model, tea.Cmd) {
	switch message := message.(type) {
	case Snapshot:
		m.snapshot = message
	case tea.WindowSizeMsg:
		m.width = message.Width
	case tableOver:
		m.over = true
		return m, tea.Quit
	case tea.KeyPressMsg:
		switch message.String() {
		case "ctrl+c", "q", "esc":
			m.ending = true
			m.interrupt()
		}
	}
	return m, nil
}

// Colours of the terminal's own palette, so that they suit its background.
var (
	styleTitle  = lipgloss.NewStyle().Bold(true)
	styleFaint  = lipgloss.NewStyle().Faint(true)
	styleGood   = lipgloss.NewStyle().Foreground(lipgloss.Color("2")).Bold(true)
	styleBad    = lipgloss.NewStyle().Foreground(lipgloss.Color("1")).Bold(true)
	styleDrops  = lipgloss.NewStyle().Foreground(lipgloss.Color("3"))
	styleHeader = lipgloss.NewStyle().Bold(true).Padding(0, 1)
	styleCell   = lipgloss.NewStyle().Padding(0, 1)
)

// Columns of the table.
const (
	columnEdge = iota
	columnHZ
	columnMB
	columnP50
	columnP99
	columnQueue
	columnDropped
)

// View draws.
func (m *tableModel) View() tea.View {
	if m.over {
		return tea.NewView("")
	}
	s := m.snapshot
	phase := s.Phase
	if m.ending {
		phase = "ending"
	}
	head := fmt.Sprintf("%s  %s  %s\n",
		styleTitle.Render("brokerd demo"), styleFaint.Render(s.Addr), phase)
	verified := styleGood.Render(fmt.Sprintf("%d pictures and %d pans verified", s.Sink.EdgesVerified, s.Sink.PansVerified))
	if wrong := s.Sink.EdgesWrong + s.Sink.PansWrong + s.Sink.Gaps; wrong > 0 {
		verified += "  " + styleBad.Render(fmt.Sprintf("%d wrong or missing: %s", wrong, s.Sink.Problem))
	}
	head += fmt.Sprintf("%.1f s  %s\n", s.Elapsed.Seconds(), verified)
	head += fmt.Sprintf("shared memory %.1f MB in %d regions of at most %.0f MB\n",
		float64(s.Memory.UsedBytes)/1e6, s.Memory.Regions, float64(s.Memory.LimitBytes)/1e6)
	foot := styleFaint.Render("p50, p99: age of a message when its receiver sees it.  Ctrl-C ends.")
	return tea.NewView(head + m.table() + "\n" + foot + "\n")
}

func (m *tableModel) table() string {
	rows := m.snapshot.Edges
	t := table.New().
		Border(lipgloss.RoundedBorder()).
		BorderStyle(styleFaint).
		BorderRow(false).
		Headers("edge", "Hz", "MB/s", "p50 ms", "p99 ms", "queue", "dropped").
		StyleFunc(func(row, column int) lipgloss.Style {
			style := styleCell
			if row == table.HeaderRow {
				style = styleHeader
			}
			if column == columnEdge {
				return style
			}
			if row >= 0 && row < len(rows) && column == columnDropped && rows[row].Dropped > 0 {
				style = styleDrops.Padding(0, 1)
			}
			return style.Align(lipgloss.Right)
		})
	for _, e := range rows {
		cells := make([]string, columnDropped+1)
		cells[columnEdge] = edgeName(e)
		cells[columnHZ] = fmt.Sprintf("%.1f", e.HZ)
		cells[columnMB] = fmt.Sprintf("%.1f", e.MBPerSecond)
		cells[columnP50] = milliseconds(e.P50MS)
		cells[columnP99] = milliseconds(e.P99MS)
		cells[columnQueue] = fmt.Sprintf("%d/%d", e.Queue, e.QueueSize)
		cells[columnDropped] = fmt.Sprint(e.Dropped)
		t.Row(cells...)
	}
	if rendered := t.Render(); lipgloss.Width(rendered) <= m.width {
		return rendered
	}
	return t.Width(m.width).Render()
}
