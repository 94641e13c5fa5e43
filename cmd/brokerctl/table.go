package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// colour is a foreground of a terminal's sixteen, which follow its theme; or
// none.
type colour int

const (
	noColour colour = 0
	red      colour = 31
	green    colour = 32
	yellow   colour = 33
	faint    colour = 2
	bold     colour = 1
)

// paint writes text in a colour, if colours are on.
func paint(on bool, c colour, text string) string {
	if !on || c == noColour || text == "" {
		return text
	}
	return "\x1b[" + strconv.Itoa(int(c)) + "m" + text + "\x1b[0m"
}

// isTerminal tells whether w is a terminal.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// inColour tells whether to write colours to w: to terminals that can do it, and
// not for those who asked for none (no-color.org).
func inColour(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// cell is one place of a table.
type cell struct {
	text   string
	colour colour
	right  bool // numbers are set right, so that their digits align
}

func text(s string) cell             { return cell{text: s} }
func number(s string) cell           { return cell{text: s, right: true} }
func inked(c colour, base cell) cell { base.colour = c; return base }

// table is lines of cells under a head.
type table struct {
	head []cell
	rows [][]cell
}

// lines lays the table out. Without colours it is plain text in columns, which
// awk and cut like too.
func (t *table) lines(colours bool) []string {
	widths := make([]int, len(t.head))
	for _, row := range append([][]cell{t.head}, t.rows...) {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	lines := make([]string, 0, len(t.rows)+1)
	for n, row := range append([][]cell{t.head}, t.rows...) {
		var b strings.Builder
		for i, c := range row {
			if n == 0 {
				c.colour = faint
			}
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			if i > 0 {
				b.WriteString("  ")
			}
			switch {
			case c.right:
				b.WriteString(padding + paint(colours, c.colour, c.text))
			case i == len(row)-1:
				b.WriteString(paint(colours, c.colour, c.text))
			default:
				b.WriteString(paint(colours, c.colour, c.text) + padding)
			}
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
}

// writeJSON writes one value, indented, for people and jq alike.
func writeJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// writeJSONLine writes one value on a line of its own.
func writeJSONLine(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// grouped writes a whole number in groups of three digits.
func grouped(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// span writes a length of time in its one or two largest units.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	days := d / (24 * time.Hour)
	hours := d % (24 * time.Hour) / time.Hour
	minutes := d % time.Hour / time.Minute
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%02dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%02ds", minutes, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
