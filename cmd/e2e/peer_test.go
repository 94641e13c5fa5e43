//go:build linux

package e2e

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// peer is a connection that may say anything.
type peer struct {
	t    *testing.T
	conn net.Conn
	enc  *wire.Encoder
	dec  *wire.Decoder
}

func (p *peer) close() { _ = p.conn.Close() }

func (p *peer) write(b []byte) {
	p.t.Helper()
	_ = p.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

func (p *peer) send(messages ...wire.Message) {
	p.t.Helper()
	var b []byte
	for _, m := range messages {
		b = p.enc.Append(b, m)
	}
	p.write(b)
}

// next returns the next message, io.EOF at the end.
func (p *peer) next() (wire.Message, error) {
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	body, err := wire.ReadFrame(p.conn, 1<<27, nil)
	if err != nil {
		return nil, err
	}
	return p.dec.Decode(body)
}

// refused reads on to the broker's Error, which has to be its last message.
func (p *peer) refused() *wire.Error {
	p.t.Helper()
	for {
		m, err := p.next()
		if err != nil {
			p.t.Fatalf("instead of an error: %v", err)
		}
		refusal, ok := m.(*wire.Error)
		if !ok {
			continue
		}
		e := &wire.Error{Code: refusal.Code, Text: refusal.Text}
		if m, err := p.next(); !errors.Is(err, io.EOF) {
			p.t.Fatalf("after %v: %v, %v; want the end", e, m, err)
		}
		return e
	}
}

func hello(node string) *wire.Hello {
	return &wire.Hello{VersionMin: wire.VersionMin, VersionMax: wire.VersionMax, Role: wire.RoleNode, Dataflow: flowName, Node: node, Client: "e2e/1"}
}

// join takes the connection through the handshake, as a node without shared
// memory.
func (p *peer) join(node string) {
	p.t.Helper()
	p.send(hello(node), &wire.Attach{})
	for {
		m, err := p.next()
		if err != nil {
			p.t.Fatalf("handshake: %v", err)
		}
		switch m := m.(type) {
		case *wire.Error:
			p.t.Fatalf("handshake: %v", m)
		case *wire.Ports:
			return
		}
	}
}

// control takes the connection through the handshake of a control connection. It
// returns the broker's refusal, if it refuses.
func (p *peer) control() *wire.Error {
	p.t.Helper()
	p.send(&wire.Hello{VersionMin: wire.VersionMin, VersionMax: wire.VersionMax, Role: wire.RoleControl, Client: "e2e/1"}, &wire.Attach{})
	for {
		m, err := p.next()
		if err != nil {
			p.t.Fatalf("handshake: %v", err)
		}
		switch m := m.(type) {
		case *wire.Ready:
			return nil
		case *wire.Error:
			return &wire.Error{Code: m.Code, Text: m.Text}
		}
	}
}
