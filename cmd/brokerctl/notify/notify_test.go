package notify

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// say is what a broker does.
func say(t *testing.T, s *Socket, messages ...string) {
	t.Helper()
	name, ok := strings.CutPrefix(s.Environ()[0], "NOTIFY_SOCKET=")
	if !ok {
		t.Fatalf("environment %q", s.Environ())
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, m := range messages {
		if _, err := conn.Write([]byte(m)); err != nil {
			t.Fatal(err)
		}
	}
}

func listen(t *testing.T) *Socket {
	t.Helper()
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", s.dir, err)
		}
	})
	return s
}

func TestAwaitFindsTheAddress(t *testing.T) {
	s := listen(t)
	say(t, s, "STATUS=starting", "X_BROKERD_ADDR=127.0.0.1:1", "READY=1\nSTATUS=up\nX_BROKERD_ADDR=127.0.0.1:7447")
	addr, err := s.Await(t.Context(), time.Minute)
	if err != nil || addr != "127.0.0.1:7447" {
		t.Errorf("address %q, %v", addr, err)
	}
	// More than any socket holds: somebody reads on.
	for range 2000 {
		say(t, s, "STATUS=still up")
	}
}

func TestAwaitEnds(t *testing.T) {
	s := listen(t)
	if _, err := s.Await(t.Context(), time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing was said, and the wait ends with %v", err)
	}
	s = listen(t)
	s.Hurry()
	if _, err := s.Await(t.Context(), time.Minute); err == nil {
		t.Error("the broker has ended, and the wait has no error")
	}
}
