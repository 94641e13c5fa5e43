//go:build linux

package books

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a process has entered is there when it is killed, and its next life goes on.
func TestBooksOutliveTheirWriter(t *testing.T) {
	const dirEnv = "TEST_BOOKS_DIR"
	if dir := os.Getenv(dirEnv); dir != "" {
		writeAndDie(dir)
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestBooksOutliveTheirWriter$")
	cmd.Env = append(os.Environ(), dirEnv+"="+dir)
	if err := cmd.Run(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("it ended with %v", err)
	}

	sent, err := OpenSent(dir, "a", "out", 7)
	if err != nil {
		t.Fatal(err)
	}
	a := sent.Account()
	if a.Begun != 1001 || a.Done != 1000 || a.Failed.Count() != 1 || !a.Failed.Has(500) {
		t.Errorf("sent: begun %d, done %d, failed %d", a.Begun, a.Done, a.Failed.Count())
	}
	taken, err := OpenTaken(dir, "b", "in", 7)
	if err != nil {
		t.Fatal(err)
	}
	got := taken.Account()
	if got.Taken.Count() != 500 || got.Taken.Last() != 1000 || got.OnLane.Count() != 250 || got.Bytes != 5000 {
		t.Errorf("taken: %d, last %d, on lane %d, %d bytes", got.Taken.Count(), got.Taken.Last(), got.OnLane.Count(), got.Bytes)
	}
	for n, want := range map[uint64]string{0: "no such number", NumbersMax: "no such number", 1000: "twice", 999: "behind message 1000"} {
		if err := taken.Enter(n, 1, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("message %d: %v, want %q", n, err, want)
		}
	}
	if err := taken.Enter(1001, 10, false); err != nil {
		t.Error(err)
	}
	diary, err := OpenDiary(dir, "b", 3)
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{Kind: EntrySession, Time: time.Unix(0, 5), Session: 9, Broker: BrokerHash("x")},
		{Kind: EntryTaken, Port: 2, Life: 7, Number: 1000, Time: time.Unix(0, 6)},
	}
	if got := diary.Entries(); !slices.Equal(got, want) {
		t.Errorf("diary %+v", got)
	}
	lives, err := TakenLives(dir, "b", "in")
	if err != nil || !slices.Equal(lives, []uint32{7, 12}) {
		t.Errorf("lives %v, %v", lives, err)
	}
}

func writeAndDie(dir string) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	sent, err := OpenSent(dir, "a", "out", 7)
	must(err)
	taken, err := OpenTaken(dir, "b", "in", 7)
	must(err)
	_, err = OpenTaken(dir, "b", "in", 12)
	must(err)
	_, err = OpenTaken(dir, "b", "in-2", 1) // another input
	must(err)
	for n := uint64(1); n <= 1000; n++ {
		must(sent.Begin(n))
		if n == 500 {
			sent.Fail(n)
		} else {
			sent.End(n)
		}
		if n%2 == 0 {
			must(taken.Enter(n, 10, n%4 == 0))
		}
	}
	must(sent.Begin(1001))
	sent.Cancel(1001)
	must(sent.Begin(1001))
	diary, err := OpenDiary(dir, "b", 3)
	must(err)
	diary.Write(Entry{Kind: EntrySession, Time: time.Unix(0, 5), Session: 9, Broker: BrokerHash("x")})
	diary.Write(Entry{Kind: EntryTaken, Port: 2, Life: 7, Number: 1000, Time: time.Unix(0, 6)})
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func TestNoBook(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/sent-a-out-1", []byte("this is a text, and not a book of anything"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSent(dir, "a", "out", 1); err == nil || !strings.Contains(err.Error(), "no book") {
		t.Errorf("error %v", err)
	}
	s, err := OpenSent(dir, "a", "out", 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Begin(NumbersMax); err == nil {
		t.Error("a number for which there is no room")
	}
}
