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

// onTerminal starts brokerctl with a terminal as its output, waits until the
// texts have come one after the other, interrupts it, and returns all it wrote.
func onTerminal(t *testing.T, env, args []string, wants ...string) string {
	t.Helper()
	ours, theirs := openTerminal(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(append(os.Environ(), asBrokerctl+"=1", "TERM=xterm"), env...)
	cmd.Stdout, cmd.Stderr = theirs, theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close() // so that our end sees the end
	if err := ours.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	text, seen := "", 0
	buffer := make([]byte, 4096)
	for {
		for len(wants) > 0 && strings.Contains(text[seen:], wants[0]) {
			seen += strings.Index(text[seen:], wants[0]) + len(wants[0])
			if wants = wants[1:]; len(wants) == 0 {
				_ = cmd.Process.Signal(syscall.SIGINT) // it may have ended by itself
			}
		}
		n, err := ours.Read(buffer)
		if err != nil {
			break // the other end is closed, or time is up
		}
		text += string(buffer[:n])
	}
	if len(wants) > 0 {
		t.Errorf("no %q on the terminal: %q", wants[0], text)
		_ = cmd.Process.Kill()
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	return text
}

func TestStatusOnATerminal(t *testing.T) {
	_, addr := broker(t)
	p := brokerctl(t, addr, "run", flowFile(t, t.TempDir(), "source=trickle", "sink=sink in=source/out"))
	p.sees(p.out, "got message 1")
	onTerminal(t, nil, []string{"status", "--addr", addr}, "\x1b[1m"+addr+"\x1b[0m", "\x1b[32mup\x1b[0m", "source/out→sink/in")
	text := onTerminal(t, []string{"NO_COLOR=1"}, []string{"status", "--addr", addr}, "source/out→sink/in")
	if strings.Contains(text, "\x1b") {
		t.Errorf("colours in spite of NO_COLOR: %q", text)
	}
	// The watch has rates from its second look on, and leaves the screen as it
	// found it, with the last look below.
	text = onTerminal(t, nil, []string{"status", "-w", "--interval", "100ms", "--addr", addr},
		"\x1b[?1049h", "\x1b[?25l", "\x1b[H", "source/out→sink/in", "MB/S", "source/out→sink/in")
	_, after, restored := strings.Cut(text, "\x1b[?25h\x1b[?1049l")
	if !restored || !strings.Contains(after, "source/out→sink/in") {
		t.Errorf("the screen is not restored: %q", text)
	}
	p.signal(syscall.SIGINT)
	p.exits(0)
}

func TestRunOnATerminal(t *testing.T) {
	_, addr := broker(t)
	text := onTerminal(t, nil, []string{"run", "--addr", addr, flowFile(t, t.TempDir(), "source=trickle", "sink=sink in=source/out")},
		"\x1b[32msink   |\x1b[0m got message 2", "")
	if !strings.Contains(text, "\x1b[2mbrokerctl: stopping; once more kills at once\x1b[0m") || !strings.Contains(text, "sink saw Stop") {
		t.Errorf("%q", text)
	}
}
