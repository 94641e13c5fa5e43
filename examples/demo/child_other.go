//go:build unix && !linux

package demo

import "syscall"

// childAttributes puts a child into a process group of its own, so that a
// Ctrl-C reaches it in the order that the demo decides. Here no child is killed
// when the demo dies without ending it: it ends when the broker is gone for good.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
