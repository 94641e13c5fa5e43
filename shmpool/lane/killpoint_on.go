//go:build killpoints

package lane

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// opNames are what KillAtEnv takes; "any" stands for all of them.
var opNames = [...]string{"push", "pop", "lend", "clear", "want", "bell", "keep"}

var (
	killAt   uint64 // 0: never
	killWhat = -1   // any
	points   atomic.Uint64
)

func init() {
	at := os.Getenv(KillAtEnv)
	if at == "" {
		return
	}
	number, what, _ := strings.Cut(at, ",")
	n, err := strconv.ParseUint(number, 10, 64)
	if what != "any" {
		killWhat = slices.Index(opNames[:], what)
	}
	if err != nil || n == 0 || what != "any" && killWhat < 0 {
		panic(fmt.Sprintf("lane: %s=%q: want a number from 1, a comma, and any or one of %q", KillAtEnv, at, opNames))
	}
	killAt = n
}

// Points returns how many stores to shared memory were counted so far.
func Points() uint64 { return points.Load() }

// point kills the process before the store that KillAtEnv names.
func point(what op) {
	if killWhat >= 0 && killWhat != int(what) {
		return
	}
	if points.Add(1) == killAt {
		_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
		select {} // the signal may reach another thread first
	}
}
