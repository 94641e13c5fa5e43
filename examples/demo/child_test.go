//go:build unix

package demo

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// shell starts a child that runs a script, and returns when it has reported.
func shell(t *testing.T, name, script string) *child {
	t.Helper()
	ready := make(chan Report, 1)
	line := fmt.Sprintf(`{"node":%q}`, name)
	c, err := startChild(name, []string{"/bin/sh", "-c", script}, []string{"LINE=" + line}, func(r Report) { ready <- r })
	if err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-ready:
		if r.Node != name {
			t.Fatalf("report %+v", r)
		}
	case <-c.done:
		t.Fatalf("%s ended: %v\n%s", name, c.err, c.output.prefixed(name))
	}
	return c
}

const reportScript = `echo "$LINE" >&$BROKERD_DEMO_REPORT_FD; `

func TestChildrenEnd(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	hurry, now := context.WithCancel(t.Context())
	now() // no waiting between the steps
	polite := shell(t, "polite", reportScript+"exit 0")
	<-polite.done
	stubborn := shell(t, "stubborn", "trap '' TERM; "+reportScript+"while :; do read line; done < /dev/zero")
	asked := endChildren(hurry, true, []*child{polite, stubborn})
	if len(asked) != 1 || asked[0] != "stubborn" {
		t.Errorf("asked %v", asked)
	}
	var status *exec.ExitError
	if polite.err != nil || !asExit(stubborn.err, &status) || status.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("polite: %v, stubborn: %v", polite.err, stubborn.err)
	}
	// Reaped: the process does not exist any more.
	if err := syscall.Kill(stubborn.command.Process.Pid, 0); err != syscall.ESRCH {
		t.Errorf("stubborn is still there: %v", err)
	}
}

func asExit(err error, into **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*into = e
	return ok
}

func TestChildrenEndByThemselves(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := shell(t, "short", reportScript+"echo out; echo err >&2")
	if asked := endChildren(t.Context(), true, []*child{c}); len(asked) != 0 {
		t.Errorf("asked %v", asked)
	}
	if got := c.output.prefixed("short"); !strings.Contains(got, "short | out\n") || !strings.Contains(got, "short | err\n") {
		t.Errorf("output %q", got)
	}
}

func TestChildrenThatWereNotTold(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := shell(t, "untold", reportScript+"while :; do read line; done < /dev/zero")
	asked := endChildren(t.Context(), false, []*child{c})
	var status *exec.ExitError
	if len(asked) != 1 || !asExit(c.err, &status) || status.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("asked %v, ended %v", asked, c.err)
	}
}

func TestChildHasItsOwnProcessGroup(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	hurry, now := context.WithCancel(t.Context())
	now()
	c := shell(t, "group", reportScript+"while :; do read line; done < /dev/zero")
	defer endChildren(hurry, true, []*child{c})
	pid := c.command.Process.Pid
	if group, err := syscall.Getpgid(pid); err != nil || group != pid {
		t.Errorf("process %d is in group %d, %v", pid, group, err)
	}
}

func TestStartFails(t *testing.T) {
	if _, err := startChild("none", []string{"/no/such/program"}, nil, func(Report) {}); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("%v", err)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var tail tail
	for i := range 3 * tailLines {
		fmt.Fprintf(&tail, "line %d\n", i)
	}
	fmt.Fprint(&tail, "no newline")
	got := tail.prefixed("x")
	if n := strings.Count(got, "\n"); n != tailLines || !strings.HasSuffix(got, "x | line 119\nx | no newline\n") {
		t.Errorf("%d lines:\n%s", n, got)
	}
	fmt.Fprint(&tail, strings.Repeat("y", 10*tailLineBytes)+"\n")
	if n := len(tail.lines[len(tail.lines)-1]); n != tailLineBytes {
		t.Errorf("a line of %d bytes", n)
	}
}
