package demo

import "syscall"

// childAttributes puts a child into a process group of its own, so that a
// Ctrl-C reaches it in the order that the demo decides, and lets the kernel kill
// it should the demo die without ending it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
