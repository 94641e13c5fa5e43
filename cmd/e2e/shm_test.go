//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// ownShmEnv tells the test binary that it has a /dev/shm of its own; its value is
// the brokerd to test.
const ownShmEnv = "TEST_OWN_SHM"

// observedMark begins a line with what such a test has observed.
const observedMark = "observed: "

// inShm runs the test that calls it once more, in a mount namespace of its own
// with a new /dev/shm of these options, after a shell command. In there it returns
// true. Outside it enters what was observed, unless event is empty, and returns
// false.
func inShm(t *testing.T, options, setup, event string) bool {
	t.Helper()
	if os.Getenv(ownShmEnv) != "" {
		return true
	}
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	script := `mount -t tmpfs -o "$1,mode=1777" tmpfs /dev/shm || exit 77; cd /tmp; eval "$2"; exec "$0" -test.run "$3" -test.v -test.count 1`
	cmd := exec.Command("/bin/sh", "-c", script, self, options, setup, run)
	cmd.Env = append(os.Environ(), ownShmEnv+"="+brokerdPath(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := combinedOutput(cmd)
	if errors.Is(err, syscall.EPERM) || cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 77 {
		t.Skipf("no right to a mount namespace with a /dev/shm of our own: %v %s", err, out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, text, ok := strings.Cut(out, observedMark)
	text, _, _ = strings.Cut(text, "\n")
	seen, logged, found := strings.Cut(text, "\x1f")
	switch {
	case event == "":
	case !ok || !found:
		t.Fatalf("nothing observed:\n%s", out)
	default:
		observe(t, event, seen, strings.ReplaceAll(logged, "\x1e", "\n"))
	}
	return false
}

// tellObserved is what a test says in there instead of observe.
func tellObserved(seen, logged string) {
	fmt.Printf("%s%s\x1f%s\n", observedMark, seen, strings.ReplaceAll(logged, "\n", "\x1e"))
}

// combinedOutput is that of exec.Cmd, for startProcess.
func combinedOutput(cmd *exec.Cmd) (string, error) {
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := startProcess(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// shell runs a command that must succeed.
func shell(t *testing.T, command string) {
	t.Helper()
	if out, err := combinedOutput(exec.Command("/bin/sh", "-c", command)); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

const (
	fillShm  = "dd if=/dev/zero of=/dev/shm/filler bs=64k 2>/dev/null; dd if=/dev/zero of=/dev/shm/filler2 bs=4k 2>/dev/null; true"
	emptyShm = "rm -f /dev/shm/filler /dev/shm/filler2"
)

// shmFlow has receivers that never make their sender wait, each for itself.
const shmFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: sink
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 4}
  - id: also
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 4}
`

// shmRun is what came of messages of one size.
type shmRun struct {
	sent *sent
	path string // of the edges afterwards
	why  string
}

// shmTeam is one sender with two receivers.
type shmTeam struct {
	w          *world
	source     *child
	sink, also *child
	sent       uint64
}

// team starts the nodes of shmFlow; local is what they have to find out.
func (w *world) team(local bool) *shmTeam {
	w.t.Helper()
	start := func(id string, p program) *child {
		c := w.launchNode(id, p)
		if a := c.first(); !a.Ready || a.Local != local {
			w.t.Fatalf("node %s: %+v\n%s", id, a, c.stderr)
		}
		return c
	}
	team := &shmTeam{w: w, sink: start("sink", program{Receive: true}), also: start("also", program{Receive: true})}
	team.source = start("source", program{})
	team.source.do(order{Do: "await", Output: "frames", Count: 2})
	return team
}

// send sends some messages of a size, and waits until both have those that went.
func (team *shmTeam) send(size int) shmRun {
	w := team.w
	w.t.Helper()
	s := team.source.send(order{Output: "frames", Sizes: []int{size}, Count: 20, Every: 5 * time.Millisecond})
	if s.Sent+s.NoMemory != 20 {
		w.t.Errorf("%d bytes: %+v", size, s)
	}
	team.sent += s.Sent
	status := w.eventually(fmt.Sprintf("messages of %d bytes", size), func(st wire.Status) error {
		for _, to := range []string{"sink/frames", "also/frames"} {
			if e := edgeTo(w.t, st, to); e.Queued != 0 || e.InFlight != 0 || e.Published != e.Delivered+e.Dropped+e.NoReceiver {
				return fmt.Errorf("%+v", e)
			}
		}
		return nil
	})
	e := edgeTo(w.t, status, "sink/frames")
	return shmRun{s, e.Path, e.PathReason}
}

// expect sends messages of a size that all must arrive (ok) or get ErrNoMemory
// with words in it.
func (team *shmTeam) expect(size int, words ...string) shmRun {
	team.w.t.Helper()
	r := team.send(size)
	switch {
	case len(words) == 0 && r.sent.NoMemory > 0, len(words) > 0 && r.sent.Sent > 0:
		team.w.t.Errorf("%d bytes: %+v", size, r.sent)
	}
	for _, word := range words {
		if !strings.Contains(r.sent.NoMemoryText, word) {
			team.w.t.Errorf("%d bytes: %q is not in %q", size, word, r.sent.NoMemoryText)
		}
	}
	return r
}

// denied is how the page shows ErrNoMemory.
func (r shmRun) denied() string {
	return "`ErrNoMemory`: " + numbers(holders.ReplaceAllString(r.sent.NoMemoryText, ""))
}

// Whatever /dev/shm is like: a clear word at the start or from Publish, never a
// crash.
func TestShmFileSystems(t *testing.T) {
	for _, c := range []struct {
		name, options, setup string
		event                string
		test                 func(t *testing.T, w *world)
	}{
		{"container", "size=64m", "", "/dev/shm has 64 MB, as in a container", shmOfContainer},
		{"tiny", "size=1m", "", "/dev/shm has 1 MB", shmTiny},
		{"nearly_full", "size=64m", fillShm + "; truncate -s -24K /dev/shm/filler", "/dev/shm is nearly full when brokerd starts", shmNearlyFull},
		{"full", "size=64m", fillShm, "/dev/shm is full when brokerd starts", shmNone("shared memory file system is full")},
		{"read_only", "size=64m,ro", "", "/dev/shm is read-only", shmNone("read-only file system")},
		{"no_files", "size=64m,nr_inodes=1", "", "/dev/shm may have no file", shmNone("nr_inodes")},
		{"few_files", "size=2g,nr_inodes=2", "", "/dev/shm may have few files", shmFewFiles},
		{"noexec", "size=2g,noexec,nosuid,nodev", "", "", shmOrdinary},
	} {
		t.Run(c.name, func(t *testing.T) {
			if inShm(t, c.options, c.setup, c.event) {
				w := prepare(t, shmFlow)
				w.lanes = true
				w.startBroker("127.0.0.1:0")
				c.test(t, w)
			}
		})
	}
}

func shmOrdinary(t *testing.T, w *world) {
	team := w.team(true)
	w.onLanes()
	team.expect(40)
	team.expect(6 * mib)
	for _, e := range w.broker.log.all(0) {
		if e.text("level") == "warn" && e.text("reason") != wire.DropQueueFull.String() { // the machine may be slow
			t.Errorf("%s", e.raw)
		}
	}
}

func shmOfContainer(t *testing.T, w *world) {
	little := w.broker.log.await(t, 0, "little shared memory: large messages may get none")
	team := w.team(true)
	w.onLanes()
	team.expect(40)
	team.expect(2 * mib)
	large := team.expect(24*mib, "quota of this node", "16 MiB")
	denied := w.broker.log.await(t, 0, "region denied", "node", "source")
	team.expect(2 * mib)
	tellObserved(large.denied()+". Smaller messages go on: with the default limits a node may have a quarter of /dev/shm",
		shown(little, "size_bytes", "free_bytes", "shm_limit_bytes")+"\n"+shown(denied, "node"))
}

func shmTiny(t *testing.T, w *world) {
	little := w.broker.log.await(t, 0, "little shared memory: large messages may get none")
	team := w.team(true)
	team.expect(40)
	team.expect(20 << 10)
	large := team.expect(mib, "quota of this node")
	team.expect(40)
	tellObserved(large.denied()+". Small messages go on", shown(little, "size_bytes", "free_bytes", "shm_limit_bytes"))
}

func shmNearlyFull(t *testing.T, w *world) {
	little := w.broker.log.await(t, 0, "little shared memory: large messages may get none")
	team := w.team(true)
	team.expect(40)
	large := team.expect(mib, "shared memory file system is full", "--shm-size")
	denied := w.broker.log.await(t, 0, "region denied", "node", "source")
	shell(t, emptyShm)
	w.onLanes() // if there was no memory for them, brokerd asks again
	again := team.send(mib)
	if again.sent.Sent < 19 { // the first may get the answer to what was asked before
		t.Errorf("with memory again: %+v", again.sent)
	}
	tellObserved(large.denied()+". Small messages go on, through brokerd if there was no memory for lanes. All comes back by itself when there is room",
		shown(little, "size_bytes", "free_bytes", "shm_limit_bytes")+"\n"+shown(denied, "node"))
}

// probeOf finds the end of a probe file's name.
var probeOf = regexp.MustCompile(`[0-9a-f]{8}-probe`)

// shmNone is a broker that does without.
func shmNone(word string) func(t *testing.T, w *world) {
	return func(t *testing.T, w *world) {
		none := w.broker.log.await(t, 0, "no shared memory: all payloads travel through the sockets")
		if !strings.Contains(none.text("error"), word) {
			t.Errorf("%q is not in %s", word, none.raw)
		}
		team := w.team(false)
		team.expect(40)
		large := team.expect(6 * mib)
		if !strings.Contains(large.why, "remote") {
			t.Errorf("path %s: %s", large.path, large.why)
		}
		tellObserved("all messages go through brokerd's sockets, up to `frame_max`; `brokerctl status` says why", shown(none)+
			" error: "+numbers(strings.ReplaceAll(none.text("error"), w.prefix+"-"+probeOf.FindString(none.text("error")), "NAME")))
	}
}

// shmFewFiles has room for the probe and nothing else.
func shmFewFiles(t *testing.T, w *world) {
	team := w.team(true)
	team.expect(40)
	large := team.expect(mib, "nr_inodes", "df -i")
	denied := w.broker.log.await(t, 0, "region denied", "node", "source")
	if e := team.send(40); e.path != "brokered" || !strings.Contains(e.why, "nr_inodes") {
		t.Errorf("path %s: %s", e.path, e.why)
	}
	tellObserved(large.denied()+". Small messages go on, through brokerd", shown(denied, "node"))
}

// Somebody else fills /dev/shm, again and again, while messages of all sizes run
// on lanes, through brokerd, and to a node without shared memory.
func TestShmFilledMeanwhile(t *testing.T) {
	if !inShm(t, "size=64m", "", "somebody else fills /dev/shm while messages run") {
		return
	}
	w := prepare(t, shmFlow)
	w.lanes = true
	w.regionFiles = 2
	w.startBroker("127.0.0.1:0")
	sink, also := w.start("sink", program{Receive: true}), w.start("also", program{Receive: true}, remote)
	source := w.start("source", program{})
	source.do(order{Do: "await", Output: "frames", Count: 2})
	w.onLanes("sink/frames")
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{40, 9000, 300_000, 1_500_000, 40, 4_000_000}, Every: time.Millisecond})
	progress := func() (s sent) { return source.report().Sending["frames"] }
	for range 3 {
		shell(t, fillShm)
		before := progress()
		w.eventually("messages while it is full", func(wire.Status) error {
			if now := progress(); now.Sent < before.Sent+100 {
				return fmt.Errorf("%d, before %d", now.Sent, before.Sent)
			}
			return nil
		})
		shell(t, emptyShm)
		before = progress()
		w.eventually("memory again", func(wire.Status) error {
			now := progress()
			if now.Sent < before.Sent+100 {
				return fmt.Errorf("%d, before %d", now.Sent, before.Sent)
			}
			return nil
		})
	}
	source.do(order{Do: "halt"})
	s := source.result(reply)
	if s.Sent < 600 {
		t.Errorf("%+v", s)
	}
	w.eventually("the last messages", settled)
	for _, c := range []*child{sink, also} {
		for _, l := range c.report().Inputs["frames"].Lives {
			if l.Count == 0 { // its content was checked as it came, and that none came twice
				t.Errorf("node %s: %+v", c.id, l)
			}
		}
	}
	tellObserved("nodes go on in the memory that they have; a message that needs more gets `ErrNoMemory`, as above. "+
		"When there is room again, the next one that asks gets it; nobody gets a SIGBUS", "")
}
