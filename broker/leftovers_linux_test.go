package broker

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/alloc"
)

// deadBrokerEnv makes TestDeadBroker a broker with that prefix.
const deadBrokerEnv = "BROKERD_BROKER_TEST_PREFIX"

// leftoversPrefix is not that of the other tests, so that their brokers do not
// sweep what these look at.
var leftoversPrefix = testPrefix + "left"

// TestDeadBroker is no test, but the broker that others let die.
func TestDeadBroker(t *testing.T) {
	prefix := os.Getenv(deadBrokerEnv)
	if prefix == "" {
		t.Skip("only as a process of another test")
	}
	a, err := alloc.Open(alloc.Config{Prefix: prefix, GID: alloc.NoGID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Create(1, shmpool.Geometry{SlotBytes: 4096, Slots: 1}); err != nil {
		t.Fatal(err)
	}
	name, offset, length := a.Probe()
	fmt.Println("probe", name, offset, length)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// deadBroker is a broker that was killed, and a session of it that is alive.
func deadBroker(t *testing.T) (session *shmpool.Probe) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeadBroker$")
	cmd.Env = append(os.Environ(), deadBrokerEnv+"="+leftoversPrefix)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	var name string
	var offset uint64
	var length uint32
	if _, err := fmt.Sscanf(line, "probe %s %d %d\n", &name, &offset, &length); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	if session, _, err = shmpool.OpenProbe(name, offset, length); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	if err := session.Lock(5); err != nil {
		t.Fatal(err)
	}
	return session
}

// leftObjects counts the objects that are there beside the probe of the living
// broker.
func leftObjects(t *testing.T, tb *testBroker) (n int) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(shmpool.Dir, leftoversPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if tb == nil || !strings.Contains(path, tb.running().memory.Instance()) {
			n++
		}
	}
	return n
}

func startAfter(t *testing.T, change func(*Config)) *testBroker {
	return startBroker(t, func(c *Config) {
		c.ShmPrefix = leftoversPrefix
		c.AdoptGrace = time.Hour
		if change != nil {
			change(c)
		}
	})
}

const leftoversInUse = "shared memory of dead brokers is in use: their nodes may bring it along"

func TestLeftoversWaitForTheirNodes(t *testing.T) {
	session := deadBroker(t)
	tb := startAfter(t, nil)
	if n := leftObjects(t, tb); n != 2 || tb.logs.FilterMessage(leftoversInUse).Len() != 1 {
		t.Fatalf("%d objects are left, want 2, and a line in the log", n)
	}
	// A broker that ends before leaves them to the next one.
	if err := tb.end(); err != nil {
		t.Fatal(err)
	}
	if n := leftObjects(t, nil); n != 2 {
		t.Fatalf("%d objects are left, want 2", n)
	}
	tb = startAfter(t, nil)
	if n := leftObjects(t, tb); n != 2 {
		t.Fatalf("%d objects are left, want 2", n)
	}
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what nobody uses is removed", func() bool { return leftObjects(t, tb) == 0 })
}

// A broker that ends takes with it what the nodes have let go of.
func TestLeftoversAtTheEnd(t *testing.T) {
	session := deadBroker(t)
	tb := startAfter(t, nil)
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tb.end(); err != nil {
		t.Fatal(err)
	}
	if n := leftObjects(t, nil); n != 0 {
		t.Fatalf("%d objects are left", n)
	}
}

func TestLeftoversDoNotWaitForEver(t *testing.T) {
	session := deadBroker(t)
	tb := startAfter(t, func(c *Config) { c.AdoptGrace = 20 * time.Millisecond })
	// The probe file stays: it says that somebody has mapped what was in use.
	eventually(t, "what is in use is removed, too", func() bool { return leftObjects(t, tb) == 1 })
	select {
	case <-tb.running().leftovers.gone:
		t.Error("nobody should be left")
	default:
	}
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	<-tb.running().leftovers.gone
	if n := leftObjects(t, tb); n != 0 {
		t.Errorf("%d objects are left", n)
	}
	if n := tb.logs.FilterMessage(leftoversInUse).Len(); n != 1 {
		t.Errorf("%d lines say that it is in use", n)
	}
}

// Without lanes nobody can bring anything.
func TestLeftoversWithoutLanes(t *testing.T) {
	session := deadBroker(t)
	tb := startAfter(t, func(c *Config) { c.Lanes = false })
	if n := leftObjects(t, tb); n != 1 { // the probe file
		t.Errorf("%d objects are left", n)
	}
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left", func() bool { return leftObjects(t, tb) == 0 })
}
