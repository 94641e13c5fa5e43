package protect

import (
	"strings"
	"testing"
	"time"
)

const faultText = `unexpected fault address 0x7fa27bd67cc7
fatal error: fault
[signal SIGSEGV: segmentation violation code=0x2 addr=0x7fa27bd67cc7 pc=0x6623d9]

goroutine 1 gp=0x3cc9d10b61e0 m=0 mp=0x981620 [running]:
runtime.throw({0x71c8f4?, 0x0?})
	/usr/local/go/src/runtime/panic.go:1229 +0x48 fp=0x3cc9d11479e8 sp=0x3cc9d11479b8 pc=0x48a188
runtime.sigpanic()
	/usr/local/go/src/runtime/signal_unix.go:945 +0x285 fp=0x3cc9d1147a48 sp=0x3cc9d11479e8 pc=0x48c365
runtime.memmove()
	/usr/local/go/src/runtime/memmove_amd64.s:450 +0x285 fp=0x3cc9d1147a48 sp=0x3cc9d11479e8 pc=0x48c365
main.(*app).write(...)
	/src/my app/main.go:88
main.main()
	/src/my app/main.go:12 +0x139 fp=0x3cc9d1147ad0 sp=0x3cc9d1147a48 pc=0x6623d9

goroutine 2 [running]:
main.other()
	/src/other.go:1 +0x1
`

func TestParseCrash(t *testing.T) {
	for _, c := range []struct {
		name, text string
		ok         bool
		want       crash
	}{
		{"fault", faultText, true, crash{0x7fa27bd67cc7, "main.(*app).write, /src/my app/main.go:88", true}},
		{"cut in the first stack", faultText[:strings.Index(faultText, "main.main")], true, crash{0x7fa27bd67cc7, "main.(*app).write, /src/my app/main.go:88", false}},
		{"cut before it", faultText[:strings.Index(faultText, "goroutine 1")], true, crash{0x7fa27bd67cc7, "", false}},
		{"cut in the address", "[signal SIGSEGV: segmentation violation code=0x2 addr=0x7fa2", true, crash{0x7fa2, "", false}},
		{"panic", "panic: runtime error: invalid memory address or nil pointer dereference\n[signal SIGSEGV: segmentation violation code=0x2 addr=0x7f00 pc=0x1]\n\n" +
			"goroutine 6 [running]:\npanic({0x1?, 0x2?})\n\t/go/src/runtime/panic.go:1 +0x1\nmain.use({0x1, 0x2, 0x3})\n\t/src/main.go:3 +0x14\ncreated by main.main in goroutine 1\n\t/src/main.go:1 +0x1\n\n", true,
			crash{0x7f00, "main.use, /src/main.go:3", true}},
		{"bus error", "[signal SIGBUS: bus error code=0x2 addr=0x7f10 pc=0x1]\n", true, crash{0x7f10, "", false}},
		{"C code", "SIGSEGV: segmentation violation\nPC=0x46a2 m=0 sigcode=2 addr=0x7f20\nsignal arrived during cgo execution\n\n" +
			"goroutine 1 gp=0x1 m=0 mp=0x2 [syscall]:\nruntime.cgocall(0x1, 0x2)\n\t/go/src/runtime/cgocall.go:1 +0x4b\nmain._Cfunc_use(0x1)\n\t_cgo_gotypes.go:40 +0x45\n\n", true,
			crash{0x7f20, "main._Cfunc_use, _cgo_gotypes.go:40", true}},
		{"no address", "panic: addr=0x1 \n\ngoroutine 1 [running]:\n", false, crash{}},
		{"address too long", "[signal SIGSEGV: x addr=0x11112222333344445 pc=0x1]\n", false, crash{}},
		{"nothing", "", false, crash{}},
	} {
		if got, ok := parseCrash(c.text); ok != c.ok || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, ok)
		}
	}
}

func TestReport(t *testing.T) {
	ended := time.Unix(100, 0)
	base := entry{owner: owner, start: 0x1000, limit: 0x4000, data: 0x2000, size: 0xf00, ended: ended, stack: "main.let, /src/main.go:4\nmain.main, /src/main.go:1"}
	for _, c := range []struct {
		name    string
		change  func(*entry)
		address uint64
		want    string
	}{
		{"after Release", func(e *entry) { e.state, e.end = stateSpent, Released }, 0x2010, `
brokerd: this process used byte 16 of 3840 of the payload of message 17 of input "frames" of node "sink" after its Release
	used at       main.use, /src/use.go:9
	released at   main.let, /src/main.go:4, 1.5s before
	              main.main, /src/main.go:1
	Its memory is the sender's again: release it later, or copy what is needed longer. (found by BROKERD_DEBUG=protect)
`},
		{"behind, after Release", func(e *entry) { e.state, e.end = stateSpent, Released }, 0x2f01, "used memory behind the payload of message 17"},
		{"before, after Release", func(e *entry) { e.state, e.end = stateSpent, Released }, 0x1fff, "used memory before the payload of message 17"},
		{"metadata", func(e *entry) { e.state, e.end, e.owner.Use = stateSpent, Released, Metadata }, 0x2000, "byte 0 of 3840 of the metadata of message 17"},
		{"lost", func(e *entry) { e.state, e.end, e.stack = stateSpent, Forgotten, "" }, 0x2000, "after the last handle of it was lost without Release\n\tused at       main.use, /src/use.go:9\n\tgiven up      1.5s before\n"},
		{"lost loan", func(e *entry) {
			e.state, e.end, e.owner = stateSpent, Forgotten, Owner{Use: Loan, Node: "n", Port: "o"}
		}, 0x2000,
			`of a loan of output "o" of node "n" after the last handle of it was lost without Publish or Discard`},
		{"discarded", func(e *entry) { e.state, e.end, e.owner.Use, e.owner.Seq = stateSpent, Discarded, Loan, 0 }, 0x2000, "after its Discard\n\tused at       main.use, /src/use.go:9\n\tdiscarded at  main.let"},
		{"written to", func(e *entry) { e.state = stateLive }, 0x2001, `wrote to byte 1 of 3840 of the payload of message 17 of input "frames" of node "sink", which is read-only`},
		{"past the end", func(e *entry) { e.state = stateLive }, 0x2f00, `went past the end of the payload of message 17 of input "frames" of node "sink", which has 3840 bytes: it used byte 3840`},
	} {
		e := base
		c.change(&e)
		if got := report(crash{c.address, "main.use, /src/use.go:9", true}, e, ended.Add(1500*time.Millisecond)); !strings.Contains(got, c.want) {
			t.Errorf("%s:\n%s\nhas no\n%s", c.name, got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	table := make([]byte, tableBytes)
	long := strings.Repeat("x", 2000)
	in := entry{state: stateSpent, owner: Owner{Use: Loan, Node: long, Port: "p", Seq: 3}, end: Published, start: 10, limit: 20, data: 12, size: 3, ended: time.Unix(1, 2), stack: long}
	at := table[5*entryBytes : 6*entryBytes]
	var states []uint32
	in.write(at, func(state uint32) { states = append(states, state); at[entryState] = byte(state) })
	if len(states) != 2 || states[0] != stateNone || states[1] != stateSpent {
		t.Errorf("states %v", states)
	}
	out, ok := find(table, 19)
	if !ok || out.owner.Use != Loan || out.owner.Seq != 3 || out.end != Published || out.data != 12 || out.size != 3 || !out.ended.Equal(in.ended) {
		t.Errorf("%+v, %v", out, ok)
	}
	if len(out.owner.Node) != portBytesMax || len(out.stack) != entryBytes-entryText-portBytesMax {
		t.Errorf("texts of %d and %d bytes", len(out.owner.Node), len(out.stack))
	}
	for _, address := range []uint64{9, 20} {
		if e, ok := find(table, address); ok {
			t.Errorf("%d: %+v", address, e)
		}
	}
	at[entryTexts], at[entryTexts+1] = 0xff, 0xff // as if the program had written to it
	if e, ok := find(table, 15); ok {
		t.Errorf("a broken entry: %+v", e)
	}
}
