package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a new pseudo-terminal.
func openTerminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { ours.Close() })
	raw, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var failed error
	if err := raw.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			number, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

// On a terminal the log is for people, in colours unless they want none.
func TestLogOnATerminal(t *testing.T) {
	for name, c := range map[string]struct {
		env  []string
		args []string
		want string
	}{
		"auto":     {nil, nil, "\x1b[34mINFO\x1b[0m  listening"},
		"no color": {[]string{"NO_COLOR=1"}, nil, "  INFO  listening"},
		"json":     {nil, []string{"--log-format", "json"}, `"msg":"listening"`},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := openTerminal(t)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), self, append([]string{"--listen", "127.0.0.1:0", "--shared-memory=false"}, c.args...)...)
			cmd.Env = append(append(os.Environ(), asBrokerd+"=1"), c.env...)
			cmd.Stderr = theirs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if err := ours.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			text := ""
			buffer := make([]byte, 4096)
			for !strings.Contains(text, c.want) {
				n, err := ours.Read(buffer)
				if err != nil {
					t.Errorf("no %q on the terminal: %q, %v", c.want, text, err)
					break
				}
				text += string(buffer[:n])
			}
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}
