package dataflow

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/brokerd/brokerd/wire"
)

// genID draws ids of all shapes, among them those that YAML could take for
// numbers, truth values or nothing.
func genID() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringMatching(`[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}`),
		rapid.SampledFrom([]string{"1", "0x1F", "1e3", "1.5", "0o7", "1_000", "true", "no", "null", "on", "Y", "nan", "2024-01-01", "12-30", "_"}),
	).Filter(func(s string) bool { return s != "dora" && s != "timer" })
}

// genText draws texts that need every kind of quoting.
func genText() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringOfN(rapid.RuneFrom([]rune("ab :#-'\"\\\n\t{}[],&*!|>%@`~?=ßé☃\U0001F4F7\u0085\u2028\uFEFF\x07")), 0, 12, -1),
		rapid.String(),
		genID(),
	).Filter(func(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) })
}

func genTimer() *rapid.Generator[Source] {
	return rapid.Custom(func(t *rapid.T) Source {
		prefix := rapid.SampledFrom([]string{"", "dora/"}).Draw(t, "prefix")
		switch rapid.IntRange(0, 2).Draw(t, "unit") {
		case 0:
			n := rapid.IntRange(1, 86400000).Draw(t, "millis")
			return Source{Timer: time.Duration(n) * time.Millisecond, Text: fmt.Sprintf("%stimer/millis/%d", prefix, n)}
		case 1:
			n := rapid.IntRange(1, 86400).Draw(t, "secs")
			return Source{Timer: time.Duration(n) * time.Second, Text: fmt.Sprintf("%stimer/secs/%d", prefix, n)}
		}
		n := rapid.SampledFrom([]int{1, 2, 4, 5, 8, 10, 50, 1000}).Draw(t, "hz")
		return Source{Timer: time.Second / time.Duration(n), Text: fmt.Sprintf("%stimer/hz/%d", prefix, n)}
	})
}

// genFlow draws a valid flow: any nodes, inputs from any of their outputs.
func genFlow() *rapid.Generator[*Flow] {
	return rapid.Custom(func(t *rapid.T) *Flow {
		f := &Flow{Name: genID().Draw(t, "name"), File: "random.yml"}
		var sources []Source
		for _, id := range rapid.SliceOfNDistinct(genID(), 1, 5, rapid.ID).Draw(t, "ids") {
			n := Node{ID: id, Env: map[string]string{}}
			for _, out := range rapid.SliceOfNDistinct(genID(), 0, 4, rapid.ID).Draw(t, "outputs") {
				n.Outputs = append(n.Outputs, out)
				sources = append(sources, Source{Node: id, Output: out, Text: id + "/" + out})
			}
			if rapid.Bool().Draw(t, "has path") {
				n.Path = genText().Filter(func(s string) bool {
					return strings.TrimSpace(s) != "" && s != "dynamic" && s != "shell"
				}).Draw(t, "path")
			}
			n.Args = append([]string(nil), rapid.SliceOfN(genText(), 0, 3).Draw(t, "args")...)
			for range rapid.IntRange(0, 3).Draw(t, "variables") {
				name := genText().Filter(func(s string) bool {
					return s != "" && len(s) <= keyBytesMax && !strings.Contains(s, "=")
				}).Draw(t, "variable")
				n.Env[name] = genText().Draw(t, "value")
			}
			f.Nodes = append(f.Nodes, n)
		}
		for i := range f.Nodes {
			n := &f.Nodes[i]
			for _, id := range rapid.SliceOfNDistinct(genID(), 0, 4, rapid.ID).Draw(t, "inputs") {
				n.Inputs = append(n.Inputs, genInput(t, id, sources))
			}
		}
		return f
	})
}

func genInput(t *rapid.T, id string, sources []Source) Input {
	in := Input{
		ID:          id,
		QueueSize:   rapid.OneOf(rapid.Just(QueueSizeDefault), rapid.IntRange(QueueSizeMin, QueueSizeMax)).Draw(t, "queue_size"),
		Policy:      rapid.SampledFrom([]wire.Policy{wire.PolicyDropOldest, wire.PolicyDropNewest, wire.PolicyBlock}).Draw(t, "policy"),
		HoldTimeout: time.Duration(rapid.IntRange(0, 86400000).Draw(t, "hold_timeout")) * time.Millisecond,
	}
	if len(sources) > 0 && rapid.Bool().Draw(t, "from a node") {
		in.Source = rapid.SampledFrom(sources).Draw(t, "source")
		return in
	}
	in.Source = genTimer().Draw(t, "timer")
	if in.Policy == wire.PolicyBlock {
		in.Policy = wire.PolicyDropNewest
	}
	return in
}

// TestYAMLRoundTrip: a random flow, rendered, reads back as the same flow.
func TestYAMLRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genFlow().Draw(t, "flow")
		text := YAML(want)
		got, _, err := Parse(want.File, text, Options{Strict: true})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got\n%+v\nwant\n%+v\nfrom\n%s", got, want, text)
		}
		if again := YAML(got); string(again) != string(text) {
			t.Fatalf("rendered again:\n%s\nfirst\n%s", again, text)
		}
	})
}

// checkFlow panics if a flow is not what the package promises of every flow.
func checkFlow(f *Flow) error {
	outputs := map[string]bool{}
	ids := map[string]bool{}
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if CheckID(n.ID) != nil || ids[n.ID] {
			return fmt.Errorf("node id %q", n.ID)
		}
		ids[n.ID] = true
		for _, out := range n.Outputs {
			if CheckID(out) != nil || outputs[n.ID+"/"+out] {
				return fmt.Errorf("output id %q", out)
			}
			outputs[n.ID+"/"+out] = true
		}
	}
	inputs := map[string]bool{}
	for _, e := range f.Edges() {
		in := e.Input
		switch {
		case CheckID(in.ID) != nil || inputs[e.To()]:
			return fmt.Errorf("input id %q", in.ID)
		case in.QueueSize < QueueSizeMin || in.QueueSize > QueueSizeMax:
			return fmt.Errorf("queue size %d", in.QueueSize)
		case in.HoldTimeout < 0 || in.HoldTimeout > HoldTimeoutMax:
			return fmt.Errorf("hold timeout %s", in.HoldTimeout)
		case e.From.IsTimer() && (e.From.Timer < TimerMin || e.From.Timer > TimerMax || in.Policy == wire.PolicyBlock):
			return fmt.Errorf("timer %s, policy %s", e.From.Timer, in.Policy)
		case !e.From.IsTimer() && !outputs[e.From.Node+"/"+e.From.Output]:
			return fmt.Errorf("source %q", e.From.Text)
		}
		inputs[e.To()] = true
	}
	if len(f.Nodes) == 0 {
		return errors.New("no nodes")
	}
	return CheckID(f.Name)
}

// FuzzParse: no panic; a flow keeps every promise and survives rendering; an
// error lists problems whose places are inside the file.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"valid/*.yml", "invalid/*.yml"} {
		paths, err := filepath.Glob(filepath.Join("..", "testdata", "dataflow", pattern))
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, false)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, strict bool) {
		flow, warnings, err := Parse("fuzz.yml", data, Options{Strict: strict})
		for _, w := range warnings {
			checkPlace(t, data, Problem(w))
		}
		if err == nil {
			if err := checkFlow(flow); err != nil {
				t.Fatalf("a bad flow: %v", err)
			}
			again, _, err := Parse("fuzz.yml", YAML(flow), Options{Strict: true})
			if err != nil {
				t.Fatalf("the normal form does not load: %v\n%s", err, YAML(flow))
			}
			if !reflect.DeepEqual(flow, again) {
				t.Fatalf("the normal form reads as\n%+v\nwant\n%+v", again, flow)
			}
			Mermaid(flow)
			DOT(flow)
			return
		}
		var all *Errors
		if !errors.As(err, &all) || len(all.List) == 0 || len(all.List) > ProblemsMax {
			t.Fatalf("error %v", err)
		}
		for _, p := range all.List {
			checkPlace(t, data, p)
		}
	})
}

func checkPlace(t *testing.T, data []byte, p Problem) {
	t.Helper()
	if p.Message == "" || strings.Contains(p.Message, "\n") || strings.Contains(p.Suggestion, "\n") {
		t.Fatalf("message %q, suggestion %q", p.Message, p.Suggestion)
	}
	if strings.Contains(p.Message, "parser failed") {
		t.Fatalf("the parser panicked: %s", p.Message)
	}
	if p.Line == 0 && p.Col == 0 && p.Excerpt == "" {
		return
	}
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.TrimPrefix(string(data), "\xef\xbb\xbf"))
	all := strings.Split(text, "\n")
	if p.Line < 1 || p.Line > len(all) {
		t.Fatalf("line %d of %d", p.Line, len(all))
	}
	if runes := utf8.RuneCountInString(all[p.Line-1]); p.Col < 1 || p.Col > runes+1 {
		t.Fatalf("column %d of %d", p.Col, runes)
	}
	if excerpt := strings.Split(p.Excerpt, "\n"); len(excerpt) != 2 || strings.Trim(excerpt[1], " ") != "^" {
		t.Fatalf("excerpt %q", p.Excerpt)
	}
}

func TestSplitArgs(t *testing.T) {
	tests := []struct {
		line  string
		words []string
		fault string
	}{
		{"", nil, ""},
		{"  \t\n ", nil, ""},
		{"-v --flag x", []string{"-v", "--flag", "x"}, ""},
		{`a "b c" 'd e'`, []string{"a", "b c", "d e"}, ""},
		{`a"b"'c'd`, []string{"abcd"}, ""},
		{`"" ''`, []string{"", ""}, ""},
		{`a\ b \"`, []string{"a b", `"`}, ""},
		{`"a\"b\\c\d"`, []string{`a"b\c\d`}, ""},
		{`'a\b'`, []string{`a\b`}, ""},
		{`$HOME *.go | x`, []string{"$HOME", "*.go", "|", "x"}, ""},
		{`"open`, nil, `a " is not closed`},
		{`x 'open`, nil, `a ' is not closed`},
		{`end\`, nil, `a \ at the end`},
	}
	for _, tt := range tests {
		words, fault := splitArgs(tt.line)
		if !slices.Equal(words, tt.words) || fault != tt.fault {
			t.Errorf("splitArgs(%q) = %q, %q, want %q, %q", tt.line, words, fault, tt.words, tt.fault)
		}
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"image", "image", 0}, {"imgae", "image", 1},
		{"ouputs", "outputs", 1}, {"queue", "quene", 1}, {"kitten", "sitting", 3},
		{"abcdef", "ghijkl", 4}, {"a", "abcdef", 4},
	}
	for _, tt := range tests {
		if got := distance(tt.a, tt.b, 3); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

// TestDistanceIsExact compares with the plain algorithm over the whole table.
func TestDistanceIsExact(t *testing.T) {
	plain := func(a, b string) int {
		d := make([][]int, len(a)+1)
		for i := range d {
			d[i] = make([]int, len(b)+1)
			for j := range d[i] {
				switch {
				case i == 0:
					d[i][j] = j
				case j == 0:
					d[i][j] = i
				default:
					d[i][j] = min(d[i-1][j], d[i][j-1]) + 1
					cost := 1
					if a[i-1] == b[j-1] {
						cost = 0
					}
					d[i][j] = min(d[i][j], d[i-1][j-1]+cost)
					if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
						d[i][j] = min(d[i][j], d[i-2][j-2]+1)
					}
				}
			}
		}
		return d[len(a)][len(b)]
	}
	word := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 9, -1)
	rapid.Check(t, func(t *rapid.T) {
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		limit := rapid.IntRange(0, 5).Draw(t, "limit")
		if got, want := distance(a, b, limit), min(plain(a, b), limit+1); got != want {
			t.Fatalf("distance(%q, %q, %d) = %d, want %d", a, b, limit, got, want)
		}
	})
}
