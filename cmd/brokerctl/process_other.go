//go:build !linux

package main

import (
	"os"
	"os/exec"
	"syscall"
)

// prepare: a process group and the kernel's help at our own death are only
// asked for on Linux.
func prepare(*exec.Cmd) {}

// awaitExit: without a way to wait and leave the process id taken, its reaping
// is the wait.
func awaitExit(*os.Process) {}

// killGroup signals the process alone.
func killGroup(p *os.Process, s syscall.Signal) { _ = p.Signal(s) }
