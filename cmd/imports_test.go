// Package cmd_test keeps the law of imports: which package of this module may
// know which others.
package cmd_test

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/brokerd/brokerd/"

// shared is the one package below cmd that others import: what both commands
// would write the same is there, so that their exit statuses and what they say of
// a dataflow file cannot drift apart. It is for commands, not for libraries.
const shared = "cmd/internal/cli"

// allowed lists, for each tree of packages, what of this module it may import.
// A tree may always import itself. The longest matching name counts.
var allowed = map[string][]string{
	"wire":          {},
	"shmpool":       {"wire"},
	"shmpool/alloc": {"wire", "shmpool"},
	"shmpool/pool":  {"wire", "shmpool"},
	"dataflow":      {"wire"},
	"actors":        {"wire", "shmpool", "shmpool/pool", "dataflow"},
	"broker":        {"wire", "shmpool", "shmpool/pool", "shmpool/alloc", "dataflow", "actors"},
	"node":          {"wire", "shmpool"},
	"examples":      {"wire", "node", "node/control", "testdata"},
	"testdata":      {},
	"cmd/brokerd":   {"wire", "broker", "dataflow", "node", "node/control", "examples", "testdata", shared},
	"cmd/brokerctl": {"wire", "node", "node/control", "dataflow", "shmpool", shared},
	shared:          {"dataflow"},
	"cmd/e2e":       {}, // nothing but tests, of processes
}

// forbidden lists what a tree must not import, and why.
var forbidden = []struct {
	tree, path, why string
	deep            bool // nor may anything that it imports
}{
	{"actors", "net", "the router is tested without sockets", false},
	{"actors", "os", "the router is tested without an operating system", false},
	{"actors", "github.com/panjf2000/gnet", "sockets are the broker package's", true},
	{"node", "C", "users must not need a C compiler", false},
	{"node", "github.com/panjf2000/gnet", "the library uses package net", true},
	{"node", "github.com/hidez8891/shm", "it needs cgo; nodes only map", true},
	{"shmpool", "github.com/hidez8891/shm", "it needs cgo; only the allocator may", false},
	{"wire", "os", "the wire format does no input or output of its own", false},
}

type pkg struct {
	ImportPath          string
	Imports, Deps       []string
	TestImports         []string
	XTestImports        []string
	CgoFiles            []string
	Standard, Module    any
	ForTest, Incomplete any
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps,TestImports,XTestImports,CgoFiles", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 8 {
		t.Fatalf("go list knows %d packages only", len(all))
	}
	return all
}

// tree returns the longest key of allowed that path lies in.
func tree(path string) string {
	best := ""
	for name := range allowed {
		if (path == name || strings.HasPrefix(path, name+"/")) && len(name) > len(best) {
			best = name
		}
	}
	return best
}

func within(path, name string) bool { return path == name || strings.HasPrefix(path, name+"/") }

func TestImportLaw(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		if path == "cmd" {
			continue
		}
		home := tree(path)
		if home == "" {
			t.Errorf("%s is in no tree that the law knows", path)
			continue
		}
		for _, imp := range p.Imports {
			rel, ours := strings.CutPrefix(imp, module)
			if ours && !mayImport(home, rel) {
				t.Errorf("%s imports %s; %s may import %s", path, rel, home, strings.Join(allowed[home], ", "))
			}
			if within(imp, "github.com/panjf2000/gnet") && !within(path, "broker") {
				t.Errorf("%s imports gnet; only broker may", path)
			}
			if ours && within(rel, "cmd") && tree(rel) != home && !(rel == shared && within(path, "cmd")) {
				t.Errorf("%s imports %s; nothing may import a command", path, rel)
			}
		}
	}
}

func mayImport(home, path string) bool {
	if within(path, home) && tree(path) == home {
		return true
	}
	return slices.Contains(allowed[home], tree(path))
}

func TestForbiddenImports(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		for _, rule := range forbidden {
			if tree(path) != rule.tree {
				continue
			}
			imports := p.Imports
			if rule.deep {
				imports = p.Deps
			}
			for _, imp := range imports {
				if imp == rule.path || rule.path != "os" && rule.path != "net" && within(imp, rule.path) {
					t.Errorf("%s imports %s: %s", path, imp, rule.why)
				}
			}
		}
	}
}

// TestNodeNeedsNoCgo looks at what the library really is made of when cgo is off:
// the same files.
func TestNodeNeedsNoCgo(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		if len(p.CgoFiles) > 0 && path != "shmpool/alloc" {
			t.Errorf("%s has files that need cgo: %v", path, p.CgoFiles)
		}
	}
}

// TestUnsafe: who looks for what the compiler does not check finds it by the names of
// the files. It reads them itself, as go list leaves out those of other systems and
// other modules.
func TestUnsafe(t *testing.T) {
	found := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != ".." && strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range file.Imports {
			if imp.Path.Value != `"unsafe"` {
				continue
			}
			found++
			if !strings.Contains(d.Name(), "_unsafe") {
				t.Errorf("%s imports unsafe; only files with _unsafe in their name may", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 5 {
		t.Errorf("%d files import unsafe; there are more", found)
	}
}
