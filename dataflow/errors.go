package dataflow

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong (or, as a Warning, odd) in a file.
type Problem struct {
	File      string
	Line, Col int    // from 1, the column in characters; 0, 0: the file as a whole
	Message   string // one line
	// Excerpt is the source line and a caret below the place, two lines; empty
	// when the file as a whole is meant.
	Excerpt string
	// Suggestion says what to write instead; empty when there is no good guess.
	Suggestion string
}

// Warning is something that does not keep a file from being used.
type Warning Problem

// Errors is everything that is wrong with one file, in the order of its lines.
type Errors struct {
	List []Problem
	// More counts problems past those listed (ProblemsMax).
	More int
}

// ProblemsMax bounds the list of an Errors; the rest are counted.
const ProblemsMax = 100

// Error prints all problems with their places, source lines and suggestions.
// It is meant for people: several lines, no final newline.
func (e *Errors) Error() string {
	parts := make([]string, 0, len(e.List)+1)
	for _, p := range e.List {
		parts = append(parts, p.String())
	}
	if e.More > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", e.More))
	}
	return strings.Join(parts, "\n")
}

// String prints the problem like a compiler does: place, message, source line,
// caret, suggestion.
func (p Problem) String() string { return p.text("") }

// String prints the warning like a Problem, marked as a warning.
func (w Warning) String() string { return Problem(w).text("warning: ") }

// Place returns file:line:col, or the file alone.
func (p Problem) Place() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

func (p Problem) text(mark string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s%s", p.Place(), mark, p.Message)
	if p.Excerpt != "" {
		for line := range strings.SplitSeq(p.Excerpt, "\n") {
			b.WriteString("\n    " + line)
		}
	}
	if p.Suggestion != "" {
		b.WriteString("\n    " + p.Suggestion)
	}
	return b.String()
}
