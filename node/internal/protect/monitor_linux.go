package protect

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// monitorEnv makes this program a monitor; its value is the process to be watched,
// for those who look at a list of processes.
const monitorEnv = "BROKERD_PROTECT_MONITOR"

// The monitor's descriptors, beside standard error.
const (
	monitorCrash = 3 // pipe that the runtime of its process writes to
	monitorTable = 4
)

// crashBytesMax bounds what the monitor reads of the runtime's last words. The
// goroutine with the fault comes first.
const crashBytesMax = 1 << 20

// The program is its own monitor, so that users need no second one. This comes
// after the init functions of packages that do not import this one and come before
// it by name; they run in an empty environment.
func init() {
	if os.Getenv(monitorEnv) != "" {
		syscall.Exit(monitor())
	}
}

// startMonitor starts the monitor of this process, and returns the table.
func startMonitor() (table []byte, err error) {
	fd, err := unix.MemfdCreate("brokerd-protect", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("table: %w", err)
	}
	file := os.NewFile(uintptr(fd), "table")
	defer file.Close()
	// Not only as long as it has to be: there, or the first write would be a SIGBUS.
	if err := unix.Fallocate(fd, 0, 0, tableBytes); err != nil {
		return nil, fmt.Errorf("table of %d bytes: %w", tableBytes, err)
	}
	table, err = unix.Mmap(fd, 0, tableBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map table: %w", err)
	}
	if err := startWatching(file); err != nil {
		return nil, errors.Join(err, unix.Munmap(table))
	}
	return table, nil
}

func startWatching(table *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reader.Close()
	defer writer.Close()
	pid := strconv.Itoa(os.Getpid())
	if pid == "1" {
		lockstep(writer.Fd())
	}
	child, err := os.StartProcess("/proc/self/exe", []string{"brokerd-protect", "monitor of process " + pid}, &os.ProcAttr{
		Dir: "/", Env: []string{monitorEnv + "=" + pid},
		Files: []*os.File{null, null, os.Stderr, reader, table},
		// A group of its own: what the terminal sends to the program is not for it.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("start monitor: %w", err)
	}
	// It lives until this process does not: nobody waits for it.
	if err := errors.Join(child.Release(), debug.SetCrashOutput(writer, debug.CrashOptions{})); err != nil {
		return fmt.Errorf("monitor: %w", err) // which ends with the pipe
	}
	return nil
}

// lockstep makes a pipe hold one write at a time: the runtime, which writes a word
// or two each time, has to wait for the monitor, which writes its report while most
// of the words are still to come. At worst the pipe holds more.
func lockstep(pipe uintptr) {
	_, _ = unix.FcntlInt(pipe, unix.F_SETPIPE_SZ, 4096) // room for one
	if flags, err := unix.FcntlInt(pipe, unix.F_GETFL, 0); err == nil {
		_, _ = unix.FcntlInt(pipe, unix.F_SETFL, flags|unix.O_DIRECT) // which are not joined
	}
}

// monitor is the main function of a monitor.
func monitor() (status int) {
	// It ends with its process and not by what that gets.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTOU)
	table, err := unix.Mmap(monitorTable, 0, tableBytes, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		fmt.Fprintf(os.Stderr, "brokerd: %s is set, and this is no monitor: %v\n", monitorEnv, err)
		return 2
	}
	w := watch{table: table, early: os.Getppid() == 1}
	buffer := make([]byte, 4096)
	for {
		n, err := unix.Read(monitorCrash, buffer)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case n > 0:
			w.take(buffer[:n])
			continue
		}
		w.tell(false)
		return 0
	}
}

// watch is what a monitor knows.
type watch struct {
	table []byte
	early bool // the process is the first of its container: with it, all end at once
	words []byte
	begun time.Time // when the first of them came
	told  bool
}

func (w *watch) take(words []byte) {
	if len(w.words) == 0 {
		w.begun = time.Now()
	}
	w.words = append(w.words, words[:min(len(words), crashBytesMax-len(w.words))]...)
	if w.early {
		w.tell(true)
	}
}

// tell writes the report, if there is something to say: at the end, behind what Go
// has to say, or (more) as soon as the first stack is complete.
func (w *watch) tell(more bool) {
	c, ok := parseCrash(string(w.words))
	if w.told || !ok || more && !c.complete {
		return
	}
	w.told = true
	if e, ok := find(w.table, c.address); ok {
		fmt.Fprint(os.Stderr, report(c, e, w.begun))
	}
}
