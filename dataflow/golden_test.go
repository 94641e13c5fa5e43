package dataflow

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the .golden files under testdata/dataflow")

// golden compares got with the file beside path, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	path += ".golden"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (write it with: go test ./dataflow -update)", err)
	}
	if got != string(want) {
		t.Errorf("differs from %s\n--- got\n%s--- want\n%s", path, got, want)
	}
}

// examples returns the dataflow files of one folder, at least some.
func examples(t *testing.T, folder string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "testdata", "dataflow", folder, "*.yml"))
	if err != nil || len(paths) < 5 {
		t.Fatalf("%d files in %s, error %v", len(paths), folder, err)
	}
	return paths
}

func parseFile(t *testing.T, path string) (*Flow, []Warning, error) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Strict: strings.HasSuffix(path, ".strict.yml")}
	return Parse(filepath.Base(path), data, opt)
}

func lines[T any](list []T, text func(T) string) string {
	var b strings.Builder
	for _, v := range list {
		b.WriteString(text(v) + "\n")
	}
	return b.String()
}

// TestValid reads each good file and compares its warnings and its normal form;
// the normal form must read back to the same flow.
func TestValid(t *testing.T) {
	for _, path := range examples(t, "valid") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			flow, warnings, err := parseFile(t, path)
			if err != nil {
				t.Fatal(err)
			}
			got := lines(warnings, Warning.String) + string(YAML(flow))
			golden(t, path, got)

			again, _, err := Parse(flow.File, YAML(flow), Options{Strict: true})
			if err != nil {
				t.Fatalf("the normal form does not load: %v", err)
			}
			if !reflect.DeepEqual(flow, again) {
				t.Errorf("the normal form reads as\n%+v\nwant\n%+v", again, flow)
			}
		})
	}
}

// TestInvalid reads each bad file and compares all that is said about it.
func TestInvalid(t *testing.T) {
	for _, path := range examples(t, "invalid") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			flow, warnings, err := parseFile(t, path)
			var all *Errors
			if !errors.As(err, &all) || len(all.List) == 0 {
				t.Fatalf("error %v, want an *Errors with a list", err)
			}
			if flow != nil {
				t.Error("a flow came back with the error")
			}
			golden(t, path, err.Error()+"\n"+lines(warnings, Warning.String))
		})
	}
}

// TestGraphs draws some of the good files.
func TestGraphs(t *testing.T) {
	for _, name := range []string{"pipeline.yml", "cycle.yml", "dora.yml", "timers.yml"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("..", "testdata", "dataflow", "valid", name)
			flow, _, err := parseFile(t, path)
			if err != nil {
				t.Fatal(err)
			}
			base := filepath.Join("..", "testdata", "dataflow", "graph", strings.TrimSuffix(name, ".yml"))
			golden(t, base+".mmd", Mermaid(flow))
			golden(t, base+".dot", DOT(flow))
		})
	}
}
