package wire

import "strconv"

// FeatureLanes in Hello says that the node can use lanes, in Welcome that the
// broker may grant it some.
const FeatureLanes Features = 1 << 0

// Limits of lanes. A message that goes over one of them is refused while it is
// decoded.
const (
	LaneBitMax       = 62     // bits of a ledger word that lanes have; bit 63 is the broker's
	LaneQueueSizeMax = 65_536 // messages
	AdoptRegionsMax  = 4096   // Adopt.Regions
	AdoptLanesMax    = 4096   // Adopt.Lanes, Adopted.Lanes

	// AdoptedNamesMax bounds Adopted.Regions: all regions and lanes, and the bell.
	AdoptedNamesMax = AdoptRegionsMax + AdoptLanesMax + 1
)

// LaneRole says which end of a lane a node is.
type LaneRole uint8

// The ends of a lane.
const (
	LaneSender   LaneRole = 0 // pushes descriptors
	LaneReceiver LaneRole = 1 // takes them
)

// Valid reports whether r is one of the ends above.
func (r LaneRole) Valid() bool { return r <= LaneReceiver }

// String returns the role's name.
func (r LaneRole) String() string {
	switch r {
	case LaneSender:
		return "sender"
	case LaneReceiver:
		return "receiver"
	}
	return "role(" + strconv.Itoa(int(r)) + ")"
}

// LaneGrant gives a node one end of a lane: a queue of descriptors in shared
// memory, for one edge. The lane's id is that of the region it lies in.
type LaneGrant struct {
	Lane          RegionID
	Role          LaneRole
	Port          uint32 // OutputIndex of the sender, InputIndex of the receiver
	Bit           uint8  // in the ledger words of the sender's regions, ≤ LaneBitMax
	QueueSize     uint32 // messages, 1 to LaneQueueSizeMax
	Policy        Policy
	HoldTimeoutMS uint32 // milliseconds; 0: never
	Name          string // of the lane's memory, under /dev/shm
	SlotBytes     uint64 // of its only slot

	BellRegion     RegionID // the node's own bell
	BellName       string
	PeerBellRegion RegionID // the other end's
	PeerBellName   string
	Peer           string // the other end: "edges/frame" for the sender, "camera/image" for the receiver
	GraceMS        uint32 // to the sender: so much longer it waits with LaneHeld, because the receiver evacuates
}

// LaneReady answers a LaneGrant.
type LaneReady struct {
	Lane RegionID
	Text string // empty: mapped; else why not, and the edge stays with the broker
}

// LaneStart from the sender: what its output publishes from here on goes to the
// lane. To the receiver: all that came through the broker before has been
// delivered.
type LaneStart struct {
	Lane RegionID
	// Dropped, to the receiver: messages that its input lost behind the last one
	// that came through the broker. 0 from a sender.
	Dropped uint64
}

// LaneClose says that nothing more will be pushed. It may come a second time,
// then with Settled.
type LaneClose struct {
	Lane RegionID
	// From is the position, mod 2^32, of the first of Withdrawn entries that the
	// router took back because their receiver is gone.
	From      uint64
	Withdrawn uint32
	// Settled says that no receiver holds a message of this lane any more: the
	// sender may clear the lane's bit in every slot.
	Settled bool
	Reason  string
}

// LaneDone from the receiver: it has taken all there was and reads no more. From
// the sender: no slot has the lane's bit any more.
type LaneDone struct {
	Lane RegionID
}

// LaneFault reports messages that are lost on a lane, or a lane whose memory is
// damaged (Count 0). The edge goes back to the broker. What a receiver reports of
// messages the broker passes on to the sender, who has their slots.
type LaneFault struct {
	Lane              RegionID
	Reason            DropReason
	Count             uint64 // messages
	Bytes             uint64 // of payload
	SeqFirst, SeqLast Seq
	Text              string
}

// LaneHeld reports, from the sender, messages whose slots the receiver has held
// for longer than the lane's hold timeout.
type LaneHeld struct {
	Lane   RegionID
	Region RegionID // that the oldest of them lies in
	Seq    Seq      // of the oldest
	Bytes  uint64   // of payload, all of them
	HeldMS uint64   // milliseconds, of the oldest
	Count  uint32   // messages
}

// Adopt offers the broker what a broker that is gone had granted to this node.
type Adopt struct {
	Instance   string   // of the broker that is gone
	BellRegion RegionID // 0: the node has no bell
	BellName   string
	Regions    []AdoptRegion
	Lanes      []AdoptLane
}

// AdoptRegion is a region that the node leases.
type AdoptRegion struct {
	Region    RegionID
	Name      string // under /dev/shm
	SlotBytes uint64
	Slots     uint32
}

// AdoptLane is a lane that the node has an end of.
type AdoptLane struct {
	Lane           RegionID
	Role           LaneRole
	Port           string // id of the output or input
	Peer           string // the other end, as in LaneGrant
	Bit            uint8
	QueueSize      uint32
	Policy         Policy
	HoldTimeoutMS  uint32
	Name           string // under /dev/shm
	SlotBytes      uint64
	PeerBellRegion RegionID
}

// Adopted answers Adopt with what the broker has taken over. Regions has each
// shared memory object that now belongs to this broker, lanes and bell included,
// because each has got a new name: the one to offer to the next broker.
type Adopted struct {
	Regions []AdoptedRegion
	Lanes   []RegionID // those that go on
	Bell    bool
}

// AdoptedRegion is a region, a lane or a bell, and the name that its memory has
// from now on.
type AdoptedRegion struct {
	Region RegionID
	Name   string
}

func (*LaneGrant) Kind() Kind { return KindLaneGrant }
func (*LaneReady) Kind() Kind { return KindLaneReady }
func (*LaneStart) Kind() Kind { return KindLaneStart }
func (*LaneClose) Kind() Kind { return KindLaneClose }
func (*LaneDone) Kind() Kind  { return KindLaneDone }
func (*LaneFault) Kind() Kind { return KindLaneFault }
func (*LaneHeld) Kind() Kind  { return KindLaneHeld }
func (*Adopt) Kind() Kind     { return KindAdopt }
func (*Adopted) Kind() Kind   { return KindAdopted }
