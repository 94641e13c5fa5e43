package alloc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// The test binary runs itself as another process when childEnv is set; the value
// names an entry of children.
const (
	childEnv  = "BROKERD_ALLOC_TEST_CHILD"
	prefixEnv = "BROKERD_ALLOC_TEST_PREFIX"
	argEnv    = "BROKERD_ALLOC_TEST_ARG"
)

// testPrefix starts the names of all objects that the tests make.
var testPrefix = fmt.Sprintf("brokerdtest%d", os.Getpid())

// testConfig is a Config for the tests' own names.
var testConfig = Config{Prefix: testPrefix, GID: NoGID}

var smallGeometry = shmpool.Geometry{SlotBytes: 20480, Slots: 4}

func TestMain(m *testing.M) {
	if mode := os.Getenv(childEnv); mode != "" {
		testPrefix = os.Getenv(prefixEnv)
		testConfig.Prefix = testPrefix
		if err := children[mode](); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		left, err := filepath.Glob(filepath.Join(shmpool.Dir, testPrefix+"*"))
		for _, path := range left {
			_ = os.Remove(path)
		}
		if err != nil || len(left) > 0 {
			fmt.Fprintln(os.Stderr, "left behind:", left, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// children are the programs of other processes. Each prints a line when it is
// ready, and lives until its standard input ends.
var children = map[string]func() error{
	"broker":   brokerChild,
	"node":     nodeChild,
	"full":     fullChild,
	"adopter":  adopterChild,
	"sweeper":  sweeperChild,
	"nomemory": noMemoryChild,
}

// waitForEnd blocks until the parent closes the pipe, or is gone.
func waitForEnd() { _, _ = io.Copy(io.Discard, os.Stdin) }

// brokerChild is a broker with three regions. It tells its instance and their
// names.
func brokerChild() error {
	a, err := Open(testConfig)
	if err != nil {
		return err
	}
	said := []any{"ready", a.Instance()}
	for id := range wire.RegionID(3) {
		r, err := a.Create(id+1, smallGeometry)
		if err != nil {
			return err
		}
		said = append(said, r.Name())
	}
	fmt.Println(said...)
	waitForEnd()
	return nil
}

// nodeChild is a node with sessions 1 and 2 on the probe file argEnv, which ends
// the second and stays in the first.
func nodeChild() error {
	open := func(session wire.SessionID) (*shmpool.Probe, error) {
		p, _, err := shmpool.OpenProbe(os.Getenv(argEnv), probeNonceOffset, probeNonceBytes)
		if err != nil {
			return nil, err
		}
		return p, p.Lock(session)
	}
	first, err := open(1)
	if err != nil {
		return err
	}
	second, err := open(2)
	if err != nil {
		return err
	}
	if err := second.Close(); err != nil {
		return err
	}
	fmt.Println("ready")
	waitForEnd()
	return first.Close()
}

// child is another process.
type child struct {
	*exec.Cmd
	in    io.Closer
	ready string // what it said, without "ready"
}

// startChild starts a process and waits until it is ready.
func startChild(t *testing.T, mode, arg string, attr *syscall.SysProcAttr) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+mode, prefixEnv+"="+testPrefix, argEnv+"="+arg)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if attr != nil && errors.Is(err, unix.EPERM) {
			t.Skip("no right to make a namespace: ", err)
		}
		t.Fatal(err)
	}
	c := &child{Cmd: cmd, in: in}
	t.Cleanup(c.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	ready, found := strings.CutPrefix(strings.TrimSpace(line), "ready")
	if skip, is := strings.CutPrefix(line, "skip"); is {
		t.Skip(skip)
	}
	if err != nil || !found {
		t.Fatalf("child %s: %q, %v", mode, line, err)
	}
	c.ready = strings.TrimSpace(ready)
	return c
}

// instance is what a broker has said of itself first; regions are their names.
func (c *child) instance() string  { return strings.Fields(c.ready)[0] }
func (c *child) regions() []string { return strings.Fields(c.ready)[1:] }

// kill ends the process with SIGKILL and waits until it is gone.
func (c *child) kill() {
	if c.ProcessState == nil {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}

// stop sends SIGSTOP and waits until the process has stopped.
func (c *child) stop(t *testing.T) {
	t.Helper()
	if err := c.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if err := retry(func() error {
		_, err := unix.Wait4(c.Process.Pid, &status, unix.WUNTRACED, nil)
		return err
	}); err != nil || !status.Stopped() {
		t.Fatalf("wait for the stop: %v, %v", status, err)
	}
}

// eachBackend runs a test with every backend that this build has.
func eachBackend(t *testing.T, test func(t *testing.T, a *Allocator)) {
	backends := []backend{defaultBackend}
	if defaultBackend.name != pureBackend.name {
		backends = append(backends, pureBackend)
	}
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			a := mustOpen(t)
			a.backend = b
			test(t, a)
		})
	}
}

// mustOpen opens an instance and closes it with the test.
func mustOpen(tb testing.TB) *Allocator {
	tb.Helper()
	return mustOpenWith(tb, testConfig)
}

func mustOpenWith(tb testing.TB, cfg Config) *Allocator {
	tb.Helper()
	a, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := a.Close(); err != nil {
			tb.Error(err)
		}
	})
	return a
}

// mustCreate makes a region and closes it with the test.
func mustCreate(tb testing.TB, a *Allocator, id wire.RegionID, g shmpool.Geometry) *Region {
	tb.Helper()
	r, err := a.Create(id, g)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// objects lists the shared memory objects of the tests.
func objects(tb testing.TB) []string {
	tb.Helper()
	paths, err := filepath.Glob(filepath.Join(shmpool.Dir, testPrefix+"*"))
	if err != nil {
		tb.Fatal(err)
	}
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	return paths
}

// holds counts descriptors and mappings of this process by a part of their name.
func holds(tb testing.TB, name string) (fds, mappings int) {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Skip(err)
	}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name()))
		if err == nil && strings.Contains(target, name) {
			fds++
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		tb.Skip(err)
	}
	return fds, strings.Count(string(maps), name)
}
