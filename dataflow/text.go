package dataflow

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// place is a position in the file: line and column from 1, in characters.
type place struct{ line, col int }

// reader carries one file through all steps and collects what is found.
type reader struct {
	file   string
	strict bool

	// Set by decode: the text with line ends made \n, and its lines.
	text  string
	lines []string

	problems []Problem
	more     int // problems past ProblemsMax
	warnings []Warning

	// Set while reading, used by resolve.
	anchors map[string][]anchor
	sources []sourceRef
	outputs []outputRef
	nodeAt  map[string]place // of each node's id
	vague   map[int]bool     // nodes whose outputs could not be read
}

// decode takes the bytes in as text: UTF-8, without a byte order mark, with
// plain line feeds, and without control characters, which YAML forbids.
func (r *reader) decode(data []byte) bool {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	text := strings.ReplaceAll(string(data), "\r\n", "\n")
	text = strings.ReplaceAll(text, "\r", "\n")
	r.text = text
	r.lines = strings.Split(text, "\n")
	for i, line := range r.lines {
		at, c, fault := firstFault(line)
		if fault == "" {
			continue
		}
		r.lines[i] = strings.ToValidUTF8(line, "\uFFFD")
		if c == utf8.RuneError {
			r.problem(place{i + 1, at}, fault, "save it as UTF-8")
		} else {
			r.problem(place{i + 1, at}, fault, "remove it")
		}
		return false
	}
	return true
}

// firstFault finds the first character of a line that is not text, and its
// column.
func firstFault(line string) (col int, c rune, fault string) {
	for i, c := range line {
		col++
		switch {
		case c == utf8.RuneError && !strings.HasPrefix(line[i:], "\uFFFD"):
			return col, c, "the file is not UTF-8 text"
		case c < ' ' && c != '\t' || c == 0x7f:
			return col, c, fmt.Sprintf("control character %U", c)
		}
	}
	return 0, 0, ""
}

// problem notes an error at a place of the file.
func (r *reader) problem(at place, message, suggestion string) {
	if r.full() {
		r.more++
		return
	}
	r.problems = append(r.problems, r.finding(at, message, suggestion))
}

// whole notes an error of the file as a whole.
func (r *reader) whole(message, suggestion string) {
	r.problems = append(r.problems, Problem{File: r.file, Message: message, Suggestion: suggestion})
}

// warn notes a warning at a place of the file.
func (r *reader) warn(at place, message, suggestion string) {
	if len(r.warnings) < ProblemsMax {
		r.warnings = append(r.warnings, Warning(r.finding(at, message, suggestion)))
	}
}

// ignored notes a key that has no effect here: a warning, or an error if strict.
func (r *reader) ignored(at place, message, suggestion string) {
	if r.strict {
		r.problem(at, message, suggestion)
		return
	}
	r.warn(at, message, suggestion)
}

// full reports whether problems are only counted by now, so that the search for
// a good suggestion can be saved.
func (r *reader) full() bool { return len(r.problems) >= ProblemsMax }

func (r *reader) finding(at place, message, suggestion string) Problem {
	at = r.clamp(at)
	return Problem{
		File: r.file, Line: at.line, Col: at.col,
		Message: message, Suggestion: suggestion,
		Excerpt: excerpt(r.lines[at.line-1], at.col),
	}
}

// clamp moves a place into the file. The YAML library points past the end for
// some unfinished texts.
func (r *reader) clamp(at place) place {
	if at.line > len(r.lines) {
		at = place{len(r.lines), 1 << 30}
	}
	at.line = max(at.line, 1)
	at.col = min(max(at.col, 1), utf8.RuneCountInString(r.lines[at.line-1])+1)
	return at
}

// excerptRunes is how much of a long line an excerpt shows.
const excerptRunes = 100

// excerpt returns the line and, below it, a caret under column col. A long line
// is cut around the caret.
func excerpt(line string, col int) string {
	// Byte offsets, so that a line of a megabyte is not copied for each finding.
	at := forward(line, 0, col-1)
	from, before := at, 0
	for from > 0 && before < excerptRunes {
		_, size := utf8.DecodeLastRuneInString(line[:from])
		from -= size
		before++
	}
	to := forward(line, at, excerptRunes)
	if after := utf8.RuneCountInString(line[at:to]); before+after > excerptRunes {
		keep := max(excerptRunes/2, excerptRunes-after)
		if before > keep {
			from = forward(line, from, before-keep)
			before = keep
		}
		to = forward(line, at, excerptRunes-before)
	}
	shown := strings.ReplaceAll(line[from:to], "\t", " ")
	if from > 0 {
		shown = "…" + shown
		before++
	}
	if to < len(line) {
		shown += "…"
	}
	return strings.TrimRight(shown, " ") + "\n" + strings.Repeat(" ", before) + "^"
}

// forward returns the offset n characters after offset at, or the end.
func forward(s string, at, n int) int {
	for ; n > 0 && at < len(s); n-- {
		_, size := utf8.DecodeRuneInString(s[at:])
		at += size
	}
	return at
}

// quote shows a text of the file in a message: short, and on one line.
func quote(s string) string {
	const show = 60
	if end := forward(s, 0, show); end < len(s) {
		s = s[:end] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// String is the place in words, for messages that point at another line.
func (p place) String() string { return fmt.Sprintf("line %d, column %d", p.line, p.col) }
