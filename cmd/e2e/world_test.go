//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/node/control"
	"github.com/brokerd/brokerd/wire"
)

// flowName is the dataflow of every world.
const flowName = "flow"

// world is one broker and the nodes of one dataflow.
type world struct {
	t      *testing.T
	prefix string // of the names in /dev/shm
	flow   string // file
	args   []string
	broker *daemon
	nodes  []*child
	past   []*daemon // brokers that were killed
	ended  bool
	// lanes lets the nodes have lanes; else they all go through the broker.
	lanes bool
	// binary is what the next node process runs; empty: this test.
	binary string
	// brokerd is what the next broker runs; empty: what the tests have built.
	brokerd string
	// user is whose the next processes are; nil: that of the test.
	user *syscall.Credential
	// control is how the test itself connects; the address is the broker's.
	control control.Config
	// crowded is set when nodes come and go so often that this test may not read the
	// log as fast as it is written. Drops are in it all the same.
	crowded bool
	// reloaded is set when edges were removed: their drops are in the log only.
	reloaded bool
	// vague is set when somebody wrote nonsense to shared memory, or was killed
	// while writing: what the log says about the messages that this has cost is
	// nonsense or missing, but for their number.
	vague bool

	// filesLimit, if not 0, is the broker's RLIMIT_NOFILE from its start.
	filesLimit int
	// regionFiles is how many descriptors of the broker a region may cost: a
	// second one once it has read from it, for a remote receiver.
	regionFiles int
}

// daemon is one run of brokerd.
type daemon struct {
	cmd      *exec.Cmd
	pid      int
	addr     string
	log      *journal
	reader   *os.File      // of the log
	done     chan struct{} // closed when it has ended
	control  *control.Client
	baseline files
	instance string
}

// newWorld starts a broker that serves the dataflow, and takes everything down
// and looks at it when the test ends.
func newWorld(t *testing.T, flow string, args ...string) *world {
	t.Helper()
	w := prepare(t, flow, args...)
	w.startBroker("127.0.0.1:0")
	return w
}

// prepare is newWorld without the start.
func prepare(t *testing.T, flow string, args ...string) *world {
	t.Helper()
	sum := fnv.New32a()
	sum.Write([]byte(t.Name()))
	w := &world{
		t: t, args: args, regionFiles: 1,
		prefix: fmt.Sprintf("e2e_%x_%d", sum.Sum32(), os.Getpid()),
		flow:   filepath.Join(t.TempDir(), flowName+".yml"),
	}
	if err := os.WriteFile(w.flow, []byte(flow), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.tearDown)
	return w
}

// tearDown ends what the test has not ended itself.
func (w *world) tearDown() {
	if !w.ended && !w.t.Failed() {
		w.finish()
	}
	for _, c := range w.nodes {
		c.destroy()
	}
	if b := w.broker; b != nil {
		b.destroy()
	}
	if w.t.Failed() {
		if w.broker != nil {
			w.t.Logf("broker's log:\n%s", tail(w.broker.log.text(), 6000))
		}
		for _, c := range w.nodes {
			if text := c.stderr.String(); text != "" {
				w.t.Logf("%s said:\n%s", c.id, tail(text, 3000))
			}
		}
		for _, name := range shmNames(w.prefix) {
			_ = os.Remove(filepath.Join(shmDir, name))
		}
	}
}

func tail(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return text[:n/2] + "\n[...]\n" + text[len(text)-n/2:]
}

// launch starts brokerd and does not wait for it.
func (w *world) launch(addr string) *daemon {
	w.t.Helper()
	args := append([]string{"--listen", addr, "--log-format", "json", "--dataflow", w.flow, "--shm-prefix", w.prefix}, w.args...)
	path := w.brokerd
	if path == "" {
		path = brokerdPath(w.t)
	}
	b := &daemon{cmd: exec.Command(path, args...), log: newJournal(), done: make(chan struct{})}
	if w.filesLimit > 0 {
		b.cmd = exec.Command("/bin/sh", append([]string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, w.filesLimit), "sh", b.cmd.Path}, args...)...)
	}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.user}
	reader, writer, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	b.cmd.Stderr, b.reader = writer, reader
	err = startProcess(b.cmd)
	writer.Close()
	if err != nil {
		reader.Close()
		w.t.Fatal(err)
	}
	b.pid = b.cmd.Process.Pid
	go func() {
		defer close(b.done)
		b.log.collect(reader)
		reader.Close()
		_ = b.cmd.Wait() // the status is in ProcessState
	}()
	w.broker = b
	return b
}

// startBroker starts brokerd and waits until it serves.
func (w *world) startBroker(addr string) {
	w.t.Helper()
	b := w.launch(addr)
	e := b.log.await(w.t, 0, "listening")
	b.addr, b.instance = e.text("addr"), e.text("instance")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	cfg := w.control
	cfg.Addr = b.addr
	if b.control, err = control.Dial(ctx, cfg); err != nil {
		w.t.Fatal(err)
	}
	w.status()
	if b.baseline, err = filesOf(b.pid); err != nil {
		w.t.Fatal(err)
	}
}

// destroy ends a broker in whatever state it is.
func (b *daemon) destroy() {
	if b.control != nil {
		b.control.Close()
	}
	select {
	case <-b.done:
	default:
		_ = b.cmd.Process.Kill() // it is our child, and not waited for yet
		<-b.done
	}
}

// exit waits for the end of the broker and returns its exit status.
func (b *daemon) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-b.done:
		return b.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("brokerd does not end")
		return 0
	}
}

func (w *world) status() wire.Status {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var s wire.Status
	if err := w.broker.control.Call(ctx, wire.VerbStatus, nil, &s); err != nil {
		w.t.Fatalf("status: %v", err)
	}
	return s
}

// eventually asks for the status until ok finds nothing to complain about.
func (w *world) eventually(what string, ok func(wire.Status) error) wire.Status {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		s := w.status()
		err := ok(s)
		if err == nil {
			return s
		}
		if time.Now().After(deadline) {
			text, _ := json.MarshalIndent(s, "", " ")
			w.t.Fatalf("%s: %v\n%s", what, err, text)
		}
		time.Sleep(pause)
	}
}

// edge finds an edge of the status by its receiver.
func edgeTo(t *testing.T, s wire.Status, to string) wire.EdgeStatus {
	t.Helper()
	for _, e := range s.Edges {
		if e.To == to {
			return e
		}
	}
	t.Fatalf("no edge to %s in %+v", to, s.Edges)
	return wire.EdgeStatus{}
}

// gone waits until the broker knows that a node has left.
func (w *world) gone(id string) {
	w.t.Helper()
	w.eventually(id+" has left", func(s wire.Status) error {
		for _, n := range s.Nodes {
			if n.Node == id && n.Connected {
				return errors.New("it is connected")
			}
		}
		return nil
	})
}

// settled complains about a broker that still has something under way.
func settled(s wire.Status) error {
	if s.Counters.Tokens != 0 {
		return fmt.Errorf("%d tokens", s.Counters.Tokens)
	}
	for _, e := range s.Edges {
		if e.Held != 0 || e.Queued != 0 || e.InFlight != 0 {
			return fmt.Errorf("%s→%s: %d queued, %d in flight, %d held", e.From, e.To, e.Queued, e.InFlight, e.Held)
		}
		if e.Published != e.Delivered+e.Dropped+e.NoReceiver {
			return fmt.Errorf("%s→%s: %d published, %d delivered + %d dropped + %d without receiver", e.From, e.To, e.Published, e.Delivered, e.Dropped, e.NoReceiver)
		}
	}
	for _, n := range s.Nodes {
		if n.HeldMessages != 0 || n.HeldBytes != 0 {
			return fmt.Errorf("node %s: %d held", n.Node, n.HeldMessages)
		}
	}
	return nil
}

// left complains about nodes that are still there, and about memory that they
// have not given back.
func left(s wire.Status) error {
	if s.Connections != 1 { // ours
		return fmt.Errorf("%d connections", s.Connections)
	}
	if m := s.Memory; m.Regions != m.CachedRegions || m.RetiredRegions != 0 || m.RetiredBytes != 0 || m.UsedBytes != m.CachedBytes {
		return fmt.Errorf("memory %+v", m)
	}
	return settled(s)
}

// finish takes the world down in good order and looks for what is left of it.
func (w *world) finish() {
	w.t.Helper()
	w.ended = true
	for _, c := range w.nodes {
		c.close()
	}
	b := w.broker
	if b.control == nil {
		return // it never served
	}
	s := w.eventually("after the last node", left)
	w.checkFiles(s)
	b.control.Close()
	w.signal(syscall.SIGTERM)
	if status := b.exit(w.t); status != 0 {
		w.t.Errorf("brokerd ended with %d", status)
	}
	w.checkLog(s)
	if names := shmNames(w.prefix); len(names) > 0 {
		w.t.Errorf("left in %s: %v", shmDir, names)
	}
	if alive(b.pid) {
		w.t.Errorf("brokerd (%d) is still there", b.pid)
	}
	for _, c := range w.nodes {
		c.check()
	}
}

func (w *world) signal(s syscall.Signal) {
	w.t.Helper()
	if err := w.broker.cmd.Process.Signal(s); err != nil {
		w.t.Fatalf("%v to brokerd: %v", s, err)
	}
}

// checkFiles compares the broker's descriptors with those of its start: no more
// than one for each cached region may have come.
func (w *world) checkFiles(s wire.Status) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		now, err := filesOf(w.broker.pid)
		if err != nil {
			w.t.Error(err)
			return
		}
		base := w.broker.baseline
		regions := s.Memory.Regions * w.regionFiles
		if now.others <= base.others && now.shm <= base.shm+regions {
			return
		}
		if time.Now().After(deadline) {
			w.t.Errorf("broker's descriptors, with %d regions:\nnow    %v\nbefore %v", s.Memory.Regions, now, base)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// checkLog compares the drop log with the last status, and looks for lines that
// no broker in order writes.
func (w *world) checkLog(s wire.Status) {
	w.t.Helper()
	sums, wrong := w.broker.log.drops()
	for _, err := range wrong {
		if !w.vague {
			w.t.Error(err)
		}
	}
	var logged uint64
	for _, sum := range sums {
		logged += sum.count
	}
	for _, e := range s.Edges {
		var total uint64
		for reason, count := range e.Drops {
			total += count
			sum := sums[dropKey{e.From, e.To, reason}]
			if sum == nil {
				sum = &dropSum{}
			}
			if sum.count != count {
				w.t.Errorf("%s→%s: %d messages dropped for %s, the log says %d", e.From, e.To, count, reason, sum.count)
			}
			delete(sums, dropKey{e.From, e.To, reason})
		}
		if total != e.Dropped {
			w.t.Errorf("%s→%s: %d messages dropped, by reason %d", e.From, e.To, e.Dropped, total)
		}
	}
	for key, sum := range sums {
		if !w.reloaded {
			w.t.Errorf("the log has %d drops that the status does not: %v", sum.count, key)
		}
	}
	if logged != s.Counters.Drops {
		w.t.Errorf("%d drops counted, %d logged", s.Counters.Drops, logged)
	}
	w.checkEvacuated(s)
	for _, e := range w.broker.log.all(0) {
		switch level := e.text("level"); {
		case e.fields == nil:
			w.t.Errorf("line of the log that is no JSON: %s", e.raw)
		case level != "debug" && level != "info" && level != "warn" && !w.expected(e):
			w.t.Errorf("error in the log: %s", e.raw)
		case strings.Contains(e.msg(), "log lines lost") && !w.crowded:
			w.t.Errorf("log lines lost: %s", e.raw)
		}
	}
}

// checkEvacuated compares what the log says of evacuated messages with the last
// status.
func (w *world) checkEvacuated(s wire.Status) {
	w.t.Helper()
	counts := map[string]uint64{}
	var all, bytes uint64
	for _, e := range w.broker.log.all(0) {
		if e.msg() == "message evacuated" {
			count := uint64(e.number("count"))
			counts[e.text("from")+"→"+e.text("to")] += count
			all += count
			bytes += uint64(e.number("bytes"))
		}
	}
	for _, e := range s.Edges {
		if got := counts[e.From+"→"+e.To]; got != e.Evacuated {
			w.t.Errorf("%s→%s: %d messages evacuated, the log says %d", e.From, e.To, e.Evacuated, got)
		}
	}
	if c := s.Counters; all != c.EvacuatedMessages || bytes != c.EvacuatedBytes {
		w.t.Errorf("%d messages evacuated, %d bytes; the log says %d, %d", c.EvacuatedMessages, c.EvacuatedBytes, all, bytes)
	}
}

// expected reports whether an error in the log is what a test is about.
func (w *world) expected(e entry) bool {
	return w.filesLimit > 0 && e.msg() == "connections cannot be accepted; trying again"
}

// crash kills the broker as SIGKILL does, and waits until it is gone.
func (w *world) crash() {
	b := w.broker
	_ = b.cmd.Process.Kill()
	<-b.done
	b.control.Close()
	w.past = append(w.past, b)
}

// onLanes waits until edges, named by their receivers, are on lanes; all of them
// if none is named.
func (w *world) onLanes(edges ...string) wire.Status {
	w.t.Helper()
	return w.eventually("lanes", func(s wire.Status) error {
		for _, e := range s.Edges {
			if (len(edges) == 0 || slices.Contains(edges, e.To)) && e.Path != "lane" {
				return fmt.Errorf("%s→%s is %s: %s", e.From, e.To, e.Path, e.PathReason)
			}
		}
		return nil
	})
}

// bothPaths runs a test with nodes that have lanes, and with nodes that do not.
func bothPaths(t *testing.T, test func(t *testing.T, lanes bool)) {
	t.Parallel()
	for _, lanes := range []bool{false, true} {
		name := "brokered"
		if lanes {
			name = "lanes"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, lanes)
		})
	}
}

// peer opens a connection without any library.
func (w *world) peer() *peer {
	w.t.Helper()
	conn, err := net.DialTimeout("tcp", w.broker.addr, patience)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &peer{t: w.t, conn: conn, enc: wire.NewEncoder(), dec: wire.NewDecoder()}
	w.t.Cleanup(p.close)
	return p
}
