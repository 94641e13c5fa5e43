package protect

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// crash is what the runtime says when a program ends by a fault.
type crash struct {
	address uint64
	at      string // "main.work, /src/main.go:12"; empty if the text does not say
	// complete says that the stack is there to its end.
	complete bool
}

// signalLine is in the text of every fault: in Go code, the recoverable kind
// included, and in C code.
var signalLine = regexp.MustCompile(`(?m)^(?:\[signal SIG(?:SEGV|BUS).*|PC=0x.*) addr=0x([0-9a-f]+)\b`)

// parseCrash reads the runtime's last words. It returns false if they are not
// about an address.
func parseCrash(text string) (crash, bool) {
	at := signalLine.FindStringSubmatchIndex(text)
	if at == nil {
		return crash{}, false
	}
	address, err := strconv.ParseUint(text[at[2]:at[3]], 16, 64)
	if err != nil {
		return crash{}, false
	}
	c := crash{address: address}
	c.at, c.complete = faultingFrame(text[at[1]:])
	return c, true
}

// faultingFrame finds the innermost function of the program in the stack of the
// first goroutine, which is the one that had the fault.
func faultingFrame(text string) (frame string, complete bool) {
	_, stack, _ := strings.Cut(text, "\ngoroutine ")
	stack, _, complete = strings.Cut(stack, "\n\n")
	if _, below, found := strings.Cut(stack, "\nruntime.sigpanic"); found {
		stack = below
	}
	lines := strings.Split(stack, "\n")
	for i := 1; i+1 < len(lines); i++ {
		file, isFile := strings.CutPrefix(lines[i+1], "\t")
		function := lines[i]
		if !isFile || strings.HasPrefix(function, "\t") || strings.HasPrefix(function, "runtime.") || strings.HasPrefix(function, "panic(") {
			continue
		}
		if cut := strings.LastIndex(function, "("); cut > 0 {
			function = function[:cut]
		}
		file, _, _ = strings.Cut(file, " +0x")
		return strings.TrimPrefix(function, "created by ") + ", " + file, complete
	}
	return "", complete
}

// report says what a crash was about; now is about when it happened.
func report(c crash, e entry, now time.Time) string {
	var b strings.Builder
	b.WriteString("\nbrokerd: " + e.accusation(c.address) + "\n")
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "\t%-14s%s\n", name, text)
		}
	}
	row("used at", c.at)
	if e.state == stateSpent {
		for i, line := range strings.Split(e.stack, "\n") {
			switch {
			case i > 0:
				row("", line)
			case e.end == Forgotten:
				row("given up", now.Sub(e.ended).Round(10*time.Microsecond).String()+" before")
			default:
				row(e.verb(), line+", "+now.Sub(e.ended).Round(10*time.Microsecond).String()+" before")
			}
		}
	}
	b.WriteString("\t" + e.advice(c.address) + " (found by BROKERD_DEBUG=protect)\n")
	return b.String()
}

// thing names the memory.
func (e entry) thing() string {
	o := e.owner
	switch {
	case o.Use == Payload:
		return fmt.Sprintf("the payload of message %d of input %q of node %q", o.Seq, o.Port, o.Node)
	case o.Use == Metadata:
		return fmt.Sprintf("the metadata of message %d of input %q of node %q", o.Seq, o.Port, o.Node)
	case o.Seq > 0:
		return fmt.Sprintf("the loan of message %d of output %q of node %q", o.Seq, o.Port, o.Node)
	}
	return fmt.Sprintf("a loan of output %q of node %q", o.Port, o.Node)
}

// behind is how far an address lies behind the end of the bytes; negative: before
// it.
func (e entry) behind(address uint64) int64 { return int64(address - (e.data + e.size)) }

func (e entry) accusation(address uint64) string {
	behind := e.behind(address)
	switch {
	case e.state == stateLive && behind >= 0:
		return fmt.Sprintf("this process went past the end of %s, which has %d bytes: it used byte %d", e.thing(), e.size, int64(e.size)+behind)
	case e.state == stateLive:
		return fmt.Sprintf("this process wrote to byte %d of %d of %s, which is read-only", int64(address-e.data), e.size, e.thing())
	}
	where := "memory behind"
	if behind < 0 {
		where = fmt.Sprintf("byte %d of %d of", int64(address-e.data), e.size)
		if address < e.data { // a slice of it, gone backwards
			where = "memory before"
		}
	}
	after := "after its Release"
	switch e.end {
	case Published:
		after = "after its Publish"
	case Discarded:
		after = "after its Discard"
	case Forgotten:
		after = "after the last handle of it was lost without Release"
		if e.owner.Use == Loan {
			after = "after the last handle of it was lost without Publish or Discard"
		}
	}
	return fmt.Sprintf("this process used %s %s %s", where, e.thing(), after)
}

func (e entry) verb() string {
	switch e.end {
	case Published:
		return "published at"
	case Discarded:
		return "discarded at"
	}
	return "released at"
}

func (e entry) advice(address uint64) string {
	switch {
	case e.state == stateLive && e.behind(address) >= 0:
		return "Look for a wrong length or index."
	case e.state == stateLive:
		return "Others may be reading it: copy what is to be changed."
	case e.owner.Use == Loan:
		return "Receivers read it from then on: take a new loan for the next message."
	case e.end == Forgotten:
		return "Keep the Message for as long as its bytes are needed, and release it then."
	}
	return "Its memory is the sender's again: release it later, or copy what is needed longer."
}
