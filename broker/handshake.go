package broker

import (
	"crypto/sha256"
	"crypto/subtle"
	"time"

	"github.com/brokerd/brokerd/actors"
	"github.com/brokerd/brokerd/wire"
)

// handshake checks a message that comes before Established. If it returns nil
// the message is for the router.
func (s *session) handshake(kind wire.Kind, body []byte) error {
	switch {
	case s.stage == stageHello && kind == wire.KindHello:
		if err := s.hello(body); err != nil {
			return err
		}
		s.stage = stageAttach
	case s.stage == stageHello && kind == 0:
		// Not even an array with a kind: the decoder says what is wrong with it.
		if _, err := s.dec.Decode(body); err != nil {
			return err
		}
		return wire.Errorf(wire.CodeProtocol, "the first message must be Hello")
	case s.stage == stageHello:
		return wire.Errorf(wire.CodeWrongState, "%s as the first message, it must be Hello", kind)
	case kind == wire.KindBye:
		s.finish(nil, nil)
		return errSessionEnds
	case s.stage == stageAttach && kind == wire.KindAttach:
		m, err := s.dec.Decode(body)
		if err != nil {
			return err
		}
		if attach, ok := m.(*wire.Attach); ok {
			s.adopting = attach.Adopting && !s.control
		}
		s.stage = stageReady
	case s.stage == stageAttach:
		return wire.Errorf(wire.CodeWrongState, "%s after Hello, it must be Attach", kind)
	default:
		return wire.Errorf(wire.CodeWrongState, "%s before Ready", kind)
	}
	return nil
}

// hello checks what the router does not care about: version and token. Then it
// tells the router of the connection.
func (s *session) hello(body []byte) error {
	m, err := s.dec.Decode(body)
	if err != nil {
		return err
	}
	hello, ok := m.(*wire.Hello)
	if !ok {
		return wire.Errorf(wire.CodeWrongState, "%s as the first message, it must be Hello", m.Kind())
	}
	// Which version it is, the router says in Welcome.
	if _, err := wire.Negotiate(hello); err != nil {
		return err
	}
	if err := s.authenticate(hello.Auth); err != nil {
		return err
	}
	s.announced, s.control = true, hello.Role == wire.RoleControl
	s.srv.router.Post(actors.ConnEvent{Type: actors.ConnOpened, ID: s.id, Conn: s})
	return nil
}

// authenticate checks the token of a Hello. The answer to a wrong one is the
// minder's, later.
func (s *session) authenticate(token []byte) error {
	auth := s.srv.auth.Load()
	if !auth.required {
		return nil
	}
	now := time.Now()
	v, delay := s.srv.guard.judge(now, s.from, auth.accepts(token))
	switch v {
	case admitted:
		return nil
	case unseen:
		s.srv.counters.unseen.Add(1)
		return wire.Errorf(wire.CodeTooManyConnections, "too many wrong tokens from %s lately; try again", s.from.Addr())
	}
	// At once: one who guesses does not wait for the answer.
	s.srv.counters.auth.Add(1)
	s.noteEnd(errWrongToken)
	s.penalised = true
	if n := s.srv.penalised.Add(1); n > int64(max(1, s.srv.connectionsMax/penaltyShare)) {
		return errWrongToken // its place is needed for others
	}
	s.refusal.Store(now.Add(delay).UnixNano())
	return errSessionEnds
}

var errWrongToken = wire.Errorf(wire.CodeAuth, "wrong or missing token")

// refuseAuth is the delayed answer to a wrong token.
func (s *session) refuseAuth() { s.fail(errWrongToken) }

// authenticator compares tokens. Both sides are hashed first, so that the time
// it takes tells nothing about the length either.
type authenticator struct {
	wanted   [sha256.Size]byte
	required bool
}

func newAuthenticator(token []byte) *authenticator {
	return &authenticator{wanted: sha256.Sum256(token), required: len(token) > 0}
}

func (a *authenticator) accepts(token []byte) bool {
	shown := sha256.Sum256(token)
	return subtle.ConstantTimeCompare(shown[:], a.wanted[:]) == 1
}
