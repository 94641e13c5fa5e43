package dataflow

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of the syntax, checked on the tokens before the parser sees them. The
// parser recurses once a level, takes time quadratic in the keys of one mapping
// (40,000 keys: 6 s) and stores with each value the path of keys that leads to
// it, so that a file within FileBytesMax could cost gigabytes.
const (
	depthMax     = 24       // levels of nesting; an honest file has 6
	keysMax      = 1100     // keys of one mapping; above InputsMax and EnvMax
	keyBytesMax  = 256      // one key
	pathBytesMax = 64 << 20 // all paths of keys together
	aliasesMax   = 1000     // aliases of a file
)

// tokenize cuts the text into tokens and refuses what would cost too much and
// what a dataflow has no use for.
func (r *reader) tokenize() (token.Tokens, bool) {
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

// guard follows the nesting of a token stream without recursion.
type guard struct {
	r         *reader
	levels    []level
	line      int // of the token before
	pathBytes int // of the keys that lead here
	sumBytes  int // of pathBytes over all tokens
	aliases   int
	content   bool // something was seen that is not a mark or comment
}

// level is one mapping or list that is open.
type level struct {
	col      int // of a block's keys or dashes; 0 for [ and {
	keys     int
	keyBytes int // of the current key
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
	case token.SequenceStartType, token.MappingStartType:
		g.push(level{})
	case token.SequenceEndType, token.MappingEndType:
		if g.flow() {
			g.pop()
		}
	case token.SequenceEntryType:
		g.enter(at.col)
	case token.MappingValueType:
		if i > 0 {
			return g.key(tokens[i-1])
		}
	}
	return true
}

// refuse reports constructs that are legal YAML but not part of the format.
func (g *guard) refuse(tk *token.Token, at place) bool {
	r := g.r
	switch tk.Type {
	case token.DocumentHeaderType:
		if g.content {
			r.problem(at, "a second document starts here", "put each dataflow into a file of its own")
			return false
		}
		return true // may come first
	case token.DocumentEndType, token.CommentType:
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
	case token.AliasType:
		if g.aliases++; g.aliases > aliasesMax {
			r.problem(at, fmt.Sprintf("more than %d aliases", aliasesMax), "")
			return false
		}
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
	if len(g.levels) == 0 { // cannot be: enter has opened one
		return true
	}
	top := &g.levels[len(g.levels)-1]
	top.keys++
	g.pathBytes += len(k.Value) - top.keyBytes
	top.keyBytes = len(k.Value)
	switch {
	case len(k.Value) > keyBytesMax:
		g.r.problem(at, fmt.Sprintf("a key of %d bytes, %d are allowed", len(k.Value), keyBytesMax), "")
		return false
	case top.keys > keysMax:
		g.r.problem(at, fmt.Sprintf("a mapping of more than %d keys", keysMax), "split the dataflow")
		return false
	}
	return true
}

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
