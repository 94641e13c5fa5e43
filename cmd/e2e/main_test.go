//go:build linux

package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite docs/failures.md and docs/failure-matrix.md from what the tests observe")

// tortureEnv says how often each kind of process is killed; see doc.go.
const tortureEnv = "BROKERD_TORTURE"

var torments, matrixRepeats string // the values of both

// patience is how long a test waits for something that is sure to come. On a
// loaded machine with the race detector much takes long.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	if text := os.Getenv(programEnv); text != "" {
		os.Exit(runProgram(text))
	}
	if text := os.Getenv(besiegerEnv); text != "" {
		os.Exit(runBesieger(text))
	}
	torments, siegeFrames, matrixRepeats = os.Getenv(tortureEnv), os.Getenv(siegeEnv), os.Getenv(matrixEnv)
	// The variables of whoever runs the tests must not decide them.
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "BROKERD_") || name == "NOTIFY_SOCKET" || name == "WATCHDOG_USEC" || name == "JOURNAL_STREAM" {
			os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/brokerd/brokerd/cmd/e2e.serveStarts"),
		goleak.Cleanup(func(status int) {
			if dir := build.dir; dir != "" {
				_ = os.RemoveAll(dir)
			}
			if *update && status == 0 {
				if err := errors.Join(writeFailures(), writeMatrix()); err != nil {
					fmt.Fprintln(os.Stderr, err)
					status = 1
				}
			}
			if left := childrenLeft(); left != "" {
				fmt.Fprintln(os.Stderr, "processes left behind:", left)
				status = max(status, 1)
			}
			os.Exit(status)
		}))
}

// build is brokerd, made when the first test needs it.
var build struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// brokerdPath returns the binary under test.
func brokerdPath(t *testing.T) string {
	t.Helper()
	build.once.Do(func() {
		if build.path = os.Getenv(ownShmEnv); build.path != "" {
			return // the test that started this one has made it
		}
		if build.dir, build.err = os.MkdirTemp("", "brokerd-e2e-"); build.err != nil {
			return
		}
		build.path = filepath.Join(build.dir, "brokerd")
		args := []string{"build", "-buildvcs=false", "-o", build.path}
		if raceDetector {
			args = append(args, "-race")
		}
		out, err := exec.Command("go", append(args, "github.com/brokerd/brokerd/cmd/brokerd")...).CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatalf("build of brokerd: %v", build.err)
	}
	return build.path
}

// starts are processes to be started by serveStarts.
var starts = struct {
	once sync.Once
	ch   chan startRequest
}{ch: make(chan startRequest)}

type startRequest struct {
	cmd  *exec.Cmd
	done chan error
}

// startProcess starts cmd so that it dies with this process, however that ends:
// a test that runs into its time limit leaves nothing behind.
func startProcess(cmd *exec.Cmd) error {
	starts.once.Do(func() { go serveStarts() })
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	request := startRequest{cmd, make(chan error, 1)}
	starts.ch <- request
	return <-request.done
}

// serveStarts is the thread that all processes are children of: the kernel takes
// the end of the thread that started a process for its parent's death. So this
// one never ends.
func serveStarts() {
	runtime.LockOSThread()
	for request := range starts.ch {
		request.done <- request.cmd.Start()
	}
}

// childrenLeft lists the processes, zombies included, that this one has started
// and not waited for.
func childrenLeft() string {
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	var left []string
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			left = append(left, err.Error())
		}
		for _, pid := range strings.Fields(string(text)) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			left = append(left, pid+" "+strings.TrimSpace(string(name)))
		}
	}
	return strings.Join(left, ", ")
}
