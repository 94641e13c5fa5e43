package protect

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// childEnv makes the test binary a program with a mistake.
const childEnv = "TEST_PROTECT_CHILD"

func TestMain(m *testing.M) {
	if how := os.Getenv(childEnv); how != "" {
		child(how)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var owner = Owner{Use: Payload, Node: "sink", Port: "frames", Seq: 17}

func openVault(warn func(string, error)) *Vault {
	v, err := Open(warn)
	if err != nil {
		panic(err)
	}
	return v
}

func child(how string) {
	v := openVault(func(text string, err error) { fmt.Println("warned:", text, err) })
	b := v.Copy(owner, bytes.Repeat([]byte{1}, 5000))
	p := b.Bytes()
	switch how {
	case "use":
		v.Spend(b, Released, 0)
		use(p[4000:])
	case "use among many":
		for range 3 * entries {
			v.Spend(v.Copy(owner, []byte{1}), Released, 0)
		}
		v.Spend(b, Released, 0)
		for range spentMax - 1 {
			v.Spend(v.Copy(owner, []byte{1}), Released, 0)
		}
		use(p[4000:])
	case "use, recovered":
		v.Spend(b, Released, 0)
		func() {
			defer func() { fmt.Println("recovered:", recover()) }()
			debug.SetPanicOnFault(true)
			use(p)
		}()
	case "use, as a panic":
		v.Spend(b, Released, 0)
		debug.SetPanicOnFault(true)
		use(p[4000:])
	case "stranger":
		pages, err := mapPages(2 * pageBytes)
		if err != nil {
			panic(err)
		}
		use(pages[pageBytes:])
	case "panic":
		panic("for another reason addr=0x1 ")
	}
}

//go:noinline
func use(p []byte) byte { return p[0] }

// run runs a child and returns what it and its monitor have said.
func run(t *testing.T, how string, attr *syscall.SysProcAttr) (text string, err error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+how, "GOTRACEBACK=")
	cmd.SysProcAttr = attr
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

func TestMonitor(t *testing.T) {
	accused := `brokerd: this process used byte 4000 of 5000 of the payload of message 17 of input "frames" of node "sink" after its Release`
	for _, c := range []struct {
		how   string
		fails bool
		want  []string
	}{
		{"use", true, []string{accused, "\tused at       github.com/brokerd/brokerd/node/internal/protect.use, ", "\treleased at   github.com/brokerd/brokerd/node/internal/protect.child, "}},
		{"use among many", true, []string{accused}},
		{"use, as a panic", true, []string{accused, "protect.use, "}},
		{"use, recovered", false, []string{"recovered: runtime error: invalid memory address"}},
		{"stranger", true, []string{"fatal error: fault"}},
		{"panic", true, []string{"for another reason"}},
		{"nothing", false, nil},
	} {
		t.Run(c.how, func(t *testing.T) {
			text, err := run(t, c.how, nil)
			if (err != nil) != c.fails {
				t.Errorf("it ended with %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in", want)
				}
			}
			if accusations := strings.Count(text, "brokerd: this process"); accusations != strings.Count(strings.Join(c.want, "\n"), "brokerd: ") {
				t.Errorf("%d accusations in", accusations)
			}
			if strings.Contains(text, "warned") {
				t.Error("a warning in")
			}
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

// The first process of a container takes all others with it: the report has to be
// out before.
func TestMonitorOfFirstProcess(t *testing.T) {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	}
	for range 10 {
		text, err := run(t, "use", attr)
		if err != nil && strings.Contains(err.Error(), "operation not permitted") {
			t.Skip("no right to a process namespace: ", err)
		}
		if !strings.Contains(text, "brokerd: this process used byte 4000 of 5000") {
			t.Fatalf("%v\n%s", err, text)
		}
	}
}

// faults reports whether f faults, in this goroutine.
func faults(f func()) (fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(runtime.Error); !ok {
				panic(p)
			}
			fault = true
		}
	}()
	f()
	return false
}

func newVault(t *testing.T) *Vault {
	t.Helper()
	return &Vault{table: make([]byte, tableBytes), free: []int{2, 1, 0}, warn: func(text string, err error) { t.Errorf("%s: %v", text, err) }}
}

func TestBlock(t *testing.T) {
	v := newVault(t)
	for _, n := range []int{1, 63, 64, 65, 4095, 4096, 4097, 100_000} {
		want := bytes.Repeat([]byte{byte(n)}, n)
		b := v.Copy(owner, want)
		p := b.Bytes()
		at := address(p)
		if !bytes.Equal(p, want) || cap(p) != n {
			t.Errorf("%d bytes: a copy of %d, capacity %d", n, len(p), cap(p))
		}
		if at%align != 0 {
			t.Errorf("%d bytes: at %#x", n, at)
		}
		if end := (at + uint64(n) + align - 1) &^ (align - 1); end%uint64(pageBytes) != 0 {
			t.Errorf("%d bytes: they end %d bytes before the guard page", n, -end%uint64(pageBytes))
		}
		if !faults(func() { p[0] = 1 }) {
			t.Errorf("%d bytes: a copy can be written to", n)
		}
		e, ok := find(v.table, at+uint64(n)-1)
		if !ok || e.state != stateLive || e.owner != owner || e.data != at || e.size != uint64(n) {
			t.Errorf("%d bytes: entry %+v, %v", n, e, ok)
		}
		v.Spend(b, Released, 0)
		if !faults(func() { _ = use(p) }) {
			t.Errorf("%d bytes: a spent copy can be read", n)
		}
		if e, ok := find(v.table, at); !ok || e.state != stateSpent || e.end != Released || !strings.Contains(e.stack, "TestBlock") {
			t.Errorf("%d bytes: entry %+v, %v", n, e, ok)
		}
	}
	if b := v.Copy(owner, nil); b != nil {
		t.Error("a copy of nothing")
	}
	v.trim(0, 0)
}

func TestWritable(t *testing.T) {
	v := newVault(t)
	b := v.Writable(Owner{Use: Loan, Node: "source", Port: "frames"}, 100)
	p := b.Bytes()
	p[99] = 7
	v.Spend(b, Published, 5)
	if !faults(func() { p[0] = 1 }) {
		t.Error("a loan can be written to after Publish")
	}
	if e, ok := find(v.table, address(b.pages)); !ok || e.owner.Seq != 5 || e.end != Published {
		t.Errorf("entry %+v, %v", e, ok)
	}
	v.trim(0, 0)
}

// What is spent is bounded in number and bytes, and what is unmapped leaves its
// entry to others; without one a block is protected all the same.
func TestSpentIsBounded(t *testing.T) {
	v := newVault(t)
	held := []*Block{v.Copy(owner, []byte{1}), v.Copy(owner, []byte{2}), v.Copy(owner, []byte{3}), v.Copy(owner, []byte{4})}
	if held[3].entry != -1 {
		t.Errorf("the fourth of three entries is %d", held[3].entry)
	}
	for _, b := range held {
		v.Spend(b, Released, 0)
	}
	if !faults(func() { use(held[3].bytes) }) {
		t.Error("a block without an entry can be read")
	}
	b := v.Copy(owner, []byte{5})
	if b.entry < 0 || len(v.spent) != 3 {
		t.Errorf("entry %d, %d spent", b.entry, len(v.spent))
	}
	v.Spend(b, Released, 0)
	v.trim(0, 0)
	if len(v.free) != 3 {
		t.Errorf("%d free entries of 3", len(v.free))
	}
}

func TestSpentWithoutMonitor(t *testing.T) {
	v := newVault(t)
	v.table, v.free = nil, nil
	for range spentMax + 10 {
		v.Spend(v.Copy(owner, []byte{1}), Released, 0)
	}
	if len(v.spent) != spentMax || v.bytes != uint64(len(v.spent)*2*pageBytes) {
		t.Errorf("%d spent, %d bytes", len(v.spent), v.bytes)
	}
	v.trim(spentMax, 10*uint64(pageBytes))
	if len(v.spent) != 5 {
		t.Errorf("%d spent", len(v.spent))
	}
	v.trim(0, 0)
	if v.bytes != 0 {
		t.Errorf("%d bytes", v.bytes)
	}
}

// Memory of another process that is cut short is no copy, and no crash.
func TestCopyOfShrunkMemory(t *testing.T) {
	v := newVault(t)
	warned := make(chan string, 1)
	v.warn = func(text string, _ error) { warned <- text }
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(8192); err != nil {
		t.Fatal(err)
	}
	shared, err := syscall.Mmap(int(file.Fd()), 0, 8192, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Munmap(shared) }()
	if err := file.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if b := v.Copy(owner, shared); b != nil {
		t.Error("it was copied")
	}
	if text := <-warned; !strings.Contains(text, "cannot be protected") {
		t.Error(text)
	}
	if len(v.free) != 3 {
		t.Errorf("%d entries left of 3", len(v.free))
	}
}
