//go:build linux

package e2e

import (
	"bytes"
	"strings"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// forgery is one thing that a node may try. code is what the broker has to call it;
// CodeOK: it is to take no notice, and the node goes on.
type forgery struct {
	name string
	kind forgerKind
	code wire.Code
	say  func(f *forger) []wire.Message
}

func says(messages ...wire.Message) func(*forger) []wire.Message {
	return func(*forger) []wire.Message { return messages }
}

// inline is a message of the forger's that is in order.
func inline(seq wire.Seq) *wire.Publish {
	return &wire.Publish{Seq: seq, Length: 1, Payload: []byte{1}}
}

// in is a message in a region of its own.
func (f *forger) in(r wire.RegionGrant, token wire.Token, offset, length uint64) *wire.Publish {
	return &wire.Publish{Epoch: f.flow.Epoch, Seq: wire.Seq(token), Token: token, Region: r.Region, Offset: offset, Length: length}
}

// tokensOfOthers are those that the broker has certainly given to somebody: it
// counts uses of a place in the upper half, places in the lower.
func tokensOfOthers() (tokens []wire.Token) {
	for generation := range wire.Token(1000) {
		for place := range wire.Token(32) {
			tokens = append(tokens, generation<<32|place)
		}
	}
	return tokens
}

// forgeries are all that a node may say, with everything that is not its own put
// in. That it must not say the rest at all is at the end.
var forgeries = []forgery{
	// Handshake.
	{"hello with another magic", stranger, wire.CodeProtocol, func(f *forger) []wire.Message {
		f.write(bytes.Replace(wire.NewEncoder().Append(nil, hello("guest")), []byte("brokerd"), []byte("Brokerd"), 1))
		return nil
	}},
	{"hello of an unknown role", stranger, wire.CodeProtocol, says(&wire.Hello{VersionMin: 1, VersionMax: 1, Role: 7, Dataflow: flowName, Node: "guest"})},
	{"hello of a node that somebody else is", stranger, wire.CodeDuplicateNode, says(hello("sink"))},
	{"hello of a node of no dataflow", stranger, wire.CodeUnknownNode, says(hello("nobody"))},
	{"hello of no dataflow", stranger, wire.CodeUnknownDataflow, says(&wire.Hello{VersionMin: 1, VersionMax: 1, Dataflow: "other", Node: "guest"})},
	{"hello with a path for an id", stranger, wire.CodeUnknownDataflow, says(&wire.Hello{VersionMin: 1, VersionMax: 1, Dataflow: "../x", Node: "guest"})},
	{"attach first", stranger, wire.CodeWrongState, says(&wire.Attach{})},
	{"publish before attach", greeted, wire.CodeWrongState, says(inline(1))},
	{"request before attach", greeted, wire.CodeWrongState, says(&wire.Request{Verb: wire.VerbStatus})},
	{"hello again", nearby, wire.CodeWrongState, says(hello("guest"))},
	{"attach again", nearby, wire.CodeWrongState, says(&wire.Attach{})},

	// Publish.
	{"publish on no output", nearby, wire.CodeNotYours, says(&wire.Publish{Output: 1, Seq: 1})},
	{"publish in another's region", nearby, wire.CodeNotYours, func(f *forger) []wire.Message {
		r := f.other()
		return []wire.Message{&wire.Publish{Seq: 1, Token: 7, Region: r.Region, Offset: shmpool.HeaderBytes, Length: 16}}
	}},
	{"publish in no region", nearby, wire.CodeNotYours, says(&wire.Publish{Seq: 1, Token: 7, Region: 1, Offset: 4096, Length: 16})},
	{"publish in a region from afar", afar, wire.CodeNotYours, says(&wire.Publish{Seq: 1, Token: 7, Region: 1, Offset: 4096, Length: 16})},
	{"publish of a region's header", nearby, wire.CodeProtocol, func(f *forger) []wire.Message {
		return []wire.Message{f.in(f.region(2), 1, 0, 16)}
	}},
	{"publish behind a region's end", nearby, wire.CodeProtocol, func(f *forger) []wire.Message {
		r := f.region(2)
		return []wire.Message{f.in(r, 1, slot(r, 2), 16)}
	}},
	{"publish of two slots", nearby, wire.CodeProtocol, func(f *forger) []wire.Message {
		r := f.region(2)
		return []wire.Message{f.in(r, 1, slot(r, 0)+16, r.SlotBytes)}
	}},
	{"publish of a length that overflows", nearby, wire.CodeProtocol, func(f *forger) []wire.Message {
		r := f.region(2)
		return []wire.Message{f.in(r, 1, slot(r, 1), 1<<63-1-slot(r, 1))}
	}},
	{"publish in a slot that is in use", nearby, wire.CodeProtocol, func(f *forger) []wire.Message {
		r := f.region(2)
		return []wire.Message{f.in(r, 1, slot(r, 1), 16), f.in(r, 2, slot(r, 1), 16)}
	}},
	{"publish in a region without a token", nearby, wire.CodeProtocol, func(f *forger) []wire.Message {
		r := f.region(2)
		return []wire.Message{f.in(r, 0, slot(r, 0), 16)}
	}},
	{"publish in a region and inline", nearby, wire.CodeProtocol, func(f *forger) []wire.Message {
		r := f.region(2)
		p := f.in(r, 1, slot(r, 0), 1)
		p.Payload = []byte{1}
		return []wire.Message{p}
	}},
	{"publish inline with another length", nearby, wire.CodeProtocol, says(&wire.Publish{Seq: 1, Length: 1 << 40, Payload: []byte{1}})},
	{"publish with an epoch of the future", nearby, wire.CodeProtocol, says(&wire.Publish{Epoch: 1 << 30, Seq: 1})},
	{"publish past the window", nearby, wire.CodeWrongState, func(f *forger) (many []wire.Message) {
		f.until(func(wire.Message) bool { return f.flow.Receivers == 1 && f.flow.Window < 100 })
		for i := range f.flow.Window + 50 {
			p := inline(wire.Seq(i + 1))
			p.Epoch = f.flow.Epoch
			many = append(many, p)
		}
		return many
	}},
	{"publish after output_close", nearby, wire.CodeWrongState, says(&wire.OutputClose{}, inline(1))},
	{"publish on a lane that it does not have", able, wire.CodeProtocol, says(&wire.Publish{Seq: 1, Lanes: 1 << 40})},
	{"publish with the broker's bit", able, wire.CodeProtocol, says(&wire.Publish{Seq: 1, Lanes: 1 << 63})},
	{"publish with metadata that are none", nearby, wire.CodeProtocol, func(f *forger) []wire.Message {
		p := inline(1)
		p.Metadata = []byte{0xdf, 0xff, 0xff, 0xff, 0xff}
		return []wire.Message{p}
	}},
	{"output_close of no output", nearby, wire.CodeNotYours, says(&wire.OutputClose{Output: 3})},
	{"send_failed of no output", nearby, wire.CodeNotYours, says(&wire.SendFailed{Output: 3, Reason: wire.DropNoMemory, Count: 1, SeqFirst: 1, SeqLast: 1})},
	{"send_failed for no reason", nearby, wire.CodeProtocol, says(&wire.SendFailed{Reason: 200, Count: 1, SeqFirst: 1, SeqLast: 1})},
	{"send_failed of more than there are numbers", nearby, wire.CodeProtocol, says(&wire.SendFailed{Reason: wire.DropNoMemory, Count: 9, SeqFirst: 1, SeqLast: 2})},
	{"send_failed backwards", nearby, wire.CodeProtocol, says(&wire.SendFailed{Reason: wire.DropNoMemory, Count: 1, SeqFirst: 2, SeqLast: 1})},

	// Receiving.
	{"next with more than was delivered", nearby, wire.CodeProtocol, says(&wire.Next{Limit: 1, Consumed: 1 << 40})},
	{"next with less than before", nearby, wire.CodeProtocol, func(f *forger) []wire.Message {
		f.send(&wire.Next{Limit: 1})
		f.until(func(wire.Message) bool { return len(f.items) > 0 })
		return []wire.Message{&wire.Next{Limit: 1, Consumed: 1}, &wire.Next{Limit: 1}}
	}},
	{"next with the tokens of others", nearby, wire.CodeOK, func(*forger) []wire.Message {
		return []wire.Message{&wire.Next{Done: tokensOfOthers()}}
	}},
	{"done with the tokens of others", nearby, wire.CodeOK, func(*forger) []wire.Message {
		return []wire.Message{&wire.Done{Tokens: tokensOfOthers()}}
	}},
	{"done from afar", afar, wire.CodeOK, func(*forger) []wire.Message {
		return []wire.Message{&wire.Done{Tokens: tokensOfOthers()}}
	}},
	{"reject of the tokens of others", nearby, wire.CodeOK, func(*forger) (all []wire.Message) {
		for _, token := range tokensOfOthers() {
			all = append(all, &wire.Reject{Token: token, Reason: wire.DropBadDescriptor})
		}
		return all
	}},
	{"reject for no reason", nearby, wire.CodeProtocol, says(&wire.Reject{Token: 1, Reason: 200})},

	{"evacuated by one who does not evacuate", nearby, wire.CodeWrongState, says(&wire.Evacuated{Region: 1, Count: 1})},
	{"evacuated tokens of others", able, wire.CodeNotYours, func(*forger) []wire.Message {
		tokens := tokensOfOthers()
		return []wire.Message{&wire.Evacuated{Tokens: tokens, Region: 1, Count: uint32(len(tokens))}}
	}},
	{"evacuated twice", able, wire.CodeNotYours, func(f *forger) []wire.Message {
		f.send(&wire.Next{Limit: 1})
		f.until(func(wire.Message) bool { return len(f.items) > 0 })
		once := &wire.Evacuated{Tokens: []wire.Token{f.items[0].Token}, Region: f.items[0].Region, Count: 1}
		return []wire.Message{once, once}
	}},
	{"evacuated on no input", able, wire.CodeNotYours, says(&wire.Evacuated{Input: 1, Region: 1, Count: 1})},
	{"evacuated more than there is", able, wire.CodeProtocol, says(&wire.Evacuated{Region: 1, Count: 1, Bytes: 1<<30 + 1})},
	{"evacuated and kept of what never was", able, wire.CodeOK, says(
		&wire.Kept{Messages: 1<<64 - 1, Bytes: 1<<64 - 1, Stuck: 1<<64 - 1, Text: "a\nb"},
		&wire.Evacuated{Region: 1, Count: 1 << 20, Bytes: 7, HeldMS: 1<<64 - 1, Seq: 1<<64 - 1})},

	// Regions.
	{"region_request from afar", afar, wire.CodeWrongState, says(&wire.RegionRequest{SlotBytes: 4096, Slots: 1})},
	{"region_request of all the memory there is", nearby, wire.CodeOK, func(f *forger) []wire.Message {
		f.send(&wire.RegionRequest{SlotBytes: 1 << 30, Slots: 60}, &wire.RegionRequest{SlotBytes: 1 << 60, Slots: 1 << 31})
		for range 2 {
			f.denied = wire.RegionDenied{}
			f.until(func(wire.Message) bool { return f.denied.Code != 0 })
		}
		return nil
	}},
	{"region_request again and again", nearby, wire.CodeProtocol, func(*forger) (many []wire.Message) {
		for i := range uint32(1000) {
			many = append(many, &wire.RegionRequest{Request: i, SlotBytes: 1 << 20, Slots: 8})
		}
		return many
	}},
	{"region_return of another's", nearby, wire.CodeNotYours, func(f *forger) []wire.Message {
		return []wire.Message{&wire.RegionReturn{Region: f.other().Region}}
	}},
	{"region_return of none", nearby, wire.CodeNotYours, says(&wire.RegionReturn{Region: 1})},
	{"region_return twice", nearby, wire.CodeNotYours, func(f *forger) []wire.Message {
		r := f.region(1)
		return []wire.Message{&wire.RegionReturn{Region: r.Region}, &wire.RegionReturn{Region: r.Region}}
	}},
	{"region_return with messages in it", nearby, wire.CodeWrongState, func(f *forger) []wire.Message {
		r := f.region(1)
		return []wire.Message{f.in(r, 1, slot(r, 0), 16), &wire.RegionReturn{Region: r.Region}}
	}},

	// Lanes, by somebody who has none; more is in TestForgedLanes.
	{"lane_ready of one who speaks no lanes", nearby, wire.CodeWrongState, says(&wire.LaneReady{Lane: 1})},
	{"adopt of one who speaks no lanes", nearby, wire.CodeWrongState, says(&wire.Adopt{})},
	{"adopt that was not announced", able, wire.CodeWrongState, says(&wire.Adopt{Instance: "00000000"})},
	{"publish before adopt", adopting, wire.CodeWrongState, says(inline(1))},
	{"adopt twice", adopting, wire.CodeWrongState, says(&wire.Adopt{Instance: "00000000"}, &wire.Adopt{Instance: "00000000"})},
	{"adopt of living regions", adopting, wire.CodeOK, func(f *forger) []wire.Message {
		// It can see their names: it is of the same user.
		adopt := &wire.Adopt{Instance: "00000000"}
		for id, name := range objects(f.t) {
			adopt.Regions = append(adopt.Regions, wire.AdoptRegion{Region: id, Name: name, SlotBytes: 4096, Slots: 1})
			adopt.Lanes = append(adopt.Lanes, wire.AdoptLane{Lane: id, Role: wire.LaneReceiver, Port: "frames", Peer: "source/frames",
				QueueSize: 8, Name: name, SlotBytes: 2048, PeerBellRegion: id})
		}
		f.send(adopt)
		f.until(func(m wire.Message) bool {
			adopted, ok := m.(*wire.Adopted)
			if ok && (len(adopted.Regions) > 0 || len(adopted.Lanes) > 0) {
				f.t.Errorf("it was given %v", adopted)
			}
			return ok
		})
		return nil
	}},

	// Evacuation and inline fall-back.
	{"evacuated of the tokens of others", able, wire.CodeNotYours, func(*forger) []wire.Message {
		return []wire.Message{&wire.Evacuated{Tokens: []wire.Token{1<<32 | 1}, Region: 1, Count: 1}}
	}},
	{"evacuated of no input", able, wire.CodeNotYours, says(&wire.Evacuated{Input: 7, Region: 1, Count: 1})},
	{"evacuated of one who does not", nearby, wire.CodeWrongState, says(&wire.Evacuated{Region: 1, Count: 1})},
	{"kept of one who does not evacuate", nearby, wire.CodeWrongState, says(&wire.Kept{Messages: 1})},
	{"shortage of no output", able, wire.CodeNotYours, says(&wire.Shortage{Output: 7, Bytes: 1})},
	{"shortage of one who has no fall-back", nearby, wire.CodeWrongState, says(&wire.Shortage{Bytes: 1})},

	// Control.
	{"request of a node", nearby, wire.CodeWrongState, says(&wire.Request{Verb: wire.VerbStatus})},
	{"publish of a control connection", operator, wire.CodeWrongState, says(inline(1))},
	{"lane_done of a control connection", operator, wire.CodeWrongState, says(&wire.LaneDone{Lane: 1})},
	{"done of a control connection", operator, wire.CodeWrongState, says(&wire.Done{Tokens: []wire.Token{1 << 32}})},
	{"request of nonsense", operator, wire.CodeOK, says(
		&wire.Request{ID: 1, Verb: "../status"}, &wire.Request{ID: 2, Verb: wire.VerbUnload, Body: []byte("{")},
		&wire.Request{ID: 3, Verb: wire.VerbUnload, Body: []byte(`{"name":"none"}`)},
		&wire.Request{ID: 4, Verb: wire.VerbLoad, Body: []byte(`{"yaml":"` + strings.Repeat("[", 100_000) + `"}`)},
		&wire.Request{ID: 5, Verb: wire.VerbStop, Body: bytes.Repeat([]byte("["), 60_000)},
		&wire.Request{ID: 6, Verb: wire.VerbStop, Body: bytes.Repeat([]byte{' '}, 1<<20)})},
}
