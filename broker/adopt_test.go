package broker

import (
	"fmt"
	"testing"

	"github.com/brokerd/brokerd/wire"
)

// longAdopt is longer than the frames that the brokers here take otherwise.
func longAdopt() *wire.Adopt {
	m := &wire.Adopt{Instance: "0123abcd"}
	for i := range wire.AdoptRegionsMax {
		m.Regions = append(m.Regions, wire.AdoptRegion{
			Region: wire.RegionID(i + 1), Name: fmt.Sprintf("%s-0123abcd-%x-0123456789abcdef", testPrefix, i+1), SlotBytes: 4096, Slots: 1,
		})
	}
	return m
}

// A node that has much to bring can bring it, where short frames are the rule; and
// nothing else can be that long.
func TestAdoptMayBeLong(t *testing.T) {
	tb := startBroker(t, func(c *Config) { c.FrameBytesMax, c.InlineBytesMax = 80<<10, 1000 })
	if n := len(frameBytes(longAdopt())); n < 100<<10 || n > wire.AdoptFrameBytesMax {
		t.Fatalf("it has %d bytes", n)
	}
	attach := func(adopting bool) *peer {
		p := tb.dial()
		h := hello("sink")
		h.Features = wire.FeatureLanes
		p.send(h)
		until[*wire.Welcome](p)
		p.send(&wire.Attach{Adopting: adopting})
		until[*wire.Ports](p)
		return p
	}
	p := attach(true)
	p.send(&wire.Ping{Nonce: 7}) // not the message that was announced
	p.send(longAdopt())
	if m := until[*wire.Adopted](p); len(m.Regions) != 0 || m.Bell { // it is remote
		t.Errorf("taken over: %v", m)
	}
	p.send(longAdopt())
	if e := until[*wire.Error](p); e.Code != wire.CodeFrameTooLong {
		t.Errorf("a second time: %v", e)
	}
	eventually(t, "the node's place is free", func() bool { return !tb.nodeConnected("sink") })
	p = attach(false)
	p.send(longAdopt())
	if e := until[*wire.Error](p); e.Code != wire.CodeFrameTooLong {
		t.Errorf("that nobody announced: %v", e)
	}
}
