package wire

import (
	"fmt"
	"math"
	"strconv"
)

// scratchMax is how many items or tokens a Decoder keeps room for from one
// message to the next. A rare larger batch does not pin its memory.
const scratchMax = 4096

// Decoder decodes bodies. Use one for each connection; it is not safe for
// concurrent use.
//
// Publish, Inputs, Next, Done and Flow live in the Decoder and are valid until
// the next Decode; their Metadata and Payload alias the body. All other messages
// are allocated and own their memory.
type Decoder struct {
	r *reader

	publish Publish
	inputs  Inputs
	next    Next
	done    Done
	flow    Flow
}

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder { return &Decoder{r: newReader()} }

// Decode decodes one body, which is a frame without its length prefix.
//
// It returns a *ProtocolError for everything that is not a message of this
// protocol, and ErrUnknownOptional for a well-formed message that may be
// ignored.
func (d *Decoder) Decode(body []byte) (Message, error) {
	r := d.r
	r.reset(body)
	n := r.array("body", 1, math.MaxInt)
	if r.err != nil {
		return nil, r.err
	}
	k := r.uint("kind", math.MaxUint64)
	if r.err != nil {
		return nil, r.err
	}
	if k == 0 || k > uint64(KindMax) {
		r.fail("kind", "%d is not a kind", k)
		return nil, r.err
	}
	r.kind = Kind(k)
	m := d.message(r.kind)
	if m == nil {
		return nil, d.unknown(n)
	}
	known := 1 + int(fieldCounts[k])
	if n < known {
		r.fail("body", "%d fields, at least %d are needed", n-1, known-1)
		return nil, r.err
	}
	r.more = n - known
	m.decode(r)
	r.extras(n, n-r.more, 1)
	if r.err == nil && r.left() > 0 {
		r.fail("body", "%d bytes behind the message", r.left())
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

// unknown judges a body of n elements, of a kind that this version does not
// know.
func (d *Decoder) unknown(n int) error {
	r := d.r
	if r.kind < KindOptionalMin {
		r.fail("kind", "unknown mandatory kind %d", uint8(r.kind))
		return r.err
	}
	r.extras(n, 1, 1)
	if r.err == nil && r.left() > 0 {
		r.fail("body", "%d bytes behind the message", r.left())
	}
	if r.err != nil {
		return r.err
	}
	return ErrUnknownOptional
}

// message returns the empty message of a kind; nil if the kind is unknown.
func (d *Decoder) message(k Kind) Message {
	switch k {
	case KindPublish:
		return &d.publish
	case KindInputs:
		d.inputs.Items = reuse(d.inputs.Items)
		return &d.inputs
	case KindNext:
		d.next.Done = reuse(d.next.Done)
		return &d.next
	case KindDone:
		d.done.Tokens = reuse(d.done.Tokens)
		return &d.done
	case KindFlow:
		return &d.flow
	}
	return NewMessage(k)
}

func reuse[T any](s []T) []T {
	if cap(s) > scratchMax {
		return nil
	}
	return s[:0]
}

// NewMessage returns an empty message of a kind; nil if the kind is unknown.
func NewMessage(k Kind) Message {
	switch k {
	case KindHello:
		return new(Hello)
	case KindWelcome:
		return new(Welcome)
	case KindAttach:
		return new(Attach)
	case KindReady:
		return new(Ready)
	case KindPorts:
		return new(Ports)
	case KindPublish:
		return new(Publish)
	case KindInputs:
		return new(Inputs)
	case KindNext:
		return new(Next)
	case KindDone:
		return new(Done)
	case KindFlow:
		return new(Flow)
	case KindRegionRequest:
		return new(RegionRequest)
	case KindRegionGrant:
		return new(RegionGrant)
	case KindRegionDenied:
		return new(RegionDenied)
	case KindRegionReturn:
		return new(RegionReturn)
	case KindRegionRetire:
		return new(RegionRetire)
	case KindRegionOpen:
		return new(RegionOpen)
	case KindRegionClose:
		return new(RegionClose)
	case KindSendFailed:
		return new(SendFailed)
	case KindOutputClose:
		return new(OutputClose)
	case KindInputClosed:
		return new(InputClosed)
	case KindStop:
		return new(Stop)
	case KindBye:
		return new(Bye)
	case KindPing:
		return new(Ping)
	case KindPong:
		return new(Pong)
	case KindError:
		return new(Error)
	case KindRequest:
		return new(Request)
	case KindReply:
		return new(Reply)
	case KindReject:
		return new(Reject)
	case KindLaneGrant:
		return new(LaneGrant)
	case KindLaneReady:
		return new(LaneReady)
	case KindLaneStart:
		return new(LaneStart)
	case KindLaneClose:
		return new(LaneClose)
	case KindLaneDone:
		return new(LaneDone)
	case KindLaneFault:
		return new(LaneFault)
	case KindLaneHeld:
		return new(LaneHeld)
	case KindAdopt:
		return new(Adopt)
	case KindAdopted:
		return new(Adopted)
	case KindEvacuated:
		return new(Evacuated)
	case KindKept:
		return new(Kept)
	case KindShortage:
		return new(Shortage)
	}
	return nil
}

// kindInfo is what the protocol says of a kind.
type kindInfo struct {
	name   string
	fields uint8 // behind the kind, without those that may be left out
	from   Sender
}

// Sender says which side may send a kind.
type Sender uint8

// The sides. FromBoth is the sum of the two others.
const (
	FromNode   Sender = 1
	FromBroker Sender = 2
	FromBoth   Sender = FromNode | FromBroker
)

var kinds = [...]kindInfo{
	KindHello: {"hello", 10, FromNode}, KindWelcome: {"welcome", 10, FromBroker},
	KindAttach: {"attach", 1, FromNode}, KindReady: {"ready", 2, FromBroker},
	KindPorts: {"ports", 2, FromBroker}, KindPublish: {"publish", 10, FromNode},
	KindInputs: {"inputs", 1, FromBroker}, KindNext: {"next", 3, FromNode},
	KindDone: {"done", 1, FromBoth}, KindFlow: {"flow", 4, FromBroker},
	KindRegionRequest: {"region_request", 3, FromNode},
	KindRegionGrant:   {"region_grant", 6, FromBroker},
	KindRegionDenied:  {"region_denied", 3, FromBroker},
	KindRegionReturn:  {"region_return", 1, FromNode},
	KindRegionRetire:  {"region_retire", 1, FromBroker},
	KindRegionOpen:    {"region_open", 5, FromBroker},
	KindRegionClose:   {"region_close", 1, FromBroker},
	KindSendFailed:    {"send_failed", 6, FromNode},
	KindOutputClose:   {"output_close", 1, FromNode},
	KindInputClosed:   {"input_closed", 2, FromBroker},
	KindStop:          {"stop", 1, FromBroker}, KindBye: {"bye", 1, FromNode},
	KindPing: {"ping", 1, FromBoth}, KindPong: {"pong", 1, FromBoth},
	KindError: {"error", 2, FromBoth}, KindRequest: {"request", 3, FromNode},
	KindReply: {"reply", 5, FromBroker}, KindReject: {"reject", 2, FromNode},
	KindLaneGrant: {"lane_grant", 14, FromBroker}, KindLaneReady: {"lane_ready", 2, FromNode},
	KindLaneStart: {"lane_start", 1, FromBoth}, KindLaneClose: {"lane_close", 5, FromBroker},
	KindLaneDone: {"lane_done", 1, FromNode}, KindLaneFault: {"lane_fault", 7, FromBoth},
	KindLaneHeld: {"lane_held", 6, FromNode}, KindAdopt: {"adopt", 5, FromNode},
	KindAdopted: {"adopted", 3, FromBroker}, KindEvacuated: {"evacuated", 7, FromNode},
	KindKept: {"kept", 4, FromNode}, KindShortage: {"shortage", 2, FromNode},
}

// fieldCounts is kinds[k].fields for the hot path.
var fieldCounts = func() (n [int(KindMax) + 1]uint8) {
	for k, info := range kinds {
		n[k] = info.fields
	}
	return n
}()

// Known reports whether this version has a message of this kind.
func (k Kind) Known() bool { return int(k) < len(kinds) && kinds[k].name != "" }

// Sender says which side may send this kind; zero for unknown kinds.
func (k Kind) Sender() Sender {
	if !k.Known() {
		return 0
	}
	return kinds[k].from
}

// String returns the kind's name as the text forms of messages spell it.
func (k Kind) String() string {
	if k.Known() {
		return kinds[k].name
	}
	return "kind(" + strconv.Itoa(int(k)) + ")"
}

// Negotiate chooses the protocol version for a Hello: the highest that both
// sides speak. Its error is an *Error that names both ranges.
func Negotiate(h *Hello) (uint16, error) {
	v := min(h.VersionMax, VersionMax)
	if v < h.VersionMin || v < VersionMin {
		return 0, &Error{Code: CodeVersion, Text: fmt.Sprintf(
			"the node speaks protocol versions %d to %d, this broker %d to %d", h.VersionMin, h.VersionMax, VersionMin, VersionMax)}
	}
	return v, nil
}
