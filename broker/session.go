package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"

	"github.com/brokerd/brokerd/actors"
	"github.com/brokerd/brokerd/wire"
)

// ErrPeerGone is why a connection ended that the peer closed, or lost, without
// saying goodbye.
var ErrPeerGone = errors.New("peer closed the connection without goodbye")

// longBodyBytes is the length from which a body is not left to the session's own
// decoder.
const longBodyBytes = 256 << 10

// stage is how far the handshake has come.
type stage uint8

const (
	stageHello  stage = iota // nothing but Hello may come
	stageAttach              // the router knows of it; nothing but Attach may come
	stageReady               // the router decides; then Established
)

// session is one connection: the receiving half here, the sending half in out.
// To the router it is an actors.Conn.
type session struct {
	// Immutable.
	srv    *server
	id     actors.ConnID
	remote string
	from   netip.Prefix // whom its wrong tokens are charged to
	opened time.Time
	out    outbox
	tunnel *tunnel // between its socket and the peer's; nil: they are the same

	// Owned by the connection's loop.
	conn      gnet.Conn
	in        assembler
	dec       *wire.Decoder
	enc       *wire.Encoder
	batch     *actors.Batch
	pongs     []byte // answers to the Pings of this read; one write for all
	stage     stage
	announced bool // the router has had ConnOpened
	control   bool // the peer asks questions only: Hello said so
	adopting  bool // Attach said that an Adopt is the next thing to come
	goodbye   bool // the peer has sent Bye
	penalised bool // it has shown a wrong token

	// Shared.
	attached    atomic.Bool // a loop has taken it
	established atomic.Bool
	local       atomic.Bool
	heard       atomic.Int64 // Unix nanoseconds of the last sign of life
	unanswered  atomic.Int32 // pings since then
	inBytes     atomic.Int64 // that are kept of a frame that is not whole; written by the loop

	// Owned by the minder.
	pinged       time.Time
	unresponsive bool

	// ended is whether the log has a line about why the broker ends the connection.
	// Session and router may find a reason at the same time; one is enough.
	ended atomic.Bool

	// refusal is when to answer a wrong token that was shown, in Unix nanoseconds; 0:
	// there was none. Written by the loop, read by the minder.
	refusal atomic.Int64

	// older and newer are its neighbours among the strangers. Guarded by srv.mu.
	older, newer *session
	stranger     bool // it is one of them
	pushed       bool // and has been pushed out
}

func newSession(srv *server, id actors.ConnID, remote net.Addr) *session {
	s := &session{
		srv: srv, id: id, remote: remote.String(), from: origin(remote), opened: time.Now(),
		dec: wire.NewDecoder(), enc: wire.NewEncoder(),
	}
	s.heard.Store(s.opened.UnixNano())
	s.in = assembler{bytesMax: s.frameBytesMax, each: s.frame}
	s.out = outbox{id: uint64(id), fd: -1, bytesMax: srv.cfg.OutboundBytesMax, flusher: srv.flusher, buffers: srv.buffers}
	return s
}

// fields are what every log line about the session has, and more.
func (s *session) fields(more ...zap.Field) []zap.Field {
	return append([]zap.Field{zap.Uint64("session", uint64(s.id)), zap.String("remote_addr", s.remote)}, more...)
}

// Send implements actors.Conn.
func (s *session) Send(b []byte) {
	if e := lastWords(b); e != nil {
		// The router refuses the peer. Saying so and ending is one step, so that
		// nothing comes behind it: the session may be refusing it at this moment, too.
		if s.finish(b, nil) && e.Code != wire.CodeShuttingDown {
			s.noteEnd(e)
		}
		return
	}
	if waiting, ok := s.out.send(b); !ok {
		s.noteSlow(waiting, 0)
	}
}

// lastWords returns the Error message that b ends with, nil if it does not. It
// looks at lengths and kinds only, so that it costs next to nothing for all the
// frames that are something else.
func lastWords(b []byte) *wire.Error {
	var body []byte
	for len(b) > wire.FrameHeaderBytes {
		n := wire.FrameHeaderBytes + int(binary.LittleEndian.Uint64(b))
		if n > len(b) {
			return nil
		}
		body, b = b[wire.FrameHeaderBytes:n], b[n:]
	}
	if kindOf(body) != wire.KindError {
		return nil
	}
	m, err := wire.NewDecoder().Decode(body)
	if err != nil {
		return nil
	}
	e, _ := m.(*wire.Error)
	return e
}

// noteEnd logs why the broker ends the connection, in the words that the peer is
// told: once.
func (s *session) noteEnd(reason *wire.Error) {
	if s.ended.Swap(true) {
		return
	}
	if suppressed, ok := s.srv.failures.allow(time.Now()); ok {
		s.srv.reports.write(zap.WarnLevel, "connection ended by the broker", s.fields(
			zap.String("code", reason.Code.String()), zap.String("reason", reason.Text),
			zap.Uint64("lines_suppressed", suppressed))...)
	}
}

// noteSlow counts and logs that the connection was cut off because its peer does
// not read. waited is 0 if it was for the number of bytes.
func (s *session) noteSlow(waiting uint64, waited time.Duration) {
	s.ended.Store(true)
	s.srv.counters.slow.Add(1)
	s.srv.reports.write(zap.WarnLevel, "connection cut off: it does not read what it is sent", s.fields(
		zap.String("code", wire.CodeSlowConnection.String()),
		zap.Uint64("waiting_bytes", waiting), zap.Uint64("limit_bytes", s.srv.cfg.OutboundBytesMax),
		zap.Duration("waited_s", waited))...)
}

// Established implements actors.Conn.
func (s *session) Established(local bool) {
	s.local.Store(local)
	s.established.Store(true)
	s.srv.acquainted(s)
}

// Close implements actors.Conn.
func (s *session) Close() { s.finish(nil, nil) }

// RemoteAddr implements actors.Conn.
func (s *session) RemoteAddr() string { return s.remote }

// finish ends the connection after a last frame. false: it was ending already.
func (s *session) finish(last []byte, reason error) bool {
	return s.out.finish(last, reason, time.Now().Add(s.srv.cfg.LingerTimeout))
}

// fail ends the connection because of what the peer did: it is told, the
// operators are told, once. Safe on any goroutine.
func (s *session) fail(reason *wire.Error) {
	if !s.finish(wire.NewEncoder().Append(nil, reason), reason) {
		return
	}
	s.srv.counters.note(reason.Code)
	s.noteEnd(reason)
}

// frameBytesMax is the longest body that the peer may send now. Bodies of requests
// are read by the router itself, while everybody waits: so theirs are short. What
// a node brings from another broker may be long, and comes in one piece.
func (s *session) frameBytesMax() uint64 {
	switch {
	case !s.established.Load():
		return wire.HandshakeFrameBytesMax
	case s.control:
		return min(s.srv.cfg.FrameBytesMax, wire.ControlFrameBytesMax)
	case s.adopting:
		return max(s.srv.cfg.FrameBytesMax, wire.AdoptFrameBytesMax)
	}
	return s.srv.cfg.FrameBytesMax
}

// traffic is the loop's call: bytes have arrived. One call sees at most
// Config.ReadBytes new bytes, and everything whole in them is handled, so no
// connection can keep the loop from the others and nothing is left behind.
func (s *session) traffic() {
	data, _ := s.conn.Next(-1) // all there is; fails only for more than there is
	s.alive()
	if s.out.ending() || s.refusal.Load() != 0 {
		return // what a refused peer still says is read only to be thrown away
	}
	err := s.in.feed(data)
	s.chargeInput()
	s.post()
	if len(s.pongs) > 0 {
		s.Send(s.pongs)
		s.pongs = s.pongs[:0]
	}
	// The router may have been busy: the peer was not silent meanwhile.
	s.alive()
	if err != nil && !errors.Is(err, errSessionEnds) {
		s.fail(failure(err))
	}
}

// failure makes the Error message for what went wrong with a frame. Its text is
// the decoder's, which names message, field and rule.
func failure(err error) *wire.Error {
	var e *wire.Error
	if errors.As(err, &e) {
		return e
	}
	var p *wire.ProtocolError
	if errors.As(err, &p) {
		return &wire.Error{Code: p.WireCode(), Text: p.Error()}
	}
	return &wire.Error{Code: wire.CodeProtocol, Text: err.Error()}
}

func (s *session) alive() {
	s.heard.Store(time.Now().UnixNano())
	s.unanswered.Store(0)
}

// errSessionEnds makes the assembler stop; everything has been said.
var errSessionEnds = errors.New("session ends")

// frame handles one frame body. An error is for the peer.
func (s *session) frame(body []byte, owned bool) error {
	kind := kindOf(body)
	if s.stage != stageHello && (kind == wire.KindPing || kind == wire.KindPong) {
		return s.heartbeat(body)
	}
	if kind == wire.KindError {
		return s.peerError(body)
	}
	if !s.established.Load() {
		if err := s.handshake(kind, body); err != nil {
			return err
		}
	} else if kind == wire.KindHello || kind == wire.KindAttach {
		return wire.Errorf(wire.CodeWrongState, "%s after the handshake", kind)
	} else {
		s.adopting = false
	}
	if kind == wire.KindBye {
		s.goodbye = true
	}
	if s.batch == nil {
		s.batch = actors.NewBatch()
	}
	if !owned {
		return s.batch.Add(body, s.dec)
	}
	decoder := s.dec
	if len(body) > longBodyBytes {
		decoder = wire.NewDecoder() // ours would hold on to the body until the next one
	}
	m, err := decoder.Decode(body)
	if err == nil {
		s.batch.AddMessage(m, true)
	} else if errors.Is(err, wire.ErrUnknownOptional) {
		err = nil
	}
	return err
}

// post hands everything of this read to the router in one event. It blocks
// while the router's mailbox is full; the loop then reads from nobody, and TCP
// slows the senders down.
func (s *session) post() {
	batch := s.batch
	s.batch = nil
	switch {
	case batch == nil:
	case batch.Len() == 0:
		batch.Free()
	case !s.srv.router.Post(actors.ConnEvent{Type: actors.ConnMessages, ID: s.id, Batch: batch}):
		batch.Free()
	}
}

func (s *session) heartbeat(body []byte) error {
	m, err := s.dec.Decode(body)
	if err != nil {
		return err
	}
	if ping, ok := m.(*wire.Ping); ok {
		s.pongs = s.enc.Append(s.pongs, &wire.Pong{Nonce: ping.Nonce})
	}
	return nil
}

// peerError takes the peer's last words. The router need not know: it hears of
// them as the reason of ConnClosed.
func (s *session) peerError(body []byte) error {
	m, err := s.dec.Decode(body)
	if err != nil {
		return err
	}
	if e, ok := m.(*wire.Error); ok {
		s.finish(nil, fmt.Errorf("the peer gave up: %v", e)) // its error is not ours: not wrapped
	}
	return errSessionEnds
}

// closed is the loop's call: the connection ends, its descriptor is about to be
// closed. err is gnet's reason.
func (s *session) closed(err error) {
	reason, ours := s.out.detach()
	s.srv.remove(s)
	s.in.partial = nil
	s.chargeInput()
	if s.tunnel != nil {
		s.tunnel.end(s.srv.cfg.LingerTimeout)
	}
	if s.penalised {
		s.srv.penalised.Add(-1)
	}
	switch {
	case ours || s.goodbye:
	case s.srv.stopping.Load():
		reason = wire.ErrShuttingDown
	case err == nil || errors.Is(err, io.EOF):
		reason = ErrPeerGone
	default:
		reason = fmt.Errorf("%w: %w", ErrPeerGone, err)
	}
	if !s.announced {
		if !ours {
			s.srv.reports.write(zap.DebugLevel, "connection ended during the handshake", s.fields(zap.Error(reason))...)
		}
		return
	}
	s.srv.router.Post(actors.ConnEvent{Type: actors.ConnClosed, ID: s.id, Err: reason})
}
