package main

import (
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"
)

// nodeColours are handed to nodes in turn. No red: that is for what went wrong.
var nodeColours = []colour{36, 32, 35, 34, 33, 96, 92, 95, 94}

// printer writes the output of several processes, a whole line at a time.
type printer struct {
	json      bool
	width     int // of the longest name
	colourOut bool
	colourErr bool
	colours   map[string]colour

	mutex    sync.Mutex // guards writing
	out, err io.Writer
}

func newPrinter(t *tool, names []string) *printer {
	p := &printer{
		json:      t.output == outputJSON,
		colourOut: inColour(t.out),
		colourErr: inColour(t.err),
		colours:   map[string]colour{},
		out:       t.out,
		err:       t.err,
	}
	for i, name := range names {
		p.width = max(p.width, utf8.RuneCountInString(name))
		p.colours[name] = nodeColours[i%len(nodeColours)]
	}
	return p
}

// runLine is one line of `run -o json`: a line of a node's output, or an event.
type runLine struct {
	Time   time.Time `json:"ts"`
	Node   string    `json:"node,omitempty"`
	Stream string    `json:"stream,omitempty"` // stdout or stderr
	Line   *string   `json:"line,omitempty"`
	Event  string    `json:"event,omitempty"` // started, ended, failed, info
	Text   string    `json:"text,omitempty"`
	PID    int       `json:"pid,omitempty"`
}

// line prints one line that a node wrote, to the stream that it wrote it to.
func (p *printer) line(name, stream, line string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	// Output that cannot be written (a closed pager) must not stop a node; the
	// signal that comes with it stops us.
	if p.json {
		_ = writeJSONLine(p.out, runLine{Time: time.Now(), Node: name, Stream: stream, Line: &line})
		return
	}
	w, colours := p.out, p.colourOut
	if stream == "stderr" {
		w, colours = p.err, p.colourErr
	}
	prefix := fmt.Sprintf("%-*s |", p.width, name)
	fmt.Fprintf(w, "%s %s\n", paint(colours, p.colours[name], prefix), line)
}

// Kinds of events.
const (
	eventInfo    = "info"
	eventStarted = "started"
	eventEnded   = "ended"
	eventFailed  = "failed"
)

// event prints what we have to say about a node, or (empty name) about the run.
func (p *printer) event(kind, name string, pid int, message string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.json {
		_ = writeJSONLine(p.out, runLine{Time: time.Now(), Node: name, Event: kind, Text: message, PID: pid})
		return
	}
	ink := faint
	if kind == eventFailed {
		ink = red
	}
	if name != "" {
		message = name + " " + message
	}
	fmt.Fprintln(p.err, paint(p.colourErr, ink, "brokerctl: "+message))
}
