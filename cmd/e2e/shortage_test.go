//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/wire"
)

func TestWrongDataflow(t *testing.T) {
	t.Parallel()
	w := prepare(t, `nodes:
  - id: camera
    path: dynamic
    outputs: [image]
  - id: sink
    path: dynamic
    inputs:
      frame: camera/imagge
`)
	b := w.launch("127.0.0.1:0")
	if status := b.exit(t); status != 78 {
		t.Errorf("exit status %d, want 78", status)
	}
	text := b.log.text()
	for _, want := range []string{":8:14", "frame: camera/imagge", "^", "did you mean camera/image?"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "listening") {
		t.Errorf("it listened:\n%s", text)
	}
	if names := shmNames(w.prefix); len(names) > 0 {
		t.Errorf("left in %s: %v", shmDir, names)
	}
	text = strings.ReplaceAll(strings.TrimSpace(text), w.flow, flowName+".yml")
	observe(t, "a wrong dataflow file", "exit status 78, nothing was started", "`"+strings.Join(strings.Split(text, "\n"), "`\n`")+"`")
}

// A broker with few file descriptors refuses connections in words, and serves
// those that it has.
func TestFileDescriptors(t *testing.T) {
	t.Parallel()
	w := prepare(t, hostileFlow, "--handshake-timeout", "20s")
	w.filesLimit = 200
	w.startBroker("127.0.0.1:0")
	bystanders := w.stand("source")
	w.broker.log.await(t, 0, "limits lowered to what the limit of open files allows")
	var open []*peer
	var refusal *wire.Error
	seen := w.broker.log.len()
	for range w.filesLimit {
		p := w.peer()
		if refusal = p.control(); refusal != nil {
			break
		}
		open = append(open, p)
	}
	if refusal == nil || refusal.Code != wire.CodeTooManyConnections {
		t.Fatalf("after %d connections: %v", len(open), refusal)
	}
	line := w.broker.log.await(t, seen, "connection refused")
	observe(t, "more connections than file descriptors allow",
		fmt.Sprintf("Error `%s`: %s; the library tries again later", refusal.Code, numbers(refusal.Text)), shown(line, "code"))

	// Now the limit itself falls, as if something else had used them up.
	files, err := filesOf(w.broker.pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range open[:len(open)/2] {
		p.close()
	}
	w.eventually("half of the connections are gone", func(s wire.Status) error {
		now, err := filesOf(w.broker.pid)
		if err == nil && now.others > files.others-len(open)/2+4 {
			err = fmt.Errorf("%d of %d descriptors", now.others, files.others)
		}
		return err
	})
	lowest := lowestFree(t, w.broker.pid)
	if err := unix.Prlimit(w.broker.pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(lowest), Max: uint64(w.filesLimit)}, nil); err != nil {
		t.Skipf("cannot lower the limit of another process: %v", err)
	}
	refused := w.status().Counters.RefusedConnections
	p := w.peer()
	e := refusedAtOnce(p)
	if now := w.status().Counters.RefusedConnections; now != refused+1 {
		t.Errorf("%d refused connections, before %d", now, refused)
	}
	if e == nil || e.Code != wire.CodeTooManyConnections {
		t.Errorf("without descriptors: %v", e)
	} else {
		observe(t, "no file descriptor left at all", fmt.Sprintf("Error `%s`: %s; the library tries again later", e.Code, e.Text), shown(line, "code"))
	}
	if err := unix.Prlimit(w.broker.pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(w.filesLimit), Max: uint64(w.filesLimit)}, nil); err != nil {
		t.Fatal(err)
	}
	for _, p := range open {
		p.close()
	}
	w.start("guest", program{Receive: true}).close()
	bystanders.check()
}

// lowestFree is the lowest number that no descriptor of the process has: with it
// as its limit the process can open nothing.
func lowestFree(t *testing.T, pid int) int {
	t.Helper()
	for fd := 0; ; fd++ {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); errors.Is(err, os.ErrNotExist) {
			return fd
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// refusedAtOnce returns the Error that a connection gets without asking for
// anything, nil if it gets none for a while.
func refusedAtOnce(p *peer) *wire.Error {
	_ = p.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	body, err := wire.ReadFrame(p.conn, 1<<20, nil)
	if err != nil {
		return nil
	}
	m, err := p.dec.Decode(body)
	if e, ok := m.(*wire.Error); ok && err == nil {
		return &wire.Error{Code: e.Code, Text: e.Text}
	}
	return nil
}

const farFlow = `nodes:
  - id: source
    path: dynamic
    outputs: [frames]
  - id: far
    path: dynamic
    inputs:
      frames: {source: source/frames, queue_size: 16}
  - id: sender
    path: dynamic
    outputs: [frames]
  - id: sink
    path: dynamic
    inputs:
      frames: {source: sender/frames, policy: block, queue_size: 8}
`

// A remote node that does not read is cut off, and may come back.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, farFlow, "--slow-timeout", "400ms")
	w.regionFiles = 2
	bystanders := w.stand("sender")
	p := w.peer()
	// However large the kernel lets buffers grow, a message has to be larger.
	if tcp, ok := p.conn.(*net.TCPConn); ok {
		if err := tcp.SetReadBuffer(64 << 10); err != nil {
			t.Fatal(err)
		}
	}
	p.join("far")
	source := w.start("source", program{})
	source.do(order{Do: "await", Output: "frames", Count: 1})
	before := w.cost()
	seen := w.broker.log.len()
	p.send(&wire.Next{Limit: 100})
	source.send(order{Output: "frames", Sizes: []int{16 * mib}, Count: 2})
	cut := w.broker.log.await(t, seen, "connection cut off: it does not read what it is sent")
	dropped := w.broker.log.await(t, seen, "message dropped", "to", "far/frames", "reason", wire.DropSlowConnection.String())
	after := w.cost()
	grown := int64(after.own) - int64(before.own)
	t.Logf("waited %v s for %v bytes; the broker grew by %d KiB", cut.number("waited_s"), cut.number("waiting_bytes"), grown>>10)
	if waited := cut.number("waited_s"); waited < 0.4 || waited > goOnWithin.Seconds() {
		t.Errorf("it waited %v s", waited)
	}
	if grown > 64*mib && !raceDetector {
		t.Errorf("the broker grew by %d bytes", grown)
	}
	far := w.start("far", program{Receive: true}, remote)
	source.do(order{Do: "await", Output: "frames", Count: 1})
	source.send(order{Output: "frames", Sizes: []int{16 * mib}, Count: 2})
	w.eventually("messages for the one that reads", func(wire.Status) error {
		if got := far.report().Stats.Received; got != 2 {
			return fmt.Errorf("%d of 2", got)
		}
		return nil
	})
	bystanders.check()
	w.eventually("the last messages", settled)
	observe(t, "a remote node that does not read",
		"its connection is closed after `slow_timeout`; it may connect again, and the library does",
		shown(cut, "waiting_bytes", "limit_bytes", "waited_s")+"\n"+shown(dropped, "to", "reason", "count"))
}

// A peer that lies about what it has read cannot make the broker queue more than
// outbound_max for it.
func TestGreedyReader(t *testing.T) {
	t.Parallel()
	const limit = 8 * mib
	w := newWorld(t, farFlow, "--outbound-max", "8MiB", "--slow-timeout", "1h", "--heartbeat", "1h")
	w.regionFiles = 2
	p := w.peer()
	p.join("far")
	bystanders := w.stand("sender")
	source := w.start("source", program{})
	source.do(order{Do: "await", Output: "frames", Count: 1})
	reply := source.begin(order{Do: "send", Output: "frames", Sizes: []int{mib}, Every: 2 * time.Millisecond})
	before := w.cost()
	seen := w.broker.log.len()
	p.send(&wire.Next{Limit: 1 << 40})
	lied := make(chan error, 1)
	go func() { lied <- lie(w, p) }()
	cut := w.broker.log.await(t, seen, "connection cut off: it does not read what it is sent")
	after := w.cost()
	if err := <-lied; err != nil {
		t.Error(err)
	}
	dropped := w.broker.log.await(t, seen, "message dropped", "to", "far/frames", "reason", wire.DropSlowConnection.String())
	source.do(order{Do: "halt"})
	source.result(reply)
	bystanders.check()
	grown := int64(after.own) - int64(before.own)
	t.Logf("cut off with %v bytes waiting; the broker grew by %d KiB", cut.number("waiting_bytes"), grown>>10)
	if cut.number("limit_bytes") != limit || cut.number("waiting_bytes") > limit {
		t.Errorf("%s", cut.raw)
	}
	if grown > 6*limit && !raceDetector {
		t.Errorf("the broker grew by %d bytes", grown)
	}
	observe(t, "a remote node that asks for messages and does not read them",
		"its connection is closed when `outbound_max` bytes wait for it",
		shown(cut, "waiting_bytes", "limit_bytes")+"\n"+shown(dropped, "to", "reason", "count"))
}

// lie says that messages were consumed which were not even read, until the
// connection ends.
func lie(w *world, p *peer) error {
	control := w.broker.control
	for consumed, deadline := uint64(0), time.Now().Add(patience); time.Now().Before(deadline); {
		var s wire.Status
		if err := control.Call(w.t.Context(), wire.VerbStatus, nil, &s); err != nil {
			return err
		}
		for _, e := range s.Edges {
			if e.To == "far/frames" && e.Delivered > consumed {
				consumed = e.Delivered
			}
		}
		_ = p.conn.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := p.conn.Write(p.enc.Append(nil, &wire.Next{Limit: 1 << 40, Consumed: consumed})); err != nil {
			var network *net.OpError
			if errors.As(err, &network) || errors.Is(err, io.EOF) {
				return nil // cut off, as it should be
			}
			return err
		}
		for _, n := range s.Nodes {
			if n.Node == "far" && !n.Connected {
				return nil
			}
		}
	}
	return errors.New("never cut off")
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, farFlow, "--shm-limit", "8MiB", "--shm-node-limit", "4MiB", "--shm-cache", "0")
	bystanders := w.stand("sender")
	source, far := w.start("source", program{}), w.start("far", program{Receive: true})
	source.do(order{Do: "await", Output: "frames", Count: 1})
	seen := w.broker.log.len()
	s := source.send(order{Output: "frames", Sizes: []int{6 * mib, mib, 40}, Count: 30, Every: 10 * time.Millisecond})
	if s.NoMemory < 10 || s.Sent < 10 || !strings.Contains(s.NoMemoryText, "4 MiB") {
		t.Errorf("sent: %+v", s)
	}
	denied := w.broker.log.await(t, seen, "region denied", "node", "source")
	dropped := w.broker.log.await(t, seen, "message dropped", "to", "far/frames", "reason", wire.DropNoMemory.String())
	w.eventually("the small ones", func(wire.Status) error {
		if got := far.report().Stats.Received; got != s.Sent {
			return fmt.Errorf("%d of %d", got, s.Sent)
		}
		return nil
	})
	bystanders.check()
	observe(t, "a message larger than the limit of shared memory",
		"`ErrNoMemory`: "+numbers(holders.ReplaceAllString(s.NoMemoryText, ""))+". With a `block` receiver the sender waits instead. Smaller messages go on",
		shown(denied, "node")+"\n"+shown(dropped, "to", "reason", "count"))
}

// A region that somebody has shrunk is a message that cannot be read, and nothing
// worse: the broker does not touch shared memory that others can take away.
func TestShrunkRegion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, farFlow)
	w.regionFiles = 2
	bystanders := w.stand("sender")
	bystand := shmNames(w.prefix)
	far := w.peer()
	far.join("far") // and asks for nothing yet
	source := w.start("source", program{})
	source.do(order{Do: "await", Output: "frames", Count: 1})
	source.send(order{Output: "frames", Sizes: []int{2 * mib, 100}, Count: 2})
	w.eventually("both have reached the broker", func(s wire.Status) error {
		if e := edgeTo(t, s, "far/frames"); e.Queued != 2 {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
	shrunk := 0
	for _, name := range shmNames(w.prefix) {
		path := shmDir + "/" + name
		if info, err := os.Stat(path); err == nil && !slices.Contains(bystand, name) && info.Size() > 2*mib {
			if err := os.Truncate(path, 4096); err != nil {
				t.Fatal(err)
			}
			shrunk++
		}
	}
	if shrunk == 0 {
		t.Fatal("no region was found")
	}
	far.send(&wire.Next{Limit: 10})
	unread := w.broker.log.await(t, 0, "payload could not be read from its region")
	dropped := w.broker.log.await(t, 0, "message dropped", "to", "far/frames", "reason", wire.DropBadDescriptor.String())
	source.kill() // it would touch its region, and get a SIGBUS of its own making
	w.gone("source")
	bystanders.check()
	for {
		m, err := far.next()
		if err != nil {
			t.Fatal(err)
		}
		if inputs, ok := m.(*wire.Inputs); ok {
			if in := inputs.Items[0]; in.Seq != 2 || in.Dropped != 1 {
				t.Errorf("the remote receiver got message %d, after %d dropped", in.Seq, in.Dropped)
			}
			break
		}
	}
	far.close()
	w.gone("far")
	observe(t, "a sender shrinks its region while a message for a remote node waits in it",
		"the message is lost to the remote node, which goes on with the next one", shown(unread, "from", "to")+"\n"+shown(dropped, "to", "reason", "count"))
}

// A full /dev/shm is an error in words, not a SIGBUS.
func TestFullShm(t *testing.T) {
	if !inShm(t, "size=16m", "", "/dev/shm is full") {
		return
	}
	w := newWorld(t, farFlow, "--shm-limit", "1GiB", "--shm-node-limit", "1GiB")
	bystanders := w.stand("sender")
	source, far := w.start("source", program{}), w.start("far", program{Receive: true})
	source.do(order{Do: "await", Output: "frames", Count: 1})
	s := source.send(order{Output: "frames", Sizes: []int{24 * mib, mib, 40}, Count: 30, Every: 10 * time.Millisecond})
	if s.NoMemory < 10 || s.Sent < 10 || !strings.Contains(s.NoMemoryText, "shared memory") {
		t.Errorf("sent: %+v", s)
	}
	denied := w.broker.log.await(t, 0, "region denied", "node", "source")
	w.eventually("the small ones", func(wire.Status) error {
		if got := far.report().Stats.Received; got != s.Sent {
			return fmt.Errorf("%d of %d", got, s.Sent)
		}
		return nil
	})
	// Somebody else fills what is left, under a message that is being written.
	shell(t, fillShm)
	full := source.send(order{Output: "frames", Sizes: []int{mib, 3 * mib, 40}, Count: 30, Every: 10 * time.Millisecond})
	if full.Sent < 10 || full.NoMemory == 0 {
		t.Errorf("with a full /dev/shm: %+v", full)
	}
	shell(t, emptyShm)
	// The first may still get the answer to what was asked before there was room.
	source.send(order{Output: "frames", Sizes: []int{3 * mib}, Count: 1})
	after := source.send(order{Output: "frames", Sizes: []int{3 * mib}, Count: 5, Every: 20 * time.Millisecond})
	if after.NoMemory != 0 {
		t.Errorf("with memory again: %+v", after)
	}
	bystanders.check()
	tellObserved("`ErrNoMemory`: "+numbers(holders.ReplaceAllString(s.NoMemoryText, ""))+". Messages that need no new memory go on", shown(denied, "node"))
}
