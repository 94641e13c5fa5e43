package dataflow

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/brokerd/brokerd/wire"
)

const (
	inputForm  = "write  inputs:  and below it  image: camera/image"
	sourceForm = "a source is node/output, or a timer such as timer/millis/100"
	holdForm   = "write a time with its unit, such as 5s or 500ms, or never"
)

// sourceRef is a source that resolve still has to find.
type sourceRef struct {
	node, input int
	at          place
}

// nodeInputs reads the mapping of inputs.
func (r *reader) nodeInputs(n *Node, index int, e entry) {
	if absent(e.value) {
		return
	}
	list, ok := r.mapping(e.value, e.at, "inputs", inputForm)
	if !ok {
		return
	}
	for i, item := range list {
		if i == InputsMax {
			r.problem(item.at, fmt.Sprintf("more than %d inputs of one node", InputsMax), "")
			return
		}
		if len(r.sources) == EdgesMax {
			r.problem(item.at, fmt.Sprintf("more than %d inputs in one file", EdgesMax), "split the file into several dataflows")
			return
		}
		r.id(scalar{text: item.key, at: item.at}, "input")
		in, at := r.input(item)
		in.ID = item.key
		n.Inputs = append(n.Inputs, in)
		r.sources = append(r.sources, sourceRef{node: index, input: len(n.Inputs) - 1, at: at})
	}
}

// input reads one input, short (node/output) or long (a mapping). at is where
// the source stands. A source that cannot be read stays empty.
func (r *reader) input(item entry) (in Input, at place) {
	in = Input{QueueSize: QueueSizeDefault, Policy: PolicyDefault, HoldTimeout: HoldTimeoutDefault}
	value, ok := r.plain(item.value)
	if !ok {
		return in, item.at
	}
	switch value.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
	default:
		s, ok := r.scalar(value, item.at, "the input "+item.key, inputForm)
		if ok {
			in.Source = r.source(s)
		}
		return in, s.at
	}
	list, _ := r.mapping(value, item.at, "an input", inputForm)
	keys, _ := r.classify(list, inputKeys)
	at = where(value)
	if e, ok := keys["source"]; !ok {
		r.problem(item.at, fmt.Sprintf("the input %s has no source", item.key), "add  source: node/output")
	} else if s, ok := r.scalar(e.value, e.at, "source", "write  source: node/output"); ok {
		at = s.at
		in.Source = r.source(s)
	}
	if e, ok := keys["queue_size"]; ok {
		in.QueueSize = r.queueSize(e)
	}
	r.inputPolicy(&in, keys)
	if e, ok := keys["hold_timeout"]; ok {
		in.HoldTimeout = r.holdTimeout(e)
	}
	return in, at
}

// queueSize reads a whole number of messages. A wrong one yields the default.
func (r *reader) queueSize(e entry) int {
	form := fmt.Sprintf("write a whole number from %d to %d", QueueSizeMin, QueueSizeMax)
	value, ok := r.plain(e.value)
	if !ok {
		return QueueSizeDefault
	}
	size, whole := wholeNumber(value)
	switch {
	case !whole:
		r.wrongKind(value, e.at, e.key, "a whole number", form)
	case size < QueueSizeMin || size > QueueSizeMax:
		r.problem(where(value), fmt.Sprintf("%s %s is out of range", e.key, quote(value.GetToken().Value)), form)
	default:
		return int(size)
	}
	return QueueSizeDefault
}

// wholeNumber returns the value of a number without quotes and fraction; one
// that does not fit is as far as int64 goes.
func wholeNumber(n ast.Node) (int64, bool) {
	switch v := n.(type) {
	case *ast.IntegerNode:
		switch i := v.Value.(type) {
		case int64:
			return i, true
		case uint64:
			return int64(min(i, math.MaxInt64)), true
		}
	case *ast.StringNode: // the YAML library makes text of numbers past 64 bits
		if v.Token.Type == token.StringType && allDigits(strings.TrimLeft(v.Value, "+-")) {
			return math.MaxInt64, true
		}
	}
	return 0, false
}

func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// policies are the spellings of policies; those with _ are dora's.
var policies = map[string]wire.Policy{
	"drop-oldest": wire.PolicyDropOldest, "drop_oldest": wire.PolicyDropOldest,
	"drop-newest": wire.PolicyDropNewest, "drop_newest": wire.PolicyDropNewest,
	"block": wire.PolicyBlock, "backpressure": wire.PolicyBlock,
}

var policyNames = []string{"drop-oldest", "drop-newest", "block"}

// inputPolicy reads policy and queue_policy, which mean the same.
func (r *reader) inputPolicy(in *Input, keys map[string]entry) {
	var given []scalar
	for _, key := range []string{"policy", "queue_policy"} {
		e, ok := keys[key]
		if !ok {
			continue
		}
		s, ok := r.scalar(e.value, e.at, key, "write one of "+joined(policyNames))
		if !ok {
			continue
		}
		p, ok := policies[s.text]
		if !ok {
			r.unknownPolicy(s)
			continue
		}
		if len(given) > 0 && p != in.Policy {
			r.problem(s.at, fmt.Sprintf("queue_policy %s contradicts policy %s in %s", s.text, given[0].text, given[0].at), "remove one of them")
		}
		if s.text == "backpressure" {
			r.warn(s.at, "backpressure is read as block: the sender waits while the queue is full", "write policy: block")
		}
		given = append(given, s)
		in.Policy = p
	}
	if in.Source.IsTimer() && in.Policy == wire.PolicyBlock {
		r.problem(given[len(given)-1].at, "a timer cannot be blocked", "remove the policy: a full queue drops the oldest tick")
	}
}

func (r *reader) unknownPolicy(s scalar) {
	suggestion := "the policies are: " + joined(policyNames)
	if near, ok := nearest(s.text, policyNames); ok {
		suggestion = "did you mean " + near + "?"
	}
	r.problem(s.at, fmt.Sprintf("no policy is called %s", quote(s.text)), suggestion)
}

// holdTimeout reads a time; 0 and never mean for ever.
func (r *reader) holdTimeout(e entry) time.Duration {
	s, ok := r.scalar(e.value, e.at, e.key, holdForm)
	if !ok {
		return HoldTimeoutDefault
	}
	if s.text == "0" || s.text == "never" {
		return 0
	}
	d, err := time.ParseDuration(s.text)
	fault := ""
	switch {
	case err != nil && !math.IsNaN(number(s.text)):
		fault = "has no unit"
	case err != nil:
		fault = "is not a time"
	case d < 0:
		fault = "is negative"
	case d > HoldTimeoutMax:
		fault = fmt.Sprintf("is longer than %s", periodText(HoldTimeoutMax))
	case d%time.Millisecond != 0:
		fault = "is not a whole number of milliseconds"
	}
	if fault != "" {
		r.problem(s.at, fmt.Sprintf("%s %s %s", e.key, quote(s.text), fault), holdForm)
		return HoldTimeoutDefault
	}
	return d
}

// number returns the number that a text is, or NaN.
func number(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return math.NaN()
	}
	return f
}

// source reads node/output or a timer. A fault is reported and yields an empty
// Source, which resolve leaves alone.
func (r *reader) source(s scalar) Source {
	if len(s.text) > wire.TextBytesMax {
		r.problem(s.at, fmt.Sprintf("a source of %d bytes, %d are allowed", len(s.text), wire.TextBytesMax), sourceForm)
		return Source{}
	}
	if rest, ok := timerPart(s.text); ok {
		period, fault, suggestion := timerPeriod(rest)
		if fault != "" {
			r.problem(s.at, fmt.Sprintf("%s is not a timer: %s", quote(s.text), fault), suggestion)
			return Source{}
		}
		return Source{Timer: period, Text: s.text}
	}
	node, output, ok := strings.Cut(s.text, "/")
	if node == "dora" {
		r.problem(s.at, fmt.Sprintf("%s cannot be read here: of dora's own sources there are only timers", quote(s.text)), "write dora/timer/millis/100")
		return Source{}
	}
	fault := ""
	switch {
	case !ok && idFault(node) == "":
		return Source{Node: node, Text: s.text} // resolve knows what could follow
	case !ok:
		fault = "there is no /"
	case strings.Contains(output, "/"):
		fault = "there is more than one /"
	case idFault(node) != "":
		fault = "in the node, " + idFault(node)
	case idFault(output) != "":
		fault = "in the output, " + idFault(output)
	}
	if fault == "" {
		return Source{Node: node, Output: output, Text: s.text}
	}
	suggestion := sourceForm
	if bare := strings.Trim(s.text, "` \t\n"); bare != s.text && strings.Count(bare, "/") == 1 {
		suggestion = "did you mean " + bare + "?"
	}
	r.problem(s.at, fmt.Sprintf("%s is not a source: %s", quote(s.text), fault), suggestion)
	return Source{}
}
