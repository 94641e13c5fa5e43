//go:build linux

package e2e

import (
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A trap stops the user's code of a node process in the middle of what it does
// with a message: a receiver while it reads one, a sender while it writes one in
// place. Whoever comes to such a place waits there, until the test says how it
// ends.
type trap struct {
	sprung chan struct{} // closed when somebody is in it
	once   sync.Once
	open   chan struct{} // closed when how says how to go on
	how    trapEnd
}

// trapEnd is what the user's code does after a trap.
type trapEnd string

const (
	goOn  trapEnd = ""
	crash trapEnd = "crash" // panic
	exit  trapEnd = "exit"  // without Release, Discard or Close
)

func newTrap() *trap {
	return &trap{sprung: make(chan struct{}), open: make(chan struct{})}
}

// pass is called at the places. It reports whether there was a trap.
func (p *nodeProcess) pass() bool {
	t := p.trap.Load()
	if t == nil {
		return false
	}
	t.once.Do(func() { close(t.sprung) })
	<-t.open
	switch t.how {
	case crash:
		panic("a crash, as ordered")
	case exit:
		os.Exit(0)
	}
	return true
}

// setTrap answers the order when somebody is in the trap.
func (p *nodeProcess) setTrap(id int) {
	t := newTrap()
	p.trap.Store(t)
	go func() {
		<-t.sprung
		p.say(answer{ID: id})
	}()
}

// openTrap lets all go on that are in it.
func (p *nodeProcess) openTrap(id int, how trapEnd) {
	t := p.trap.Swap(nil)
	if t == nil {
		p.say(failed(id, errors.New("there is no trap")))
		return
	}
	p.say(answer{ID: id})
	t.how = how
	close(t.open)
}

// leaveOnTerm ends the process on SIGTERM as a program in good order does, also
// while its user code stands still.
func (p *nodeProcess) leaveOnTerm() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		<-asked
		if err := p.n.Close(); err != nil {
			p.say(answer{Fault: err.Error()})
		}
		os.Exit(0)
	}()
}

// cutConnection ends this process's connections to the broker without the
// library's knowledge.
func cutConnection() error {
	_, port, err := net.SplitHostPort(os.Getenv("BROKERD_ADDR"))
	if err != nil {
		return err
	}
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return err
	}
	cut := 0
	for _, file := range files {
		fd, err := strconv.Atoi(filepath.Base(file))
		if err != nil || peerPort(fd) != port {
			continue
		}
		if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
			return err
		}
		cut++
	}
	if cut == 0 {
		return errors.New("there is no connection to the broker")
	}
	return nil
}

// peerPort is the port at the other end of a TCP connection; empty: it is none.
func peerPort(fd int) string {
	addr, err := unix.Getpeername(fd)
	if err != nil {
		return ""
	}
	if a, ok := addr.(*unix.SockaddrInet4); ok {
		return strconv.Itoa(a.Port)
	}
	return ""
}

// cutAll ends all connections of another process, as `ss -K` does: with copies of
// its descriptors, so that the process does not know. With listening, its
// listeners go too. It returns how many there were.
func cutAll(pid int, listening bool) (cut int, err error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(process)
	files, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		target, err := os.Readlink(file)
		if err != nil || !strings.HasPrefix(target, "socket:") {
			continue
		}
		theirs, err := strconv.Atoi(filepath.Base(file))
		if err != nil {
			continue
		}
		fd, err := unix.PidfdGetfd(process, theirs, 0)
		if errors.Is(err, unix.EBADF) {
			continue // closed meanwhile
		}
		if err != nil {
			return cut, err
		}
		listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err == nil && (listens == 0 && peerPort(fd) != "" || listens == 1 && listening) {
			if err = unix.Shutdown(fd, unix.SHUT_RDWR); err == nil {
				cut++
			}
		}
		_ = unix.Close(fd)
		if err != nil && !errors.Is(err, unix.ENOTCONN) {
			return cut, err
		}
	}
	return cut, nil
}
