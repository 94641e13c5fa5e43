package broker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

func address(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
}

// An address has so many wrong tokens, each answered later than those before it,
// and then a few a second; no other address pays for it.
func TestGuard(t *testing.T) {
	g, now := newGuard(), time.Unix(1e9, 0)
	bad, good := address(1), address(2)
	var last time.Duration
	for i := range wrongTokensBurst {
		v, delay := g.judge(now, bad, false)
		if v != wrongToken || delay < last {
			t.Fatalf("wrong token %d: %v after %v, then %v", i, v, last, delay)
		}
		last = delay
	}
	if last <= authDelayMin {
		t.Errorf("the last one is answered after %v", last)
	}
	for _, right := range []bool{false, true} {
		if v, _ := g.judge(now, bad, right); v != unseen {
			t.Errorf("one more, right %v: %v", right, v)
		}
	}
	if v, _ := g.judge(now, good, true); v != admitted {
		t.Errorf("another address: %v", v)
	}
	// In the long run.
	looked := 0
	for range 60_000 {
		now = now.Add(time.Millisecond)
		if v, _ := g.judge(now, bad, false); v == wrongToken {
			looked++
		}
	}
	if looked < 59*wrongTokensPerSecond || looked > 61*wrongTokensPerSecond {
		t.Errorf("%d of 60,000 guesses a minute were looked at", looked)
	}
	// Honest peers of the same address come in again as soon as it is quiet, and
	// cost nothing.
	now = now.Add(time.Second)
	for i := range 1000 {
		if v, _ := g.judge(now, bad, true); v != admitted {
			t.Fatalf("right token %d: %v", i, v)
		}
	}
}

// Whoever has more addresses than the table has room for gets one account for the
// rest of them; the table is bounded, and forgives.
func TestGuardTable(t *testing.T) {
	g, now := newGuard(), time.Unix(1e9, 0)
	looked := 0
	for i := range 10 * suspectsMax {
		for range 2 {
			if v, _ := g.judge(now, address(i), false); v == wrongToken {
				looked++
			}
		}
	}
	if want := 2*suspectsMax + wrongTokensBurst; looked != want || len(g.suspects) != suspectsMax {
		t.Errorf("%d looked at, want %d; %d addresses", looked, want, len(g.suspects))
	}
	if v, _ := g.judge(now, address(5), true); v != admitted {
		t.Errorf("a right token of a remembered address: %v", v)
	}
	now = now.Add(time.Minute)
	if v, _ := g.judge(now, address(1<<20), false); v != wrongToken || len(g.suspects) != 1 {
		t.Errorf("after a minute: %v, %d addresses", v, len(g.suspects))
	}
}

func TestOrigin(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.2.3": "10.1.2.3/32", "::ffff:10.1.2.3": "10.1.2.3/32",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "::1": "::/64",
	} {
		if got := origin(&net.TCPAddr{IP: net.ParseIP(text), Port: 7}); got.String() != want {
			t.Errorf("%s: %v, want %s", text, got, want)
		}
	}
}

// Guesses, many at once: a few are looked at, none holds a place that others need,
// and an honest node comes in afterwards.
func TestGuesses(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.AuthToken, cfg.ConnectionsMax = []byte("secret"), 40 })
	guess := func(i int) *peer {
		p := tb.dial()
		h := hello("camera")
		h.Auth = fmt.Appendf(nil, "guess %d", i)
		p.send(h)
		return p
	}
	// Nobody waits for an answer: one who guesses has no time. On a slow machine it
	// takes a while until there are more than are looked at.
	guesses := 0
	eventually(t, "some guesses are not looked at", func() bool {
		for range wrongTokensBurst {
			guess(guesses).Close()
			guesses++
		}
		return tb.connectionCounters().AuthUnseen > 0
	})
	eventually(t, "one is told so", func() bool {
		e, err := guess(0).next()
		refused, ok := e.(*wire.Error)
		return err == nil && ok && refused.Code == wire.CodeTooManyConnections
	})
	looked := tb.connectionCounters().AuthFailures
	if looked < wrongTokensBurst || len(tb.linesWith("code", "auth")) == 0 {
		t.Errorf("%d guesses were looked at, %d are in the log", looked, len(tb.linesWith("code", "auth")))
	}
	eventually(t, "an honest node comes in", func() bool {
		p := tb.dial()
		h := hello("camera")
		h.Auth = []byte("secret")
		p.send(h, &wire.Attach{})
		m, err := p.next()
		if err != nil {
			return false
		}
		_, welcome := m.(*wire.Welcome)
		return welcome
	})
	eventually(t, "their places are free", func() bool { return tb.running().srv.penalised.Load() == 0 })
}

// Connections that say nothing hold their places only until others need them.
func TestStrangers(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.ConnectionsMax, cfg.HandshakeTimeout = 10, time.Minute })
	camera := tb.join("camera")
	var silent []*peer
	for range 9 {
		silent = append(silent, tb.dial())
	}
	eventually(t, "the broker is full", func() bool { return tb.running().srv.count() == 10 })
	// All are young: whoever comes now is refused.
	// (On a slow machine they may have grown old already.)
	var sink *peer
	eventually(t, "there is a place", func() bool {
		p := tb.dial()
		p.send(hello("sink"), &wire.Attach{})
		for {
			m, err := p.next()
			if err != nil {
				return false
			}
			switch m := m.(type) {
			case *wire.Ports:
				sink = p
				return true
			case *wire.Error:
				if !errors.Is(m, wire.ErrTooManyConnections) {
					t.Fatal(m)
				}
				return false
			}
		}
	})
	eventually(t, "the oldest has lost its place", func() bool {
		_ = silent[0].SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err := silent[0].Read(make([]byte, 1))
		return err != nil && !errors.Is(err, errTimeoutOf(err))
	})
	// Those who have done their handshake keep theirs, whoever comes.
	for range 30 {
		tb.dial()
	}
	for _, p := range []*peer{camera, sink} {
		p.send(&wire.Ping{Nonce: 1})
		until[*wire.Pong](p)
	}
	if n := tb.connectionCounters().PushedOut; n == 0 {
		t.Error("nobody was pushed out")
	}
}
