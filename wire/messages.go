package wire

// Kind is the first element of a body: which message it is. Kinds 1 to 63 are
// mandatory: a peer that does not know one has to give up. Kinds 64 to 127 are
// optional: a peer that does not know one ignores it.
type Kind uint8

// The whole protocol. n→b is sent by nodes, b→n by the broker, n↔b by both.
// Behind each kind is its payload, in the order of the wire; behind a semicolon
// what is left out when it has its usual value. docs/protocol.md
// says what each field means.
const (
	// Handshake, in this order.
	KindHello   Kind = 1 // n→b  magic, version_min, version_max, features, role, auth, dataflow, node, client, flags
	KindWelcome Kind = 2 // b→n  version, features, instance, session, frame_max, inline_max, heartbeat_ms, probe_name, probe_offset, probe_length; held_max
	KindAttach  Kind = 3 // n→b  nonce; adopting
	KindReady   Kind = 4 // b→n  local, reason
	KindPorts   Kind = 5 // b→n  outputs [[id, open]...], inputs [[id, source, queue_size, policy, hold_timeout_ms, open]...]

	// Data.
	KindPublish Kind = 6  // n→b  output, epoch, seq, time_ns, token, region, offset, length, metadata, payload; lanes
	KindInputs  Kind = 7  // b→n  items [[input, dropped, seq, time_ns, token, region, offset, length, metadata, payload]...]
	KindNext    Kind = 8  // n→b  limit, consumed, done [token...]
	KindDone    Kind = 9  // n↔b  tokens [token...]
	KindFlow    Kind = 10 // b→n  output, epoch, receivers, window; brokered

	// Shared memory regions.
	KindRegionRequest Kind = 11 // n→b  request, slot_bytes, slots
	KindRegionGrant   Kind = 12 // b→n  request, region, name, bytes, slot_bytes, slots
	KindRegionDenied  Kind = 13 // b→n  request, code, text
	KindRegionReturn  Kind = 14 // n→b  region
	KindRegionRetire  Kind = 15 // b→n  region
	KindRegionOpen    Kind = 16 // b→n  region, name, bytes, slot_bytes, slots; owner
	KindRegionClose   Kind = 17 // b→n  region

	// Ends and failures.
	KindSendFailed  Kind = 18 // n→b  output, reason, count, bytes, seq_first, seq_last
	KindOutputClose Kind = 19 // n→b  output
	KindInputClosed Kind = 20 // b→n  input, reason
	KindStop        Kind = 21 // b→n  reason
	KindBye         Kind = 22 // n→b  reason
	KindPing        Kind = 23 // n↔b  nonce
	KindPong        Kind = 24 // n↔b  nonce
	KindError       Kind = 25 // n↔b  code, text

	// Control connections.
	KindRequest Kind = 26 // n→b  id, verb, body
	KindReply   Kind = 27 // b→n  id, code, text, more, body

	KindReject Kind = 28 // n→b  token, reason

	// Lanes. Only between sides that both have FeatureLanes.
	KindLaneGrant Kind = 29 // b→n  lane, role, port, bit, queue_size, policy, hold_timeout_ms, name, slot_bytes, bell_region, bell_name, peer_bell_region, peer_bell_name, peer; grace_ms
	KindLaneReady Kind = 30 // n→b  lane, text
	KindLaneStart Kind = 31 // n↔b  lane; dropped
	KindLaneClose Kind = 32 // b→n  lane, from, withdrawn, settled, reason
	KindLaneDone  Kind = 33 // n→b  lane
	KindLaneFault Kind = 34 // n↔b  lane, reason, count, bytes, seq_first, seq_last, text
	KindLaneHeld  Kind = 35 // n→b  lane, region, seq, bytes, held_ms, count
	KindAdopt     Kind = 36 // n→b  instance, bell_region, bell_name, regions [[region, name, slot_bytes, slots]...], lanes [[lane, role, port, peer, bit, queue_size, policy, hold_timeout_ms, name, slot_bytes, peer_bell_region]...]
	KindAdopted   Kind = 37 // b→n  regions [[region, name]...], lanes [lane...], bell

	// Evacuation. Only between sides that both have FeatureEvacuation.
	KindEvacuated Kind = 38 // n→b  input, tokens [token...], region, seq, bytes, held_ms, count
	KindKept      Kind = 39 // n→b  messages, bytes, stuck, text

	// Inline fall-back. Only between sides that both have FeatureInline.
	KindShortage Kind = 42 // n→b  output, bytes

	// KindOptionalMin is the first optional kind, KindMax the last of all.
	KindOptionalMin Kind = 64
	KindMax         Kind = 127
)

// Message is one message of the protocol. It is implemented by pointers to the
// structs of this package and by nothing else.
type Message interface {
	// Kind is the message's number.
	Kind() Kind
	// String is the message's one text form, on one line: logs, golden files
	// and command line tools all show this. Payloads show as their length;
	// secrets do not show.
	String() string

	encode(w *writer)
	decode(r *reader)
	appendText(b []byte) []byte
}

// Hello opens a connection. The magic is implied.
type Hello struct {
	VersionMin, VersionMax uint16
	Features               Features
	Role                   Role
	Auth                   []byte // ≤ AuthBytesMax; empty if the broker asks for none
	Dataflow, Node         string // ids; empty for RoleControl
	Client                 string // library and its version, for logs
	Flags                  HelloFlags
}

// Welcome accepts a Hello.
type Welcome struct {
	Version     uint16
	Features    Features
	Instance    string // id of this run of the broker
	Session     SessionID
	FrameMax    uint64 // bytes of a body after Ready, both ways
	InlineMax   uint32 // bytes; larger payloads go to shared memory if there is any
	HeartbeatMS uint32 // milliseconds between the broker's Pings; 0: it sends none
	ProbeName   string // under /dev/shm; empty: no shared memory on offer
	ProbeOffset uint64 // bytes
	ProbeLength uint32 // bytes, ≤ NonceBytesMax
	HeldMax     uint64 // bytes that the node may evacuate; 0 without FeatureEvacuation
}

// Attach proves, with the bytes found in the probe, that the node sees the
// broker's shared memory. An empty nonce says that it does not.
type Attach struct {
	Nonce []byte
	// Adopting says that an Adopt follows as soon as Ready has come: the broker
	// waits for it before it says anything of flows or lanes.
	Adopting bool
}

// Ready ends the handshake.
type Ready struct {
	Local  bool   // payloads may go through shared memory
	Reason string // why not local; empty if local
}

// Ports says what the dataflow makes of this node. The positions in it are the
// OutputIndex and InputIndex of all later messages. It is sent again when a
// reload changes something; positions never change their meaning in a session.
type Ports struct {
	Outputs []OutputPort
	Inputs  []InputPort
}

// OutputPort is one output of the node.
type OutputPort struct {
	ID   string
	Open bool // false: a reload removed it
}

// InputPort is one input of the node.
type InputPort struct {
	ID            string
	Source        string // "camera/image" or "timer/..."
	QueueSize     uint32 // messages
	Policy        Policy
	HoldTimeoutMS uint32 // milliseconds; 0: never
	Open          bool   // false: no more messages will come
}

// Publish sends one message on an output. It is either inline (Token, Region
// and Offset zero, Length = len(Payload)) or in shared memory (Token and Region
// not zero, Payload nil, [Offset, Offset+Length) inside one slot).
type Publish struct {
	Output         OutputIndex
	Epoch          uint32 // of the last Flow seen for this output
	Seq            Seq
	TimeNS         int64 // Unix nanoseconds, sender's clock
	Token          Token // chosen by the sender, unique among its outstanding ones
	Region         RegionID
	Offset, Length uint64 // bytes
	Metadata       RawMetadata
	Payload        []byte
	Lanes          uint64 // bits of the sender's lanes that have this message already
}

// Inputs delivers messages, oldest first.
type Inputs struct {
	Items []Input
}

// Input is one delivered message; inline or in shared memory like Publish.
type Input struct {
	Input          InputIndex
	Dropped        uint64 // messages that this input lost since its previous item
	Seq            Seq    // the sender's
	TimeNS         int64  // the sender's
	Token          Token  // chosen by the broker; 0: nothing to give back
	Region         RegionID
	Offset, Length uint64 // bytes
	Metadata       RawMetadata
	Payload        []byte
}

// Next asks for messages and gives back tokens. Limit and Consumed count items
// since the start of the session.
type Next struct {
	Limit    uint64 // the broker may have delivered this many; the last value wins
	Consumed uint64 // this many were handed to the user
	Done     []Token
}

// Done gives back tokens: the receiver's to the broker, the sender's to the
// sender.
type Done struct {
	Tokens []Token
}

// Flow tells a sender about the receivers of one of its outputs.
type Flow struct {
	Output    OutputIndex
	Epoch     uint32
	Receivers uint32 // connected ones
	Window    uint64 // Publishes allowed since the start of the session; WindowUnlimited
	Brokered  uint32 // edges that need each message from the broker; 1 if it is not on the wire
}

// RegionRequest asks for a region of Slots slots.
type RegionRequest struct {
	Request   uint32 // chosen by the node; the answer carries it
	SlotBytes uint64 // a size class
	Slots     uint32
}

// RegionGrant leases a region to the node, to write to.
type RegionGrant struct {
	Request   uint32
	Region    RegionID
	Name      string // under /dev/shm
	Bytes     uint64 // of the whole object, header included
	SlotBytes uint64
	Slots     uint32
}

// RegionDenied refuses a RegionRequest: CodeNoMemory, CodeQuota, CodeTooLarge.
type RegionDenied struct {
	Request uint32
	Code    Code
	Text    string
}

// RegionReturn gives a region back. All its slots are free.
type RegionReturn struct {
	Region RegionID
}

// RegionRetire says that a region must not be used for new messages.
type RegionRetire struct {
	Region RegionID
}

// RegionOpen announces a region that messages to this node will lie in. It may
// come again for the same region, when its owner has got a bell.
type RegionOpen struct {
	Region    RegionID
	Name      string // under /dev/shm
	Bytes     uint64
	SlotBytes uint64
	Slots     uint32
	Owner     RegionID // bell of the node that the region is leased to; 0: it has none
}

// RegionClose says that no further message will lie in the region.
type RegionClose struct {
	Region RegionID
}

// SendFailed reports messages that the sender could not publish.
type SendFailed struct {
	Output            OutputIndex
	Reason            DropReason
	Count             uint64 // messages
	Bytes             uint64 // of payload
	SeqFirst, SeqLast Seq
}

// OutputClose says that the node will publish nothing more on an output.
type OutputClose struct {
	Output OutputIndex
}

// InputClosed says that nothing more will come on an input in this session.
type InputClosed struct {
	Input  InputIndex
	Reason string
}

// Stop asks the node to end.
type Stop struct {
	Reason string
}

// Bye announces that the node closes the connection in good order.
type Bye struct {
	Reason string
}

// Ping asks for a Pong of the same nonce.
type Ping struct {
	Nonce uint64
}

// Pong answers a Ping.
type Pong struct {
	Nonce uint64
}

// Error ends the connection. Its sender closes after it.
type Error struct {
	Code Code
	Text string
}

// Request asks something on a control connection.
type Request struct {
	ID   uint32 // chosen by the client; the answers carry it
	Verb string
	Body []byte // JSON
}

// Reply answers a Request.
type Reply struct {
	ID   uint32
	Code Code // CodeOK or why not
	Text string
	More bool   // further replies to the same request follow
	Body []byte // JSON
}

// Reject gives back the token of a message that the receiver could not read. It
// counts as a drop of that receiver.
type Reject struct {
	Token  Token
	Reason DropReason
}

// Kind implementations, in the order of the constants.

func (*Hello) Kind() Kind         { return KindHello }
func (*Welcome) Kind() Kind       { return KindWelcome }
func (*Attach) Kind() Kind        { return KindAttach }
func (*Ready) Kind() Kind         { return KindReady }
func (*Ports) Kind() Kind         { return KindPorts }
func (*Publish) Kind() Kind       { return KindPublish }
func (*Inputs) Kind() Kind        { return KindInputs }
func (*Next) Kind() Kind          { return KindNext }
func (*Done) Kind() Kind          { return KindDone }
func (*Flow) Kind() Kind          { return KindFlow }
func (*RegionRequest) Kind() Kind { return KindRegionRequest }
func (*RegionGrant) Kind() Kind   { return KindRegionGrant }
func (*RegionDenied) Kind() Kind  { return KindRegionDenied }
func (*RegionReturn) Kind() Kind  { return KindRegionReturn }
func (*RegionRetire) Kind() Kind  { return KindRegionRetire }
func (*RegionOpen) Kind() Kind    { return KindRegionOpen }
func (*RegionClose) Kind() Kind   { return KindRegionClose }
func (*SendFailed) Kind() Kind    { return KindSendFailed }
func (*OutputClose) Kind() Kind   { return KindOutputClose }
func (*InputClosed) Kind() Kind   { return KindInputClosed }
func (*Stop) Kind() Kind          { return KindStop }
func (*Bye) Kind() Kind           { return KindBye }
func (*Ping) Kind() Kind          { return KindPing }
func (*Pong) Kind() Kind          { return KindPong }
func (*Error) Kind() Kind         { return KindError }
func (*Request) Kind() Kind       { return KindRequest }
func (*Reply) Kind() Kind         { return KindReply }
func (*Reject) Kind() Kind        { return KindReject }
