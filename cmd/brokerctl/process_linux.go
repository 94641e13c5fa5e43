package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// prepare puts the child in a group of its own, so that Ctrl-C reaches only us
// and the end comes in order. Should we be killed, the kernel terminates the
// child; it takes the death of the thread that started it for ours, which is why
// that thread has to last (runtime.LockOSThread).
func prepare(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// awaitExit returns when the process has ended, and leaves its process id taken.
func awaitExit(p *os.Process) {
	for {
		err := unix.Waitid(unix.P_PID, p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// killGroup signals the group of a process that was not reaped yet. A group that
// is gone is fine.
func killGroup(p *os.Process, s syscall.Signal) {
	_ = unix.Kill(-p.Pid, s)
}
