//go:build linux

package e2e

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// fuzzConn is a connection of the besieger in some state.
type fuzzConn struct {
	conn  *net.TCPConn
	kind  forgerKind
	probe *shmpool.Probe
	own   []wire.RegionID // that the broker has told it of
	lanes []wire.RegionID
	buf   []byte
	dec   *wire.Decoder
	nonce uint64
	sent  int
}

// fuzz sends frames, each with a Ping behind it, and waits until the broker has
// answered one of the two: so each of them was read and judged.
func (b *besieger) fuzz(worker int) {
	enc := wire.NewEncoder()
	var c *fuzzConn
	var frame []byte
	for b.ctx.Err() == nil && b.left.Add(-1) >= 0 {
		for c == nil {
			kind := []forgerKind{stranger, greeted, afar, afar, nearby, able, able, adopting, operator}[rand.IntN(9)]
			if c = b.fuzzDial(worker, kind); c == nil && !b.pause(5*time.Millisecond) {
				return
			}
		}
		lies := false
		frame, lies = b.frame(c, enc, frame[:0])
		alive, err := c.try(frame, lies, enc)
		if err != nil && b.ctx.Err() == nil {
			b.note(func(d *besieged) {
				d.Fault = fmt.Sprintf("as %d, after %x: %v", c.kind, frame[:min(len(frame), 200)], err)
			})
			b.halt()
		}
		b.note(func(d *besieged) {
			d.Frames++
			if alive {
				d.Survived++
			}
		})
		if c.sent++; !alive || c.sent > 300 {
			c.close()
			c = nil
		}
	}
	if c != nil {
		c.close()
	}
}

func (c *fuzzConn) close() {
	c.conn.Close()
	if c.probe != nil {
		_ = c.probe.Close()
	}
}

// fuzzDial makes a connection of a kind; nil: it was refused, try again.
func (b *besieger) fuzzDial(worker int, kind forgerKind) *fuzzConn {
	conn := b.dial()
	if conn == nil {
		return nil
	}
	b.note(func(d *besieged) { d.Connections++ })
	c := &fuzzConn{conn: conn, kind: kind, dec: wire.NewDecoder()}
	if err := c.handshake(fmt.Sprintf("guest%d", worker)); err != nil {
		c.close()
		var e *wire.Error
		switch {
		case errors.As(err, &e) && e.Code == wire.CodeTooManyConnections:
			b.note(func(d *besieged) { d.Refused++ })
		case errors.As(err, &e):
			b.noteError(e.Code)
		}
		return nil
	}
	return c
}

func (c *fuzzConn) handshake(node string) error {
	enc := wire.NewEncoder()
	switch c.kind {
	case stranger:
		return nil
	case operator:
		h := hello(node)
		h.Role, h.Dataflow, h.Node = wire.RoleControl, "", ""
		if _, err := c.conn.Write(enc.Append(enc.Append(nil, h), &wire.Attach{})); err != nil {
			return err
		}
		return c.await(wire.KindReady)
	}
	h := hello(node)
	h.Flags = wire.FlagTakeover
	if c.kind >= able {
		h.Features = ^wire.Features(0)
	}
	if _, err := c.conn.Write(enc.Append(nil, h)); err != nil {
		return err
	}
	m, err := c.read()
	if err != nil {
		return err
	}
	welcome, ok := m.(*wire.Welcome)
	if !ok {
		return fmt.Errorf("%v instead of welcome", m.Kind())
	}
	if c.kind == greeted {
		return nil
	}
	attach := &wire.Attach{Adopting: c.kind == adopting}
	if c.kind >= nearby {
		if c.probe, attach.Nonce, err = shmpool.OpenProbe(welcome.ProbeName, welcome.ProbeOffset, welcome.ProbeLength); err != nil {
			return err
		}
		if err := c.probe.Lock(welcome.Session); err != nil {
			return err
		}
	}
	if _, err := c.conn.Write(enc.Append(nil, attach)); err != nil {
		return err
	}
	return c.await(wire.KindPorts)
}

// read returns the next message; errors of the broker are errors.
func (c *fuzzConn) read() (wire.Message, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	body, err := wire.ReadFrame(c.conn, 1<<27, c.buf)
	if err != nil {
		return nil, err
	}
	c.buf = body
	m, err := c.dec.Decode(body)
	if err != nil {
		return nil, err
	}
	switch m := m.(type) {
	case *wire.Error:
		return nil, &wire.Error{Code: m.Code, Text: m.Text}
	case *wire.RegionGrant:
		c.own = append(c.own, m.Region)
	case *wire.RegionOpen:
		c.own = append(c.own, m.Region)
	case *wire.LaneGrant:
		c.lanes = append(c.lanes, m.Lane)
	}
	return m, nil
}

func (c *fuzzConn) await(kind wire.Kind) error {
	for {
		m, err := c.read()
		if err != nil {
			return err
		}
		if m.Kind() == kind {
			return nil
		}
	}
}

// try sends a frame and waits for what the broker makes of it. One that lies about
// its length swallows what is behind it: there, the broker's end is the answer to
// ours. err is what must not be: no answer.
func (c *fuzzConn) try(frame []byte, lies bool, enc *wire.Encoder) (alive bool, err error) {
	c.nonce++
	if !lies {
		frame = enc.Append(frame, &wire.Ping{Nonce: c.nonce | 1<<63})
	}
	if _, err := c.conn.Write(frame); err != nil {
		return false, nil // it has ended the connection before
	}
	if lies {
		if err := c.conn.CloseWrite(); err != nil {
			return false, nil
		}
	}
	for {
		m, err := c.read()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return false, err
			}
			return false, nil
		}
		if pong, ok := m.(*wire.Pong); ok && pong.Nonce == c.nonce|1<<63 {
			return true, nil
		}
	}
}

// frame makes the next frame.
func (b *besieger) frame(c *fuzzConn, enc *wire.Encoder, dst []byte) (frame []byte, lies bool) {
	switch n := rand.IntN(100); {
	case n < 45:
		return append(dst, raw(mutate(slices.Clone(b.seeds[rand.IntN(len(b.seeds))]), b.seeds)...)...), false
	case n < 85:
		return enc.Append(dst, b.forged(c)), false
	case n < 90: // deep nesting, of arrays and maps
		deep := []byte{0x92, byte(1 + rand.IntN(127))}
		for range rand.IntN(30_000) {
			deep = append(deep, []byte{0x91, 0x81, 0xdd, 0xdf, 0x9f}[rand.IntN(5)])
		}
		return append(dst, raw(deep...)...), false
	case n < 95: // a length that is not true
		body := b.seeds[rand.IntN(len(b.seeds))]
		return append(binary.LittleEndian.AppendUint64(dst, any64()), body...), true
	}
	// Noise.
	noise := make([]byte, 1+rand.IntN(200))
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	return append(dst, raw(noise...)...), false
}

// hostileBytes begin what may be long, deep or wrong in msgpack.
var hostileBytes = []byte{0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc4, 0xc6, 0xc7, 0xc9, 0xca, 0xcf, 0xd3, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xff}

// mutate changes a body in a few places.
func mutate(body []byte, seeds [][]byte) []byte {
	for range 1 + rand.IntN(4) {
		if len(body) == 0 {
			return []byte{0x90}
		}
		at := rand.IntN(len(body))
		switch rand.IntN(8) {
		case 0:
			body[at] ^= 1 << rand.IntN(8)
		case 1:
			body[at] = hostileBytes[rand.IntN(len(hostileBytes))]
		case 2:
			body = body[:at]
		case 3:
			body = slices.Insert(body, at, hostileBytes[rand.IntN(len(hostileBytes))])
		case 4:
			body = slices.Delete(body, at, min(len(body), at+1+rand.IntN(4)))
		case 5:
			other := seeds[rand.IntN(len(seeds))]
			body = append(body[:at], other[rand.IntN(len(other)):]...)
		case 6:
			if len(body) > 1 {
				body[1] = byte(rand.IntN(70)) // another kind
			}
		case 7:
			body = slices.Insert(body, at, 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
		}
		if len(body) > 60_000 {
			body = body[:60_000]
		}
	}
	if len(body) == 0 {
		return []byte{0x90}
	}
	return body
}

// region is one of its own, one of somebody else's, or none.
func (b *besieger) region(c *fuzzConn) wire.RegionID {
	all := append(slices.Clone(c.own), c.lanes...)
	switch n := rand.IntN(3); {
	case n == 0 && len(all) > 0:
		return all[rand.IntN(len(all))]
	case n == 1 && len(b.Objects) > 0:
		return b.Objects[rand.IntN(len(b.Objects))] + wire.RegionID(rand.IntN(3))
	}
	return wire.RegionID(any64())
}

// forged is a message that is well-formed, and names what it likes.
func (b *besieger) forged(c *fuzzConn) wire.Message {
	u32 := func() uint32 { return uint32(any64()) }
	small := func() uint64 { return uint64(rand.IntN(4)) }
	token := func() wire.Token { return wire.Token(small()<<32 | uint64(rand.IntN(64))) }
	reason := wire.DropReason(rand.IntN(12))
	switch rand.IntN(20) {
	case 0:
		payload := make([]byte, rand.IntN(5000))
		return &wire.Publish{Seq: wire.Seq(any64()), TimeNS: int64(any64()), Length: uint64(len(payload)), Payload: payload}
	case 1:
		return &wire.Publish{Output: wire.OutputIndex(small()), Epoch: u32(), Seq: 1, Token: wire.Token(any64()), Region: b.region(c), Offset: any64() >> 1, Length: any64() >> 2}
	case 2:
		return &wire.Publish{Seq: 1, Token: 1 + token(), Region: b.region(c), Offset: shmpool.HeaderBytes * (1 + small()), Length: any64() & 0xffff, Lanes: any64() >> 1}
	case 3:
		return &wire.Next{Limit: any64(), Consumed: small() * small(), Done: []wire.Token{token(), token()}}
	case 4:
		return &wire.Next{Limit: 1 + small()}
	case 5:
		tokens := make([]wire.Token, rand.IntN(300))
		for i := range tokens {
			tokens[i] = token()
		}
		return &wire.Done{Tokens: tokens}
	case 6:
		return &wire.Reject{Token: token(), Reason: reason}
	case 7:
		return &wire.RegionRequest{Request: u32(), SlotBytes: 1 << rand.IntN(20), Slots: uint32(rand.IntN(8))}
	case 8:
		return &wire.RegionRequest{Request: u32(), SlotBytes: any64(), Slots: u32()}
	case 9:
		return &wire.RegionReturn{Region: b.region(c)}
	case 10:
		return &wire.SendFailed{Output: wire.OutputIndex(small()), Reason: reason, Count: small(), Bytes: any64(), SeqFirst: wire.Seq(small()), SeqLast: wire.Seq(small() + 2)}
	case 11:
		return &wire.OutputClose{Output: wire.OutputIndex(small())}
	case 12:
		return &wire.LaneReady{Lane: b.region(c) | 1, Text: []string{"", "no"}[rand.IntN(2)]}
	case 13:
		return &wire.LaneStart{Lane: b.region(c) | 1}
	case 14:
		return &wire.LaneDone{Lane: b.region(c) | 1}
	case 15:
		return &wire.LaneFault{Lane: b.region(c) | 1, Reason: max(1, reason), Count: small(), Bytes: any64(), SeqFirst: wire.Seq(small()), SeqLast: wire.Seq(small() + 3), Text: "forged"}
	case 16:
		return &wire.LaneHeld{Lane: b.region(c) | 1, Region: b.region(c) | 1, Count: 1 + u32()>>1, HeldMS: any64()}
	case 17:
		adopt := &wire.Adopt{Instance: "00000000", BellRegion: b.region(c), BellName: "e2e_00000000-00000000-1-0011223344556677"}
		for range rand.IntN(8) {
			adopt.Regions = append(adopt.Regions, wire.AdoptRegion{Region: b.region(c) | 1, Name: adopt.BellName, SlotBytes: 4096, Slots: 1 + u32()&7})
			adopt.Lanes = append(adopt.Lanes, wire.AdoptLane{Lane: b.region(c) | 1, Role: wire.LaneRole(rand.IntN(2)), Port: "frames", Peer: "source/frames",
				Bit: uint8(rand.IntN(63)), QueueSize: 8, Name: adopt.BellName, SlotBytes: 2048, PeerBellRegion: b.region(c) | 1})
		}
		return adopt
	case 18:
		switch rand.IntN(4) {
		case 0:
			return &wire.Pong{Nonce: any64()}
		case 1:
			return &wire.Kept{Messages: any64(), Bytes: any64(), Stuck: small(), Text: "forged"}
		case 2:
			return &wire.Shortage{Output: wire.OutputIndex(small()), Bytes: any64()}
		}
		return &wire.Evacuated{Input: wire.InputIndex(small()), Tokens: []wire.Token{token(), token()}, Region: b.region(c), HeldMS: any64(), Count: 2}
	}
	return &wire.Request{ID: u32(), Verb: []string{wire.VerbStatus, wire.VerbDrops, wire.VerbLoad, wire.VerbUnload, "x"}[rand.IntN(5)],
		Body: []byte([]string{"", "{}", "[[[[", `{"name":"none"}`, `{"yaml":"nodes: [{id: a, inputs: {x: b/c}}]"}`}[rand.IntN(5)])}
}

// ask asks for much, and reads nothing: status, drops as they come, dataflows with
// a thousand nodes.
func (b *besieger) ask() {
	var nodes strings.Builder
	for i := range 900 {
		fmt.Fprintf(&nodes, "  - {id: n%d, path: dynamic, outputs: [a, b], inputs: {x: {source: n%d/a, queue_size: 65536}}}\n", i, (i+1)%900)
	}
	enc := wire.NewEncoder()
	for b.ctx.Err() == nil {
		c := b.fuzzDial(0, operator)
		if c == nil {
			if !b.pause(20 * time.Millisecond) {
				return
			}
			continue
		}
		body, _ := json.Marshal(wire.LoadRequest{Name: fmt.Sprintf("siege%d", rand.IntN(1000)), YAML: "nodes:\n" + nodes.String(), Owner: true})
		var asked []byte
		asked = enc.Append(asked, &wire.Request{ID: 1, Verb: wire.VerbLoad, Body: body})
		asked = enc.Append(asked, &wire.Request{ID: 2, Verb: wire.VerbDrops, Body: []byte(`{"follow":true}`)})
		for id := range uint32(200) {
			asked = enc.Append(asked, &wire.Request{ID: 10 + id, Verb: wire.VerbStatus})
		}
		_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.conn.Write(asked)
		b.note(func(d *besieged) { d.Asked += 202 })
		b.pause(200 * time.Millisecond)
		c.close()
	}
}

// swell sends nearly all of a long frame, waits, and begins again.
func (b *besieger) swell() {
	junk := make([]byte, 64<<10)
	for b.ctx.Err() == nil {
		c := b.fuzzDial(0, operator)
		if c == nil {
			if !b.pause(20 * time.Millisecond) {
				return
			}
			continue
		}
		length := min(uint64(b.SwellMB)<<20, wire.ControlFrameBytesMax)
		_, err := c.conn.Write(binary.LittleEndian.AppendUint64(nil, length))
		for sent := uint64(0); err == nil && sent+uint64(len(junk)) < length && b.ctx.Err() == nil; sent += uint64(len(junk)) {
			_ = c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
			_, err = c.conn.Write(junk)
		}
		b.note(func(d *besieged) { d.Swells++ })
		_ = c.conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.Copy(io.Discard, c.conn)
		c.close()
		b.pause(2 * time.Second)
	}
}
