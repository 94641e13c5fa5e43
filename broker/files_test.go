package broker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/wire"
)

func TestShareFiles(t *testing.T) {
	for _, c := range []struct {
		limit, open, connections, regions, perRegion int
		want                                         fileBudget
		fails                                        bool
	}{
		{math.MaxInt, 10, 4096, 4096, 2, fileBudget{connections: 4096, regions: 4096}, false},
		{20_000, 10, 4096, 4096, 2, fileBudget{connections: 4096, regions: 4096}, false},
		{1024, 10, 4096, 4096, 2, fileBudget{connections: 476, regions: 237}, false},
		{1024, 10, 100, 50, 2, fileBudget{connections: 100, regions: 50}, false},
		{1024, 10, 4096, 4096, 0, fileBudget{connections: 950, regions: 4096}, false},
		{80, 10, 4096, 4096, 2, fileBudget{}, true},
	} {
		got, err := shareFiles(c.limit, c.open, c.connections, c.regions, c.perRegion, 1)
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	}
}

func TestHandshakeFiles(t *testing.T) {
	for _, c := range []struct{ limit, open, want int }{
		{math.MaxInt, 10, tlsHandshakesMax}, {20_000, 10, tlsHandshakesMax}, {1024, 10, 118}, {256, 16, 22}, {64, 10, 1},
	} {
		if got := handshakeFiles(c.limit, c.open); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// No more handshakes are under way than there are files for.
func TestHandshakesMax(t *testing.T) {
	h := handshakes{max: 2}
	begin := func(at time.Time) *pendingHandshake {
		conn, _ := net.Pipe()
		return h.begin(conn, at)
	}
	now := time.Now()
	first, second := begin(now), begin(now.Add(time.Millisecond))
	if first == nil || second == nil || begin(now.Add(strangerSafe-1)) != nil {
		t.Fatal("not two of them")
	}
	if begin(now.Add(strangerSafe)) == nil || len(h.waiting) != 2 || h.waiting[0] != second {
		t.Error("the oldest has not made room")
	}
	if _, err := first.conn.Write([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the oldest is still open: %v", err)
	}
}

// noFilesChild is the broker of TestOutOfFiles, in a process of its own. Told
// "take" on stdin, it opens files until there are no more descriptors; told
// "give", it closes them again.
func noFilesChild() {
	fail := func(err error) {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 200, Max: 200}); err != nil {
		fail(err)
	}
	cfg := Defaults()
	cfg.Listen, cfg.SharedMemory = "127.0.0.1:0", false
	cfg.DrainTimeout, cfg.LingerTimeout = 100*time.Millisecond, 100*time.Millisecond
	flow, _, err := dataflow.Parse("test", []byte(testFlow), dataflow.Options{})
	if err != nil {
		fail(err)
	}
	cfg.Flows = []*dataflow.Flow{flow}
	b, err := New(cfg)
	if err != nil {
		fail(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	select {
	case <-b.Ready():
	case err := <-ended:
		fail(err)
	}
	fmt.Println(b.Addr())
	var taken []int
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		switch orders.Text() {
		case "take":
			for {
				fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					break
				}
				taken = append(taken, fd)
			}
		case "give":
			for _, fd := range taken {
				_ = unix.Close(fd)
			}
			taken = nil
		case "end":
			cancel()
		}
		fmt.Println(orders.Text(), len(taken))
	}
	cancel()
	if err := <-ended; err != nil {
		fail(err)
	}
	fmt.Println("ended")
}

const noFilesEnv = "BROKER_TEST_NO_FILES"

// When file descriptors run out, by whatever, new connections are refused and
// told so, living ones do not notice, and all is well again when there are
// descriptors again.
func TestOutOfFiles(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), noFilesEnv+"=1")
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = child.Wait()
	})
	answers := bufio.NewScanner(stdout)
	answer := func() string {
		if !answers.Scan() {
			t.Fatal("the broker's process has ended")
		}
		return answers.Text()
	}
	order := func(what string) {
		t.Helper()
		fmt.Fprintln(stdin, what)
		if got := answer(); !strings.HasPrefix(got, what) {
			t.Fatalf("%s: %s", what, got)
		}
	}
	tb := &testBroker{t: t, addr: answer()}
	living := tb.join("camera")
	stillLives := func() {
		t.Helper()
		living.send(&wire.Ping{Nonce: 1})
		until[*wire.Pong](living)
	}
	for range 2 {
		order("take")
		stillLives()
		for refused := 0; refused < 3; {
			p := tb.dial()
			p.send(controlHello())
			m, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			e, ok := m.(*wire.Error)
			if !ok {
				continue // a descriptor came free after the others were taken; this one keeps it
			}
			if e.Code != wire.CodeTooManyConnections || !strings.Contains(e.Text, "descriptor") {
				t.Fatalf("refused with %v", e)
			}
			refused++
			stillLives()
		}
		order("give")
		// The reserve may be missing for one more connection.
		eventually(t, "connections are accepted again", func() bool {
			p := tb.dial()
			p.send(controlHello())
			defer p.Close()
			m, err := p.next()
			_, welcome := m.(*wire.Welcome)
			return err == nil && welcome
		})
	}
	// More connections than its limit leaves room for: the same. They do their
	// handshake: those that do not would be pushed out.
	var peers []*peer
	for {
		p := tb.dial()
		p.send(controlHello(), &wire.Attach{})
		m, err := p.next()
		if _, welcome := m.(*wire.Welcome); welcome && err == nil {
			m, err = p.next()
		}
		if err != nil {
			t.Fatalf("connection %d: %v", len(peers), err)
		}
		if e, ok := m.(*wire.Error); ok {
			if e.Code != wire.CodeTooManyConnections {
				t.Fatal(e)
			}
			break
		}
		if peers = append(peers, p); len(peers) > 200 {
			t.Fatal("more connections than descriptors")
		}
	}
	stillLives()
	stdin.Close()
	if got := answer(); got != "ended" {
		t.Fatalf("the broker's end: %s", got)
	}
}

// Connections that come and go leave no descriptor behind.
func TestNoFileLeaks(t *testing.T) {
	tb := startBroker(t, nil)
	tb.join("camera").Close()
	eventually(t, "it is gone", func() bool { return tb.running().srv.count() == 0 })
	_, before := fileLimits()
	for range 100 {
		p := tb.dial()
		p.send(controlHello())
		until[*wire.Welcome](p)
		p.Close()
	}
	eventually(t, "all are gone", func() bool { return tb.running().srv.count() == 0 })
	eventually(t, "as many files as before", func() bool {
		_, after := fileLimits()
		return after <= before
	})
}
