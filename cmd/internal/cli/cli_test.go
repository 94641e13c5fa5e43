package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/brokerd/brokerd/dataflow"
)

func TestStatus(t *testing.T) {
	root := &cobra.Command{Use: "tool", SuggestionsMinimumDistance: 2}
	command := &cobra.Command{Use: "look", Run: func(*cobra.Command, []string) {}}
	root.AddCommand(command)
	for _, c := range []struct {
		err  error
		code int
		said string
	}{
		{nil, ExitOK, ""},
		{errors.New("broken"), ExitFailed, "tool: broken\n"},
		{Usage(errors.New("what?")), ExitUsage, "tool: what?\nRun 'tool look --help' for usage.\n"},
		{fmt.Errorf("so: %w", Config(errors.New("wrong"))), ExitConfig, "tool: wrong\n"},
		{FilesWrong(0, 3, false), ExitOK, ""},
		{FilesWrong(2, 3, false), ExitConfig, "tool: 2 of 3 files wrong\n"},
		{FilesWrong(2, 3, true), ExitConfig, ""},
		{UnknownCommand(root, "lok"), ExitUsage, "tool: unknown command \"lok\", did you mean \"look\"?\nRun 'tool look --help' for usage.\n"},
	} {
		var said strings.Builder
		if code := Status(command, c.err, &said); code != c.code || said.String() != c.said {
			t.Errorf("%v: status %d, said %q", c.err, code, said.String())
		}
	}
}

func TestTexts(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 10 << 10: "10.0 KiB", 1 << 20: "1.00 MiB", 500 << 30: "500 GiB", 1<<64 - 1: "16.0 EiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	if got := Plural(0, "node") + Plural(1, "node") + Plural(2, "node"); got != "0 nodes1 node2 nodes" {
		t.Error(got)
	}
}

func TestCheckedFile(t *testing.T) {
	flow, warnings, err := dataflow.Parse("a.yml", []byte("nodes: [{id: a, outputs: [x]}]"), dataflow.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if f := CheckedFile("a.yml", flow, warnings, nil); !f.OK || len(f.Warnings) != 1 || f.String() != `a.yml: ok (dataflow "a", 1 node, 0 edges)` {
		t.Errorf("%+v, %s", f, &f)
	}
	many := &dataflow.Errors{List: []dataflow.Problem{{File: "b.yml", Line: 3, Message: "odd"}}, More: 7}
	err = errors.Join(many, errors.New("cannot read"))
	f := CheckedFile("b.yml", nil, nil, err)
	want := []Problem{{File: "b.yml", Line: 3, Message: "odd"}, {File: "b.yml", Message: "and 7 more"}, {File: "b.yml", Message: "cannot read"}}
	if f.OK || fmt.Sprint(f.Errors) != fmt.Sprint(want) || f.Warnings == nil {
		t.Errorf("%+v", f)
	}
	if len(many.List) != 1 {
		t.Error("the error itself was changed")
	}
}
