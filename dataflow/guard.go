package dataflow

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of the syntax, checked on the text before the lexer and on the tokens
// before the parser sees them. A file within FileBytesMax could otherwise keep
// the YAML library busy for hours or cost gigabytes: its lexer takes time cubic
// in the empty lines of a block text (60,000: 31 s), quadratic in a run of < and
// in the tabs of a quoted text; its parser recurses once a level, takes time quadratic in the keys of one
// mapping (40,000: 6 s) and in the values left out (500,000: 156 s), and stores
// with each value the path of keys that leads to it.
const (
	emptyLinesMax = 100 // one after the other
	runMax        = 100 // the character < one after the other
	tabsMax       = 1000
	depthMax      = 24       // levels of nesting; an honest file has 6
	keysMax       = 1100     // keys of one mapping; above InputsMax and EnvMax
	keyBytesMax   = 256      // one key
	pathBytesMax  = 64 << 20 // all paths of keys together
	aliasesMax    = 1000     // aliases of a file, and anchors
	absentMax     = 4096     // keys and dashes of a file with nothing behind them
)

// tokenize cuts the text into tokens and refuses what would cost too much and
// what a dataflow has no use for.
func (r *reader) tokenize() (token.Tokens, bool) {
	if !r.calm() {
		return nil, false
	}
	tokens := lexer.Tokenize(r.text)
	if bad := tokens.InvalidToken(); bad != nil {
		r.syntax(placeOf(bad), bad.Error)
		return nil, false
	}
	g := guard{r: r}
	for i, tk := range tokens {
		if !g.see(tokens, i, tk) {
			return nil, false
		}
	}
	return tokens, len(r.problems) == 0
}

// calm refuses what the lexer is slow at.
func (r *reader) calm() bool {
	empty, tabs := 0, 0
	for i, line := range r.lines {
		if tabs += strings.Count(line, "\t"); tabs > tabsMax {
			r.problem(place{i + 1, utf8.RuneCountInString(line[:strings.Index(line, "\t")]) + 1}, fmt.Sprintf("more than %d tabs", tabsMax), "use spaces")
			return false
		}
		if strings.TrimLeft(line, " \t") != "" {
			empty = 0
		} else if empty++; empty > emptyLinesMax {
			r.problem(place{i + 1, 1}, fmt.Sprintf("more than %d empty lines", emptyLinesMax), "remove some")
			return false
		}
		if at := strings.Index(line, strings.Repeat("<", runMax)); at >= 0 {
			r.problem(place{i + 1, utf8.RuneCountInString(line[:at]) + 1}, fmt.Sprintf("%d characters < in a row", runMax), "")
			return false
		}
	}
	return true
}

// guard follows the nesting of a token stream without recursion.
type guard struct {
	r         *reader
	levels    []level
	line      int // of the token before
	pathBytes int // of the keys that lead here
	sumBytes  int // of pathBytes over all tokens
	aliases   int
	anchors   int
	absent    int
	content   bool // something was seen that is not a mark or comment
	ended     bool // ... was seen
}

// level is one mapping or list that is open.
type level struct {
	col      int // of a block's keys or dashes; 0 for [ and {
	keys     int
	commas   int
	keyBytes int // of the current key
	braces   bool
}

func (g *guard) flow() bool { return len(g.levels) > 0 && g.levels[len(g.levels)-1].col == 0 }

// see takes the next token; false means that going on makes no sense.
func (g *guard) see(tokens token.Tokens, i int, tk *token.Token) bool {
	at := placeOf(tk)
	if !g.flow() && at.line != g.line && tk.Type != token.CommentType {
		g.closeBlocks(at.col)
	}
	g.line = at.line
	g.sumBytes += g.pathBytes
	switch {
	case len(g.levels) > depthMax:
		g.r.problem(at, fmt.Sprintf("nested deeper than %d levels", depthMax), "")
		return false
	case g.sumBytes > pathBytesMax:
		g.r.problem(at, "too many long keys", "use shorter keys")
		return false
	}
	if !g.refuse(tk, at) {
		return false
	}
	switch tk.Type {
	case token.SequenceStartType:
		g.push(level{})
	case token.MappingStartType:
		g.push(level{braces: true})
	case token.CollectEntryType: // {a, b} has keys without a colon
		if g.flow() && g.top().braces {
			g.top().commas++
			return g.checkKeys(at)
		}
	case token.SequenceEndType, token.MappingEndType:
		if g.flow() {
			g.pop()
		}
	case token.SequenceEntryType:
		if g.flow() {
			message, suggestion := "'- ' inside of brackets", "separate the values with commas"
			if i > 0 && placeOf(tokens[i-1]).line != at.line {
				message, suggestion = "a closing bracket is missing before this line", "add ] or }"
			}
			g.r.problem(at, "not valid YAML: "+message, suggestion)
			return false
		}
		g.enter(at.col)
		return g.filled(tokens, i, at)
	case token.MappingValueType:
		if i > 0 {
			return g.key(tokens[i-1]) && g.filled(tokens, i, placeOf(tokens[i-1]))
		}
	}
	return true
}

// filled counts the dashes and colons with no value behind them. at is where
// the entry starts.
func (g *guard) filled(tokens token.Tokens, i int, at place) bool {
	next := i + 1
	for next < len(tokens) && tokens[next].Type == token.CommentType {
		next++
	}
	if next < len(tokens) {
		after, behind := tokens[next], placeOf(tokens[next])
		switch after.Type {
		case token.CollectEntryType, token.SequenceEndType, token.MappingEndType:
		default:
			if g.flow() || behind.line == placeOf(tokens[i]).line || behind.col > at.col ||
				behind.col == at.col && tokens[i].Type == token.MappingValueType && after.Type == token.SequenceEntryType {
				return true
			}
		}
	}
	if g.absent++; g.absent > absentMax {
		g.r.problem(at, fmt.Sprintf("more than %d values left out", absentMax), "")
		return false
	}
	return true
}

// refuse reports constructs that are legal YAML but not part of the format.
func (g *guard) refuse(tk *token.Token, at place) bool {
	r := g.r
	switch tk.Type {
	case token.DocumentHeaderType:
		if g.content || g.ended || len(g.levels) > 0 {
			r.problem(at, "a second document starts here", "put each dataflow into a file of its own")
			return false
		}
		return true // may come first
	case token.CommentType:
		return true
	case token.DocumentEndType:
		if g.ended || g.flow() {
			r.problem(at, "the end of a document (...) in a wrong place", "remove the line")
			return false
		}
		g.ended = true
		return true
	case token.MappingKeyType:
		r.problem(at, "keys that start with ? cannot be read", "write key: value")
		return false
	case token.TagType:
		r.problem(at, fmt.Sprintf("tags such as %s cannot be read", quote(tk.Value)), "remove the tag; quote a value to make it text")
	case token.DirectiveType:
		r.problem(at, "directives (lines that start with %) cannot be read", "remove the line")
		return false
	case token.MergeKeyType:
		r.problem(at, "merge keys (<<) cannot be read", "write the keys out")
	case token.AnchorType:
		if g.anchors++; g.anchors > aliasesMax {
			r.problem(at, fmt.Sprintf("more than %d anchors", aliasesMax), "")
			return false
		}
	case token.AliasType:
		if g.aliases++; g.aliases > aliasesMax {
			r.problem(at, fmt.Sprintf("more than %d aliases", aliasesMax), "")
			return false
		}
	}
	if g.ended {
		r.problem(at, "a second document starts here", "put each dataflow into a file of its own")
		return false
	}
	g.content = true
	return true
}

// key counts a key in the mapping that it belongs to.
func (g *guard) key(k *token.Token) bool {
	at := placeOf(k)
	if !g.flow() {
		g.closeBlocks(at.col)
		g.enter(at.col)
	}
	top := g.top()
	top.keys++
	g.pathBytes += len(k.Value) - top.keyBytes
	top.keyBytes = len(k.Value)
	if len(k.Value) > keyBytesMax {
		g.r.problem(at, fmt.Sprintf("a key of %d bytes, %d are allowed", len(k.Value), keyBytesMax), "")
		return false
	}
	return g.checkKeys(at)
}

func (g *guard) checkKeys(at place) bool {
	if top := g.top(); max(top.keys, top.commas) > keysMax {
		g.r.problem(at, fmt.Sprintf("a mapping of more than %d keys", keysMax), "split the dataflow")
		return false
	}
	return true
}

// top is the innermost open level. key opens one; a comma counts only inside one.
func (g *guard) top() *level { return &g.levels[len(g.levels)-1] }

// closeBlocks ends the block levels that are indented deeper than col.
func (g *guard) closeBlocks(col int) {
	for len(g.levels) > 0 && g.levels[len(g.levels)-1].col > col {
		g.pop()
	}
}

// enter opens a block level at col unless it is open.
func (g *guard) enter(col int) {
	if g.flow() || len(g.levels) > 0 && g.levels[len(g.levels)-1].col == col {
		return
	}
	g.push(level{col: col})
}

func (g *guard) push(l level) {
	const perLevel = 8 // the path's own marks: dots, [1234]
	l.keyBytes += perLevel
	g.pathBytes += l.keyBytes
	g.levels = append(g.levels, l)
}

func (g *guard) pop() {
	last := len(g.levels) - 1
	g.pathBytes -= g.levels[last].keyBytes
	g.levels = g.levels[:last]
}

// tree parses the tokens. The parser stops at its first error.
func (r *reader) tree(tokens token.Tokens) (root ast.Node, ok bool) {
	defer func() {
		// The parser is not ours, and a hostile file must not end the process.
		if p := recover(); p != nil {
			r.whole(fmt.Sprintf("the YAML parser failed: %v", p), "simplify the file")
			root, ok = nil, false
		}
	}()
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		r.parserError(err)
		return nil, false
	}
	for _, doc := range file.Docs {
		if doc.Body != nil {
			return doc.Body, true
		}
	}
	r.whole("the file is empty", "a dataflow starts with nodes:")
	return nil, false
}

// parserError takes over what the parser says, with its place.
func (r *reader) parserError(err error) {
	var ye yaml.Error
	if !errors.As(err, &ye) || ye.GetToken() == nil {
		r.whole("not valid YAML: "+err.Error(), "")
		return
	}
	r.syntax(placeOf(ye.GetToken()), ye.GetMessage())
}

func placeOf(tk *token.Token) place {
	if tk == nil || tk.Position == nil {
		return place{1, 1}
	}
	return place{tk.Position.Line, tk.Position.Column}
}
