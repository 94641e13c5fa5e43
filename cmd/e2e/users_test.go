//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/wire"
)

// Numbers of users and of a group that no process of this machine has.
const (
	brokerUser   = 64001
	nodeUser     = 64002
	strangerUser = 64003
	sharedGroup  = 64100
)

// become makes what the world starts from now on another user's.
func (w *world) become(user uint32, groups ...uint32) {
	w.user = &syscall.Credential{Uid: user, Gid: user, Groups: groups}
}

// usersWorld is a world whose programs every user may run.
func usersWorld(t *testing.T, args ...string) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can start processes of several users")
	}
	w := prepare(t, forgedFlow, args...)
	dir, err := os.MkdirTemp("", "brokerd-users-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w.binary, w.brokerd = filepath.Join(dir, "node"), filepath.Join(dir, "brokerd")
	flow := filepath.Join(dir, filepath.Base(w.flow))
	for from, to := range map[string]string{self: w.binary, brokerdPath(t): w.brokerd, w.flow: flow} {
		if out, err := exec.Command("cp", from, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.Chmod(to, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.flow = flow
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.lanes = true
	return w
}

// as runs do with the rights of another user. They are those of one thread, which
// ends with it.
func as(user, group int, do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		_, _, _ = syscall.RawSyscall(unix.SYS_SETFSGID, uintptr(group), 0, 0)
		_, _, _ = syscall.RawSyscall(unix.SYS_SETFSUID, uintptr(user), 0, 0)
		do()
	}()
	<-done
}

// withheld tries all that a user can do to a file, and returns what was allowed.
func withheld(t *testing.T, user, group int, name string) (allowed []string) {
	t.Helper()
	path := filepath.Join(shmDir, name)
	open := func(flags int) error {
		file, err := os.OpenFile(path, flags, 0)
		if err == nil {
			file.Close()
		}
		return err
	}
	as(user, group, func() {
		for what, try := range map[string]func() error{
			"read":     func() error { return open(os.O_RDONLY) },
			"write":    func() error { return open(os.O_RDWR) },
			"truncate": func() error { return os.Truncate(path, 0) },
			"chmod":    func() error { return os.Chmod(path, 0o666) },
			"unlink":   func() error { return os.Remove(path) },
			"rename":   func() error { return os.Rename(path, path+"x") },
		} {
			switch err := try(); {
			case err == nil:
				allowed = append(allowed, what)
			case !errors.Is(err, fs.ErrPermission):
				t.Errorf("%s of %s: %v", what, name, err)
			}
		}
	})
	slices.Sort(allowed)
	return allowed
}

// stream lets the source send to the sink for a while.
func (w *world) stream(source, sink *child, sizes ...int) {
	w.t.Helper()
	source.do(order{Do: "await", Output: "frames", Count: 1})
	source.send(order{Output: "frames", Sizes: sizes, Count: 200, Every: time.Millisecond})
	w.eventually("the sink's messages", func(s wire.Status) error {
		if e := edgeTo(w.t, s, sink.id+"/frames"); e.Delivered < 200 || e.Dropped > 0 {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
}

// Nobody but the broker's own user can open, or remove, what it has in shared
// memory: probe, regions, lanes, bells. A node of another user is served like one
// of another machine.
func TestOtherUser(t *testing.T) {
	t.Parallel()
	w := usersWorld(t)
	w.regionFiles = 2
	w.become(brokerUser)
	w.startBroker("127.0.0.1:0")
	source, sink := w.start("source", program{}), w.start("sink", program{Receive: true})
	w.onLanes("sink/frames")
	w.stream(source, sink, 100, 50_000)
	names := shmNames(w.prefix)
	if len(names) < 5 { // probe, region, lane, two bells
		t.Fatalf("shared memory: %v", names)
	}
	for _, name := range names {
		info, err := os.Stat(filepath.Join(shmDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o177 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		if allowed := withheld(t, strangerUser, strangerUser, name); len(allowed) > 0 {
			t.Errorf("somebody else may %v %s", allowed, name)
		}
	}
	w.become(nodeUser)
	guest := w.launchNode("guest", program{Receive: true})
	if a := guest.first(); !a.Ready || a.Local {
		t.Fatalf("the node of another user: %+v", a)
	}
	s := w.status()
	i := slices.IndexFunc(s.Nodes, func(n wire.NodeStatus) bool { return n.Node == "guest" })
	edge := edgeTo(t, s, "guest/frames")
	if s.Nodes[i].Local || edge.Path != "brokered" {
		t.Errorf("node %+v, edge %+v", s.Nodes[i], edge)
	}
	source.send(order{Output: "frames", Sizes: []int{100, 50_000}, Count: 50, Every: time.Millisecond})
	w.eventually("the guest's messages", func(wire.Status) error {
		if n := guest.report().Stats.Received; n == 0 {
			return errors.New("none")
		}
		return nil
	})
	t.Logf("%d objects withheld from user %d; edge of a node of user %d: %s, %s", len(names), strangerUser, nodeUser, edge.Path, edge.PathReason)
}

// With a group, nodes of two users share memory and have lanes; who is not in the
// group has nothing.
func TestGroup(t *testing.T) {
	t.Parallel()
	w := usersWorld(t, "--shm-mode", "0660", "--shm-group", fmt.Sprint(sharedGroup))
	w.become(brokerUser, sharedGroup)
	w.startBroker("127.0.0.1:0")
	w.become(nodeUser, sharedGroup)
	sink := w.start("sink", program{Receive: true, Keep: 2})
	w.become(strangerUser+1, sharedGroup)
	source := w.start("source", program{})
	w.onLanes("sink/frames")
	w.stream(source, sink, 100, 50_000)
	names := shmNames(w.prefix)
	if len(names) < 5 {
		t.Fatalf("shared memory: %v", names)
	}
	for _, name := range names {
		if allowed := withheld(t, strangerUser, strangerUser, name); len(allowed) > 0 {
			t.Errorf("who is not in the group may %v %s", allowed, name)
		}
		if strings.HasSuffix(name, "-probe") { // its locks say who lives: nobody but the broker may write there
			if allowed := withheld(t, strangerUser, sharedGroup, name); !slices.Equal(allowed, []string{"read"}) {
				t.Errorf("the group may %v the probe", allowed)
			}
		}
	}
	s := w.status()
	for _, n := range s.Nodes {
		if n.Connected && !n.Local {
			t.Errorf("node %+v", n)
		}
	}
	edge := edgeTo(t, s, "sink/frames")
	t.Logf("users %d → %d by group %d: %s, %d delivered", strangerUser+1, nodeUser, sharedGroup, edge.Path, edge.Delivered)
}
