package lane

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

const (
	// QueueSizeMax is the longest queue that a lane may have. Positions are
	// compared modulo 2^32, which leaves room for far more; an edge of a longer
	// queue goes through the broker.
	QueueSizeMax = 65536
	// LanesMax is how many lanes one sender may have: bits 0 to 62 of a ledger word.
	LanesMax = 63
	// BrokerBit is the bit of a ledger word that stands for the broker.
	BrokerBit = 63
	// BellSlotBytes is the size class of the one slot of a bell's region.
	BellSlotBytes = 128
)

var (
	// ErrCorrupt reports a lane whose shared words say what they cannot: a peer is
	// broken or hostile, or has cut the file short. Nothing on it can be trusted.
	ErrCorrupt = errors.New("corrupt lane")
	// ErrReleased reports a Keeper that has been released.
	ErrReleased = errors.New("lane released")
	// ErrConfig reports a queue size or policy that no lane can have.
	ErrConfig = errors.New("bad lane configuration")
)

// Config is what the broker grants, over TCP, to both ends of a lane.
type Config struct {
	Lane      wire.RegionID // also the id of the region that the lane lies in
	QueueSize uint32        // messages, 1 to QueueSizeMax
	Policy    wire.Policy
}

// Validate returns nil if a lane can be like that, or an error that wraps ErrConfig.
func (c Config) Validate() error {
	switch {
	case c.QueueSize == 0 || c.QueueSize > QueueSizeMax:
		return fmt.Errorf("lane: %w: queue size %d, must be 1 to %d", ErrConfig, c.QueueSize, QueueSizeMax)
	case !c.Policy.Valid():
		return fmt.Errorf("lane: %w: policy %d", ErrConfig, uint8(c.Policy))
	}
	return nil
}

// Capacity returns how many entries the ring of a queue of that size has: the
// next power of two.
func Capacity(queueSize uint32) uint32 {
	return 1 << bits.Len32(max(queueSize, 1)-1)
}

// Bytes returns how many bytes a ring of that many entries takes. The lane's
// region has one slot of the size class of that.
func Bytes(capacity uint32) uint64 {
	return 8 * (entriesWord + entryWords*uint64(capacity))
}

// Geometry returns the geometry of the region for a queue of that size.
func Geometry(queueSize uint32) shmpool.Geometry {
	return shmpool.Geometry{SlotBytes: shmpool.SlotClass(Bytes(Capacity(queueSize))), Slots: 1}
}

// Descriptor says where a message is: what travels on a lane.
type Descriptor struct {
	Seq                    wire.Seq
	TimeNS                 int64         // Unix nanoseconds, the sender's clock
	Region                 wire.RegionID // of the payload
	Offset, Length         uint64        // of the payload in its region, bytes
	MetaRegion             wire.RegionID // of the metadata; 0: there is none
	MetaOffset, MetaLength uint64
}

// Verdict is how a Push or a Pop ended.
type Verdict uint8

const (
	// Corrupt: a shared word says what it cannot, or the memory is gone. Every
	// later call says the same.
	Corrupt Verdict = iota
	// Pushed: the message is on the lane, or, of Room, there is a place for it.
	Pushed
	// Refused: the queue is full and the policy is drop-newest. It is counted.
	Refused
	// Full: the queue is full and the policy is block.
	Full
	// Closed: the lane was closed before the message was on it.
	Closed
	// Got: a message was popped.
	Got
	// Empty: no message now.
	Empty
	// Ended: no message, and there will be none.
	Ended
)

var verdictNames = [...]string{"corrupt", "pushed", "refused", "full", "closed", "got", "empty", "ended"}

// String returns the verdict as a word.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}
