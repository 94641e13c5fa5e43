package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/cmd/internal/cli"
)

const (
	idleWindow   = 10 * time.Second
	idleRSSMax   = 25e6   // bytes
	idleCPUMax   = 0.5e-2 // of one core
	idleAttempts = 3
)

// TestIdle: a broker with a dataflow loaded and nobody connected costs next to
// nothing. What else the machine does can only add to the numbers, so that one
// quiet window out of idleAttempts shows what the broker itself takes.
func TestIdle(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("the race detector's memory and time are not brokerd's; and this takes a while")
	}
	flow := t.TempDir() + "/flow.yml"
	writeFile(t, flow, flowText)
	p := start(t, nil, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dataflow", flow)
	p.listening()
	var rss uint64
	var cpu float64
	for range idleAttempts {
		before := p.cpuTime()
		time.Sleep(idleWindow) // what is measured, not synchronisation
		cpu = (p.cpuTime() - before).Seconds() / idleWindow.Seconds()
		rss = p.residentBytes()
		t.Logf("idle for %s: %.1f MB resident, %.2f %% of a core", idleWindow, float64(rss)/1e6, 100*cpu)
		if rss < idleRSSMax && cpu < idleCPUMax {
			break
		}
	}
	if rss >= idleRSSMax {
		t.Errorf("%.1f MB resident, %.0f MB are allowed", float64(rss)/1e6, idleRSSMax/1e6)
	}
	if cpu >= idleCPUMax {
		t.Errorf("%.2f %% of a core, %.1f %% are allowed", 100*cpu, 100*idleCPUMax)
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != cli.ExitOK {
		t.Errorf("exit status %d", code)
	}
}

// proc reads a file about the process.
func (p *process) proc(name string) string {
	p.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(data)
}

// cpuTime is what all threads of the process have used so far.
func (p *process) cpuTime() time.Duration {
	p.t.Helper()
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
	stat := p.proc("stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // from the third one on
	var ticks uint64
	for _, text := range fields[14-3 : 16-3] { // utime, stime
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			p.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick
}

func (p *process) residentBytes() uint64 {
	p.t.Helper()
	for line := range strings.Lines(p.proc("status")) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseUint(strings.Fields(text)[0], 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return n << 10
		}
	}
	p.t.Fatal("no VmRSS in the status of the process")
	return 0
}
