package dataflow

import "strings"

// syntaxHints say what the usual reason for a parser's message is. The first
// entry whose text is part of the message counts.
var syntaxHints = []struct{ part, message, suggestion string }{
	{"tab character", "a tab is used for indentation", "indent with spaces"},
	{"character '\t'", "a tab is used for indentation", "indent with spaces"},
	{"reserved character", "", "put the value in quotes"},
	{"mapping value is not allowed in this context", "a second ': ' on one line", "quote the value if the colon belongs to it; else check the indentation"},
	{"end character of double-quoted", "a double quote is not closed", "add the missing quote"},
	{"end character of single-quoted", "a single quote is not closed", "add the missing quote"},
	{"sequence end token ']' not found", "'[' is not closed", "add the missing ']'"},
	{"could not find flow mapping end token", "'{' is not closed", "add the missing '}'"},
	{"corresponding to ']'", "']' without '['", ""},
	{"corresponding to '}'", "'}' without '{'", ""},
	{"',' or ']' must be specified", "a ',' or ']' is missing before this", ""},
	{"',' or '}' must be specified", "a ',' or '}' is missing before this", ""},
	{"non-map value is specified", "expected key: value", "check the indentation and the colon"},
	{"unexpected key name", "expected key: value", "add the missing colon, with a space behind it"},
	{"block sequence entries are not allowed", "a list cannot start here", "start it on the next line"},
	{"value is not allowed in this context", "", "check the indentation"},
}

// syntax notes an error of YAML itself.
func (r *reader) syntax(at place, message string) {
	message, _, _ = strings.Cut(message, "\n")
	at = r.clamp(at)
	if strings.Contains(message, "mapping value is not allowed") && strings.Count(r.lines[at.line-1], ":") < 2 {
		r.problem(at, "not valid YAML: the next line is indented differently", "keys that belong together start in the same column")
		return
	}
	suggestion := ""
	for _, h := range syntaxHints {
		if strings.Contains(message, h.part) {
			if h.message != "" {
				message = h.message
			}
			suggestion = h.suggestion
			break
		}
	}
	r.problem(at, "not valid YAML: "+message, suggestion)
}
