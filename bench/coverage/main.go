// Command coverage turns a profile of `go test` into the table of docs/testing.md:
// for each package how many of its statements the tests run, in which functions most
// of the others are, and why they are not run. The reasons are in a file, the rest is
// counted.
//
//	coverage --profile FILE --reasons FILE --page docs/testing.md
//
// It is started by .ci/cover. It fails if a package of which much is not covered has no reason, and
// if the file has a reason for a package that there is not.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/tools/cover"
)

const (
	module = "github.com/brokerd/brokerd"
	// enough is the part of a package, in percent, that needs no reason for the rest.
	enough = 90
	// functionsMax is how many functions a row names.
	functionsMax = 4
	// The table stands between these lines of the page.
	begin = "<!-- coverage: written by .ci/cover -->"
	end   = "<!-- end of coverage -->"
)

func main() {
	profile := pflag.String("profile", "", "profile in the text form of go test -coverprofile")
	reasons := pflag.String("reasons", "", "file of lines: package, a blank, why")
	page := pflag.String("page", "", "page with the table")
	source := pflag.String("source", "..", "directory of the module")
	pflag.Parse()
	if err := run(*profile, *reasons, *page, *source); err != nil {
		fmt.Fprintln(os.Stderr, "coverage:", err)
		os.Exit(1)
	}
}

func run(profile, reasons, page, source string) error {
	packages, err := read(profile, source)
	if err != nil {
		return err
	}
	why, err := readReasons(reasons)
	if err != nil {
		return err
	}
	table, err := render(packages, why)
	fmt.Print(table)
	if err != nil {
		return err
	}
	return replace(page, table)
}

// pkg is one package of the profile.
type pkg struct {
	name         string // below the module
	covered, all int    // statements
	functions    []function
}

// function is one function of which not everything was run.
type function struct {
	name   string
	missed int // statements
}

func (p *pkg) percent() float64 { return 100 * float64(p.covered) / float64(max(1, p.all)) }

// read adds up a profile by package and function.
func read(profile, source string) ([]*pkg, error) {
	profiles, err := cover.ParseProfiles(profile)
	if err != nil {
		return nil, err
	}
	byName := map[string]*pkg{}
	for _, file := range profiles {
		name, inside := strings.CutPrefix(file.FileName, module+"/")
		if !inside {
			continue
		}
		p := byName[path.Dir(name)]
		if p == nil {
			p = &pkg{name: path.Dir(name)}
			byName[p.name] = p
		}
		functions, err := functionsOf(filepath.Join(source, name))
		if err != nil {
			return nil, err
		}
		missed := map[string]int{}
		for _, b := range file.Blocks {
			p.all += b.NumStmt
			if b.Count > 0 {
				p.covered += b.NumStmt
			} else {
				missed[functions.at(b.StartLine)] += b.NumStmt
			}
		}
		for name, n := range missed {
			p.functions = append(p.functions, function{name, n})
		}
	}
	var all []*pkg
	for _, p := range byName {
		slices.SortFunc(p.functions, func(a, b function) int {
			if a.missed != b.missed {
				return b.missed - a.missed
			}
			return strings.Compare(a.name, b.name)
		})
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *pkg) int { return strings.Compare(a.name, b.name) })
	if len(all) == 0 {
		return nil, errors.New("the profile has no package of this module")
	}
	return all, nil
}

// extents are the functions of a file.
type extents []struct {
	name        string
	first, last int // lines
}

func (e extents) at(line int) string {
	for _, f := range e {
		if f.first <= line && line <= f.last {
			return f.name
		}
	}
	return "?"
}

func functionsOf(file string) (extents, error) {
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var all extents
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := f.Name.Name
		if f.Recv != nil && len(f.Recv.List) == 1 {
			t := f.Recv.List[0].Type
			if star, ok := t.(*ast.StarExpr); ok {
				t = star.X
			}
			if id, ok := t.(*ast.Ident); ok {
				name = id.Name + "." + name
			}
		}
		all = append(all, struct {
			name        string
			first, last int
		}{name, fset.Position(f.Pos()).Line, fset.Position(f.End()).Line})
	}
	return all, nil
}

// readReasons reads lines of a package's name and why some of it is not run. Lines
// that start with # are for people.
func readReasons(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	why := map[string]string{}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, reason, ok := strings.Cut(line, " ")
		if !ok || why[name] != "" {
			return nil, fmt.Errorf("%s:%d: not a package and a reason, or a second one: %s", file, n, line)
		}
		why[name] = strings.TrimSpace(reason)
	}
	return why, lines.Err()
}

// render writes the table. The error says whose reason is missing or left over.
func render(packages []*pkg, why map[string]string) (string, error) {
	var b strings.Builder
	var problems []error
	var covered, all int
	b.WriteString("| package | covered | statements | most of what is not | why |\n|---|---|---|---|---|\n")
	for _, p := range packages {
		covered, all = covered+p.covered, all+p.all
		var names []string
		for _, f := range p.functions[:min(len(p.functions), functionsMax)] {
			names = append(names, fmt.Sprintf("`%s` %d", f.name, f.missed))
		}
		if more := len(p.functions) - functionsMax; more > 0 {
			names = append(names, fmt.Sprintf("%d more", more))
		}
		reason := why[p.name]
		delete(why, p.name)
		if reason == "" && p.percent() < enough {
			problems = append(problems, fmt.Errorf("%s: %.1f %% are covered, and nobody says why not more", p.name, p.percent()))
		}
		fmt.Fprintf(&b, "| `%s` | %.1f %% | %d | %s | %s |\n", p.name, p.percent(), p.all, strings.Join(names, ", "), reason)
	}
	for name := range why {
		problems = append(problems, fmt.Errorf("%s: a reason for a package that is not in the profile", name))
	}
	fmt.Fprintf(&b, "| all | %.1f %% | %d | | |\n", 100*float64(covered)/float64(max(1, all)), all)
	return b.String(), errors.Join(problems...)
}

// replace puts the table into the page.
func replace(page, table string) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin+"\n")
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s has no lines %q and %q", page, begin, end)
	}
	return os.WriteFile(page, []byte(before+begin+"\n"+table+end+after), 0o644)
}
