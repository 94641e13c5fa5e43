package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A profile becomes a table between two lines of a page, and packages of which much
// is missing need a reason.
func TestTable(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("a/a.go", "package a\n\nfunc run() {\n\tprintln()\n}\n\nfunc (x *T) idle() {\n\tprintln()\n\tprintln()\n}\n\ntype T struct{}\n")
	write("b/b.go", "package b\n\nfunc all() { println() }\n")
	profile := write("profile", "mode: set\n"+module+"/a/a.go:3.12,5.2 1 1\n"+module+"/a/a.go:7.20,10.2 2 0\n"+module+"/b/b.go:3.12,3.25 1 7\n")
	page := write("page.md", "# Page\n"+begin+"\nold\n"+end+"\nrest\n")
	reasons := write("reasons", "# why\na  it is lazy\n")
	if err := run(profile, reasons, page, dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Page\n", "\n| `a` | 33.3 % | 3 | `T.idle` 2 | it is lazy |\n", "\n| `b` | 100.0 % | 1 |  |  |\n", "\n| all | 50.0 % | 4 |", end + "\nrest\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("missing %q in\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old") {
		t.Errorf("the old table is still there:\n%s", text)
	}
	for name, test := range map[string]struct{ reasons, want string }{
		"no reason": {"", "a: 33.3 %"}, "left over": {"a x\nc y", "c: a reason for a package"}, "twice": {"a x\na y", "second one"},
	} {
		if err := run(profile, write("reasons", test.reasons), page, dir); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
