package wire

import (
	"errors"
	"fmt"
	"strconv"
)

// Code is the number of an error on the wire. Peers accept numbers they do not
// know, so that codes can be added.
type Code uint16

// The error codes.
const (
	CodeOK                 Code = 0 // Reply only
	CodeProtocol           Code = 1
	CodeVersion            Code = 2
	CodeAuth               Code = 3
	CodeUnknownDataflow    Code = 4
	CodeUnknownNode        Code = 5
	CodeDuplicateNode      Code = 6
	CodeWrongState         Code = 7
	CodeFrameTooLong       Code = 8
	CodeNoMemory           Code = 9
	CodeQuota              Code = 10
	CodeTooLarge           Code = 11
	CodeNotYours           Code = 12
	CodeShuttingDown       Code = 13
	CodeTooManyConnections Code = 14
	CodeSlowConnection     Code = 15
	CodeHandshakeTimeout   Code = 16
	CodeBadDataflow        Code = 17
	CodeNotFound           Code = 18
	CodeTakenOver          Code = 19
	CodeInternal           Code = 20
	CodeTimeout            Code = 21
)

// codeError is a sentinel: the meaning of a code without the peer's words.
type codeError struct {
	code Code
	name string
	text string
}

func (e *codeError) Error() string  { return e.text }
func (e *codeError) WireCode() Code { return e.code }

// Sentinels, one a code. Errors of this package and of the libraries above it
// wrap them; compare with errors.Is.
var (
	ErrProtocol           error = &codeError{CodeProtocol, "protocol", "protocol error"}
	ErrVersion            error = &codeError{CodeVersion, "version", "no common protocol version"}
	ErrAuth               error = &codeError{CodeAuth, "auth", "authentication failed"}
	ErrUnknownDataflow    error = &codeError{CodeUnknownDataflow, "unknown_dataflow", "unknown dataflow"}
	ErrUnknownNode        error = &codeError{CodeUnknownNode, "unknown_node", "unknown node"}
	ErrDuplicateNode      error = &codeError{CodeDuplicateNode, "duplicate_node", "node id is already connected"}
	ErrWrongState         error = &codeError{CodeWrongState, "wrong_state", "message not allowed in this state"}
	ErrFrameTooLong       error = &codeError{CodeFrameTooLong, "frame_too_long", "frame too long"}
	ErrNoMemory           error = &codeError{CodeNoMemory, "no_memory", "no shared memory"}
	ErrQuota              error = &codeError{CodeQuota, "quota", "over the node's quota"}
	ErrTooLarge           error = &codeError{CodeTooLarge, "too_large", "too large"}
	ErrNotYours           error = &codeError{CodeNotYours, "not_yours", "belongs to another node"}
	ErrShuttingDown       error = &codeError{CodeShuttingDown, "shutting_down", "broker is shutting down"}
	ErrTooManyConnections error = &codeError{CodeTooManyConnections, "too_many_connections", "too many connections"}
	ErrSlowConnection     error = &codeError{CodeSlowConnection, "slow_connection", "connection reads too slowly"}
	ErrHandshakeTimeout   error = &codeError{CodeHandshakeTimeout, "handshake_timeout", "handshake took too long"}
	ErrBadDataflow        error = &codeError{CodeBadDataflow, "bad_dataflow", "bad dataflow"}
	ErrNotFound           error = &codeError{CodeNotFound, "not_found", "not found"}
	ErrTakenOver          error = &codeError{CodeTakenOver, "taken_over", "another connection took over this node id"}
	ErrInternal           error = &codeError{CodeInternal, "internal", "internal error"}
	ErrTimeout            error = &codeError{CodeTimeout, "timeout", "timed out"}
)

// Errors that have no number, because they are never sent as such.
var (
	// ErrUnknownOptional is what Decode returns for a well-formed message of an
	// optional kind that this version does not know. Callers ignore it.
	ErrUnknownOptional = errors.New("unknown optional message")
	// ErrFrameEmpty is wrapped by the ProtocolError about a frame of length 0.
	ErrFrameEmpty = errors.New("empty frame")
	// ErrMetadata is wrapped by the errors of ValidateMetadata, and by the
	// ProtocolError about a metadata field.
	ErrMetadata = errors.New("bad metadata")
)

var codeSentinels = [...]error{
	CodeProtocol: ErrProtocol, CodeVersion: ErrVersion, CodeAuth: ErrAuth,
	CodeUnknownDataflow: ErrUnknownDataflow, CodeUnknownNode: ErrUnknownNode,
	CodeDuplicateNode: ErrDuplicateNode, CodeWrongState: ErrWrongState,
	CodeFrameTooLong: ErrFrameTooLong, CodeNoMemory: ErrNoMemory, CodeQuota: ErrQuota,
	CodeTooLarge: ErrTooLarge, CodeNotYours: ErrNotYours, CodeShuttingDown: ErrShuttingDown,
	CodeTooManyConnections: ErrTooManyConnections, CodeSlowConnection: ErrSlowConnection,
	CodeHandshakeTimeout: ErrHandshakeTimeout, CodeBadDataflow: ErrBadDataflow,
	CodeNotFound: ErrNotFound, CodeTakenOver: ErrTakenOver, CodeInternal: ErrInternal,
	CodeTimeout: ErrTimeout,
}

// String returns the code's name as logs spell it.
func (c Code) String() string {
	if c == CodeOK {
		return "ok"
	}
	if int(c) < len(codeSentinels) {
		return codeSentinels[c].(*codeError).name
	}
	return "code(" + strconv.Itoa(int(c)) + ")"
}

// Err returns the code's sentinel: nil for CodeOK, and for a number that this
// version does not know an error that has only the number.
func (c Code) Err() error {
	if c == CodeOK {
		return nil
	}
	if int(c) < len(codeSentinels) {
		return codeSentinels[c]
	}
	return &codeError{c, c.String(), "error " + c.String()}
}

// CodeOf returns the number to send for err: that of the outermost error in its
// tree which has one, CodeOK for nil, CodeInternal for errors without a number.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	var coded interface{ WireCode() Code }
	if errors.As(err, &coded) {
		return coded.WireCode()
	}
	return CodeInternal
}

// Errorf makes the Error message to send before closing a connection.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// ErrorFor makes the Error message that tells a peer about err.
func ErrorFor(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeOf(err), Text: err.Error()}
}

// Error makes the message an error: the text of the peer, after the meaning of
// its code.
func (m *Error) Error() string { return codeText(m.Code, m.Text) }

// Unwrap returns the sentinel of the code.
func (m *Error) Unwrap() error { return m.Code.Err() }

// WireCode returns the number of the error.
func (m *Error) WireCode() Code { return m.Code }

// Err returns the refusal as an error, nil if the request succeeded.
func (m *Reply) Err() error {
	if m.Code == CodeOK {
		return nil
	}
	return &Error{Code: m.Code, Text: m.Text}
}

// Err returns the refusal as an error.
func (m *RegionDenied) Err() error { return &Error{Code: m.Code, Text: m.Text} }

func codeText(code Code, text string) string {
	err := code.Err()
	switch {
	case err == nil:
		return text
	case text == "":
		return err.Error()
	}
	return err.Error() + ": " + text
}

// ProtocolError says which rule of the wire format a peer has broken, and where.
// errors.Is(err, ErrProtocol) holds for each of them.
type ProtocolError struct {
	Kind   Kind   // the message; zero when its kind was not yet known
	Field  string // as docs/protocol.md spells it, e.g. "items[3].token"; "frame", "body" or "kind" outside the fields
	Reason string // what was wrong with it
	Code   Code   // what to tell the peer: CodeProtocol, CodeVersion or CodeFrameTooLong
	cause  error
}

// Error names kind, field and reason.
func (e *ProtocolError) Error() string {
	s := "protocol error: "
	if e.Kind != 0 {
		s += e.Kind.String() + " "
	}
	return s + e.Field + ": " + e.Reason
}

// Is reports whether target is ErrProtocol or the more precise sentinel.
func (e *ProtocolError) Is(target error) bool {
	return target == ErrProtocol || e.cause != nil && target == e.cause
}

// WireCode returns the number to send to the peer.
func (e *ProtocolError) WireCode() Code { return e.Code }
