//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// protect makes a node find its own mistakes.
const protect = "BROKERD_DEBUG=protect"

// Every use of a message's bytes when their time is over, or in a way that is not
// theirs, ends the process at the spot, and the last thing it says is which
// message it was and who let it go.
func TestProtectFindsMisuse(t *testing.T) {
	for _, path := range []struct {
		name, env string
		size      int
	}{
		{"lanes", "", 9000}, {"brokered", noLanes, 9000}, {"inline", remote, 1000},
	} {
		for _, c := range []struct {
			misuse string
			want   []string
		}{
			{"released", []string{`this process used byte \d+ of %d of the payload of message 1 of input "frames" of node "sink" after its Release`,
				`used at +\S+e2e\.readReleased, \S+misuse_unsafe_test.go:\d+`, `released at +\S+e2e\.readReleased, \S+misuse_unsafe_test.go:\d+, \S+ before`,
				`\s+\S+e2e\.misuse, \S+misuse_unsafe`, `release it later, or copy what is needed longer`}},
			{"elsewhere", []string{`of message 1 of input "frames" of node "sink" after its Release`,
				`used at +\S+e2e\.readElsewhere, `, `released at +\S+e2e\.letGo, `}},
			{"write", []string{`this process wrote to byte 1 of %d of the payload of message 1 of input "frames" of node "sink", which is read-only`,
				`used at +\S+e2e\.writePayload, `, `copy what is to be changed`}},
			{"overrun", []string{`this process went past the end of the payload of message 1 of input "frames" of node "sink", which has %d bytes`,
				`used at +\S+e2e\.overrunPayload, `}},
			{"lost", []string{`used byte 0 of %d of the payload of message 1 of input "frames" of node "sink" after the last handle of it was lost without Release`,
				`used at +\S+e2e\.readLost, `, `given up +\S+ before`, `Keep the Message`}},
			{"published", []string{`used byte 7 of %d of the loan of message 1 of output "frames" of node "source" after its Publish`,
				`used at +\S+e2e\.writePublished, `, `published at +\S+e2e\.misuseLoan, `, `take a new loan`}},
			{"discarded", []string{`used byte 7 of %d of a loan of output "frames" of node "source" after its Discard`,
				`discarded at +\S+e2e\.misuseLoan, `}},
		} {
			t.Run(path.name+"/"+c.misuse, func(t *testing.T) {
				t.Parallel()
				misused(t, path.env, path.size, c.misuse, c.want)
			})
		}
	}
}

func misused(t *testing.T, env string, size int, misuse string, want []string) {
	w := newWorld(t, shmFlow)
	w.lanes = true
	ofLoan := misuse == "published" || misuse == "discarded"
	sink := w.start("sink", program{Receive: !ofLoan, Misuse: misuse}, protect, env)
	source := w.start("source", program{}, protect, env)
	source.do(order{Do: "await", Output: "frames", Count: 1})
	if env == "" {
		w.onLanes("sink/frames")
	}
	guilty := sink
	if ofLoan {
		guilty = source
		source.begin(order{Do: "misuse", Output: "frames", Sizes: []int{size}, Misuse: misuse})
	} else {
		source.send(order{Output: "frames", Sizes: []int{size}, Count: 1})
	}
	select {
	case <-guilty.done:
	case <-time.After(patience):
		t.Fatalf("it lives\n%s", guilty.stderr)
	}
	guilty.killed = true
	text := guilty.stderr.String()
	_, verdict, ok := strings.Cut(text, "\nbrokerd: ")
	if guilty.cmd.ProcessState.ExitCode() != 2 || !ok {
		t.Fatalf("%v\n%s", guilty.cmd.ProcessState, text)
	}
	t.Logf("brokerd: %s", verdict)
	for _, pattern := range want {
		if strings.Contains(pattern, "%d") {
			pattern = fmt.Sprintf(pattern, size)
		}
		if !regexp.MustCompile(pattern).MatchString(verdict) {
			t.Errorf("%q is not in:\nbrokerd: %s", pattern, verdict)
		}
	}
	noMonitor(t, guilty.pid)
}

// monitors lists the monitors of a process.
func monitors(pid int) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && strings.HasSuffix(string(line), fmt.Sprintf("\x00monitor of process %d\x00", pid)) {
			found = append(found, strings.Split(file, "/")[2])
		}
	}
	return found
}

func noMonitor(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); len(monitors(pid)) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("left: monitors %v of process %d", monitors(pid), pid)
		}
	}
}

// A program without mistakes does not notice, and leaves nothing behind, however
// it ends.
func TestProtectOfCorrectProgram(t *testing.T) {
	bothPaths(t, func(t *testing.T, lanes bool) {
		w := newWorld(t, shmFlow)
		w.lanes = lanes
		sink := w.start("sink", program{Receive: true, Keep: 2}, protect)
		also := w.start("also", program{Receive: true}, remote, protect)
		source := w.start("source", program{}, protect)
		source.do(order{Do: "await", Output: "frames", Count: 2})
		if lanes {
			w.onLanes("sink/frames")
		}
		for _, c := range []*child{sink, also, source} {
			if got := monitors(c.pid); len(got) != 1 {
				t.Errorf("monitors of %s: %v", c.id, got)
			}
		}
		before, err := filesOf(source.pid)
		if err != nil {
			t.Fatal(err)
		}
		sizes := []int{100, 9000, 4096, 64, 1_000_000, 12_345}
		a := source.send(order{Output: "frames", Sizes: sizes, Count: 300, Every: time.Millisecond, Loan: true})
		b := source.send(order{Output: "frames", Sizes: sizes, Count: 300, Every: time.Millisecond})
		if a.Sent+b.Sent != 600 {
			t.Errorf("%+v %+v", a, b)
		}
		w.eventually("the messages", func(s wire.Status) error {
			for _, to := range []string{"sink/frames", "also/frames"} {
				if e := edgeTo(t, s, to); e.Queued != 0 || e.Published != e.Delivered+e.Dropped || e.Delivered == 0 {
					return fmt.Errorf("%+v", e)
				}
			}
			return nil
		})
		if after, err := filesOf(source.pid); err != nil || after.others > before.others {
			t.Errorf("descriptors %v, before %v, %v", after, before, err)
		}
		sink.do(order{Do: "release"})
		source.close()
		noMonitor(t, source.pid)
		also.kill()
		noMonitor(t, also.pid)
		w.gone("also")
	})
}

func TestProtectOfUnknownOption(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shmFlow)
	c := w.launchNode("sink", program{}, "BROKERD_DEBUG=protect, speed")
	<-c.done
	if text := strings.Join(c.faults, "\n"); !strings.Contains(text, `unknown option "speed"`) || !strings.Contains(text, "known is protect") {
		t.Errorf("it says: %s", text)
	}
	w.nodes = nil
}
