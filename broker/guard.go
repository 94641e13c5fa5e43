package broker

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// wrongTokensBurst and wrongTokensPerSecond are how many wrong tokens of one
	// address are looked at: so many at once, so many in the long run. A few nodes
	// with an old token that are started again and again stay far below; a program
	// that guesses learns next to nothing.
	wrongTokensBurst     = 100
	wrongTokensPerSecond = 10

	// authDelayMin is how long the answer to a wrong token is held back. It doubles
	// when half of the burst is used up, and again at its end; so that it stays
	// below what clients wait for an answer.
	authDelayMin = time.Second

	// suspectsMax bounds the addresses that are remembered. Those beyond share one
	// account: whoever has that many addresses gets no more by using all of them.
	suspectsMax = 1024
	// penaltyShare is the part of all connections, one in so many, that may wait for
	// the answer to a wrong token. More are answered at once.
	penaltyShare = 8
)

// guard slows down whoever guesses the token. It keeps an account for each
// address that has shown a wrong one: the next is looked at only while there is
// something left on it. A right token costs nothing, so that honest peers behind
// the same address come in as long as guesses are rare; when they are not, what
// comes from there is sent away unseen, and may try again: accounts fill up by
// themselves within seconds, whatever has happened.
type guard struct {
	mu       sync.Mutex
	suspects map[netip.Prefix]*account
	rest     account // of the addresses that the table has no room for
}

// account is what is left of an address's wrong tokens.
type account struct {
	left float64
	at   time.Time // when left was true; zero: never used
}

// verdict is what becomes of a Hello.
type verdict uint8

const (
	admitted verdict = iota
	wrongToken
	unseen // too many wrong tokens before it
)

func newGuard() *guard { return &guard{suspects: make(map[netip.Prefix]*account)} }

// judge decides about a Hello from an address. right is whether its token is; delay
// is how long to hold back the answer to a wrong one.
func (g *guard) judge(now time.Time, from netip.Prefix, right bool) (v verdict, delay time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	known := g.suspects[from]
	if known == nil && right {
		if len(g.suspects) < suspectsMax || g.rest.fill(now) >= 1 {
			return admitted, 0
		}
		return unseen, 0
	}
	if known == nil {
		known = g.suspect(now, from)
	}
	switch {
	case known.fill(now) < 1:
		return unseen, 0
	case right:
		return admitted, 0
	}
	known.left--
	switch {
	case known.left < 1:
		return wrongToken, 4 * authDelayMin
	case known.left < wrongTokensBurst/2:
		return wrongToken, 2 * authDelayMin
	}
	return wrongToken, authDelayMin
}

// suspect opens an account.
func (g *guard) suspect(now time.Time, from netip.Prefix) *account {
	if len(g.suspects) >= suspectsMax {
		for address, a := range g.suspects {
			if a.fill(now) == wrongTokensBurst {
				delete(g.suspects, address) // forgiven
			}
		}
	}
	if len(g.suspects) >= suspectsMax {
		return &g.rest
	}
	a := &account{}
	g.suspects[from] = a
	return a
}

// fill adds what time has brought, and returns what is there.
func (a *account) fill(now time.Time) float64 {
	if a.at.IsZero() {
		a.left = wrongTokensBurst
	} else if d := now.Sub(a.at); d > 0 {
		a.left = min(wrongTokensBurst, a.left+d.Seconds()*wrongTokensPerSecond)
	}
	a.at = now
	return a.left
}

// origin is whose account a peer is charged to: an IPv4 address, or the /64 of an
// IPv6 address, which is what one customer has at least.
func origin(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip, ok := netip.AddrFromSlice(tcp.IP)
	if !ok {
		return netip.Prefix{}
	}
	ip = ip.Unmap()
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}
