package broker

import (
	"crypto/sha256"
	"crypto/subtle"
	"time"

	"github.com/brokerd/brokerd/actors"
	"github.com/brokerd/brokerd/wire"
)

// authFailureDelay is how long the answer to a wrong token is held back, so that
// guessing takes time. The connection counts against the limit meanwhile.
const authFailureDelay = time.Second

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
	if !s.srv.auth.accepts(hello.Auth) {
		s.authFailed.Store(time.Now().UnixNano())
		return errSessionEnds // the minder answers, later
	}
	s.announced, s.control = true, hello.Role == wire.RoleControl
	s.srv.router.Post(actors.ConnEvent{Type: actors.ConnOpened, ID: s.id, Conn: s})
	return nil
}

// refuseAuth is the delayed answer to a wrong token.
func (s *session) refuseAuth() {
	s.fail(wire.Errorf(wire.CodeAuth, "wrong or missing token"))
}

// authenticator compares tokens. Both sides are hashed first, so that the time
// it takes tells nothing about the length either.
type authenticator struct {
	wanted   [sha256.Size]byte
	required bool
}

func newAuthenticator(token []byte) authenticator {
	return authenticator{wanted: sha256.Sum256(token), required: len(token) > 0}
}

func (a *authenticator) accepts(token []byte) bool {
	if !a.required {
		return true
	}
	shown := sha256.Sum256(token)
	return subtle.ConstantTimeCompare(shown[:], a.wanted[:]) == 1
}
