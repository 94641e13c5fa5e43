package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/shmpool/alloc"
	"github.com/brokerd/brokerd/wire"
)

// Config is everything that can be set about a broker. Start from Defaults: the
// zero value of a limit is refused by Validate, so that a forgotten one is not
// taken for "unlimited".
type Config struct {
	// Logger gets everything the broker has to say. nil: nothing is logged.
	Logger *zap.Logger
	// Version is what status and metrics show as the broker's version.
	Version string

	// Listen is the host:port to accept nodes on. Port 0 takes a free one.
	Listen string
	// Listener, if not nil, is used instead of Listen (socket activation). The
	// broker closes it.
	Listener net.Listener
	// HTTP is the host:port of /metrics, /livez, /readyz and /status. Empty: off.
	HTTP string
	// Credentials say who is let in.
	Credentials
	// Insecure allows a Listen address that other machines reach, without TLS, and
	// without a token or client certificates.
	Insecure bool
	// Flows are the dataflows that are served from the start.
	Flows []*dataflow.Flow
	// Watchdog, if not nil, is called by the router's own goroutine about once a
	// second, so that it stops when the router is stuck. It must not block.
	Watchdog func()

	// ConnectionsMax is how many connections there may be at a time. Run lowers
	// it to what RLIMIT_NOFILE leaves.
	ConnectionsMax int
	// FrameBytesMax is the longest frame body after the handshake, both ways.
	FrameBytesMax uint64
	// InlineBytesMax is announced to local nodes: payloads up to here travel
	// inside the frame, larger ones through shared memory.
	InlineBytesMax uint64
	// OutboundBytesMax is how many bytes may wait for one connection that does
	// not read. One send that is larger goes through if nothing else waits.
	OutboundBytesMax uint64
	// BuffersBytesMax is how many bytes all connections together may have waiting for
	// them, or sent of frames that are not whole. Past it, those with the most are
	// cut off.
	BuffersBytesMax uint64
	// QueueBytesMax is how many bytes of payload inside frames may wait for one
	// input. One message that is larger waits if nothing else does.
	QueueBytesMax uint64
	// QueueTotalMax is the same for all inputs together. Past it, inputs with more
	// than an equal share of it count as full.
	QueueTotalMax uint64
	// OutstandingMax is how many messages one sender may have in its regions that
	// some receiver is not done with, those on lanes not counted.
	OutstandingMax int
	// HeldMessagesMax is how many messages one node may hold at a time.
	HeldMessagesMax int
	// HeldBytesMax is how many bytes of messages that are held for too long one node
	// may move to memory of its own, so that their senders have their slots again. 0:
	// it moves nothing.
	HeldBytesMax uint64
	// FlowsMax is how many dataflows may be loaded at a time.
	FlowsMax int
	// HandshakeTimeout is the time from accept to Attach.
	HandshakeTimeout time.Duration
	// HeartbeatInterval is the silence after which a peer is sent a Ping. A
	// remote peer that leaves three of them unanswered is disconnected.
	HeartbeatInterval time.Duration
	// SlowTimeout is how long a remote peer may take no byte while some wait.
	SlowTimeout time.Duration
	// LingerTimeout is how long a connection that we close may take to read what
	// is left and to close its side.
	LingerTimeout time.Duration
	// DrainTimeout is how long nodes get to end when the broker is stopped.
	DrainTimeout time.Duration
	// EventLoops is the number of gnet's loops. One is best for small messages as
	// long as it keeps up, which it does far beyond what the router takes: on 2
	// cores a second one cost 70 % more time and 60 % more CPU a message. More
	// help machines with cores to spare and long frames from remote nodes.
	EventLoops int
	// ReadBytes is the most that one loop reads from a connection before the
	// others get their turn. A power of two.
	ReadBytes int

	// SharedMemory says whether it is offered at all. Where it cannot be used,
	// the broker warns and works without.
	SharedMemory bool
	// ShmPrefix starts the names of all shared memory objects.
	ShmPrefix string
	// ShmMode is their access mode: 0600 this user only, 0660 a group too.
	ShmMode fs.FileMode
	// ShmGID is their group. -1: that of the process.
	ShmGID int
	// TotalBytes of shared memory that all nodes together may hold, the cache of
	// free regions included.
	TotalBytes uint64
	// NodeBytes of shared memory that one node may hold.
	NodeBytes uint64
	// InlineFallback lets a local node send a message that gets no shared memory
	// inside the frame, through the broker's own memory.
	InlineFallback bool
	// CacheBytes of free regions that are kept warm for the next node.
	CacheBytes uint64
	// CacheAge is how long a free region is kept.
	CacheAge time.Duration
	// RegionsMax is the number of regions that all nodes together may hold: those
	// of payloads, and one for each lane and for each node that has lanes. Each
	// takes file descriptors of the broker.
	RegionsMax int
	// Lanes says whether local nodes may be given direct paths to each other.
	Lanes bool
	// AdoptGrace is how long nodes of a broker that died may bring what it had
	// given them. Then its shared memory is removed.
	AdoptGrace time.Duration
}

// FrameBytesSpare is the part of FrameBytesMax's default beyond 64 MiB of
// payload: room for the fields and metadata around it.
const FrameBytesSpare = 64 << 10

// nodeBytesDefault is the default quota of a node on a machine that has plenty.
const nodeBytesDefault = 1 << 30

// Defaults returns a Config that is valid as it is. The limits of shared memory
// depend on the machine: half of /dev/shm in total, but no more than half of its
// RAM; and 1 GiB a node, but no more than half of the total.
func Defaults() Config {
	total := min(shmSizeBytes(), ramBytes()) / 2
	if total == 0 { // neither is known here
		total = nodeBytesDefault
	}
	return Config{
		Version:           "devel",
		Listen:            "127.0.0.1:7447",
		ConnectionsMax:    4096,
		FrameBytesMax:     64<<20 + FrameBytesSpare,
		InlineBytesMax:    4096,
		OutboundBytesMax:  64 << 20,
		BuffersBytesMax:   shareOfRAM(2 << 30),
		QueueTotalMax:     shareOfRAM(4 << 30),
		OutstandingMax:    1 << 18,
		QueueBytesMax:     256 << 20,
		HeldMessagesMax:   65536,
		HeldBytesMax:      256 << 20,
		FlowsMax:          256,
		HandshakeTimeout:  5 * time.Second,
		HeartbeatInterval: 5 * time.Second,
		SlowTimeout:       30 * time.Second,
		LingerTimeout:     time.Second,
		DrainTimeout:      5 * time.Second,
		EventLoops:        1,
		ReadBytes:         64 << 10,
		SharedMemory:      true,
		ShmPrefix:         "brokerd",
		ShmMode:           0o600,
		ShmGID:            -1,
		TotalBytes:        total,
		NodeBytes:         min(nodeBytesDefault, total/2),
		CacheBytes:        min(256<<20, total/4),
		CacheAge:          30 * time.Second,
		RegionsMax:        4096,
		Lanes:             true,
		AdoptGrace:        10 * time.Second,
	}
}

// shareOfRAM is a quarter of the machine's RAM, between 256 MiB and most.
func shareOfRAM(most uint64) uint64 { return min(max(ramBytes()/4, 256<<20), most) }

// Validate finds settings that cannot work, all of them at once.
func (c *Config) Validate() error {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if c.Listener == nil {
		if _, _, err := net.SplitHostPort(c.Listen); err != nil {
			bad("listen: %q is not host:port", c.Listen)
		}
	}
	c.validateCredentials(bad)
	if c.HTTP != "" {
		if _, _, err := net.SplitHostPort(c.HTTP); err != nil {
			bad("http: %q is not host:port", c.HTTP)
		}
	}
	c.validateLimits(bad)
	if c.SharedMemory {
		c.validateMemory(bad)
	}
	return errors.Join(wrong...)
}

func (c *Config) validateLimits(bad func(string, ...any)) {
	if c.ConnectionsMax < 1 {
		bad("connections_max: %d, at least 1 is needed", c.ConnectionsMax)
	}
	if c.FrameBytesMax < wire.HandshakeFrameBytesMax || c.FrameBytesMax > 1<<31 {
		bad("frame_max: %d bytes are not between %d and %d", c.FrameBytesMax, wire.HandshakeFrameBytesMax, 1<<31)
	}
	if c.InlineBytesMax+FrameBytesSpare > c.FrameBytesMax {
		bad("inline_max: %d bytes and %d of metadata do not fit into a frame of %d bytes",
			c.InlineBytesMax, FrameBytesSpare, c.FrameBytesMax)
	}
	if c.OutboundBytesMax < wire.HandshakeFrameBytesMax {
		bad("outbound_max: %d bytes, at least %d are needed", c.OutboundBytesMax, wire.HandshakeFrameBytesMax)
	}
	if c.QueueBytesMax < wire.HandshakeFrameBytesMax {
		bad("queue_bytes_max: %d bytes, at least %d are needed", c.QueueBytesMax, wire.HandshakeFrameBytesMax)
	}
	if c.BuffersBytesMax < c.FrameBytesMax {
		bad("buffers_max: %d bytes, at least those of one frame, %d, are needed", c.BuffersBytesMax, c.FrameBytesMax)
	}
	if c.QueueTotalMax < c.QueueBytesMax {
		bad("queue_total_max: %d bytes are less than one input may have, %d", c.QueueTotalMax, c.QueueBytesMax)
	}
	if c.OutstandingMax < 1 {
		bad("outstanding_messages_max: %d, at least 1 is needed", c.OutstandingMax)
	}
	if c.HeldMessagesMax < 1 {
		bad("held_messages_max: %d, at least 1 is needed", c.HeldMessagesMax)
	}
	if c.FlowsMax < 1 || len(c.Flows) > c.FlowsMax {
		bad("dataflows_max: %d, at least %d is needed", c.FlowsMax, max(1, len(c.Flows)))
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{
		{"handshake_timeout", c.HandshakeTimeout}, {"heartbeat", c.HeartbeatInterval},
		{"slow_timeout", c.SlowTimeout}, {"linger_timeout", c.LingerTimeout}, {"drain_timeout", c.DrainTimeout},
		{"adopt_grace", c.AdoptGrace},
	} {
		if t.d < time.Millisecond || t.d > 24*time.Hour {
			bad("%s: %s is not between 1ms and 24h", t.name, t.d)
		}
	}
	if c.EventLoops < 1 || c.EventLoops > 64 {
		bad("event_loops: %d is not between 1 and 64", c.EventLoops)
	}
	if c.ReadBytes < 4096 || c.ReadBytes > 16<<20 || c.ReadBytes&(c.ReadBytes-1) != 0 {
		bad("read_bytes: %d is not a power of two between 4096 and 16 MiB", c.ReadBytes)
	}
}

func (c *Config) validateMemory(bad func(string, ...any)) {
	if c.ShmPrefix == "" {
		bad("shm_prefix: it is empty")
	} else if err := (alloc.Config{Prefix: c.ShmPrefix}).Validate(); err != nil {
		bad("shm_prefix: %w", err)
	}
	if c.ShmMode != 0o600 && c.ShmMode != 0o660 {
		bad("shm_mode: %04o is neither 0600 nor 0660", c.ShmMode)
	}
	if c.TotalBytes == 0 {
		bad("shm_limit: 0 bytes; switch shared memory off instead")
	}
	if c.NodeBytes == 0 || c.NodeBytes > c.TotalBytes {
		bad("shm_node_limit: %d bytes are not between 1 and shm_limit, %d", c.NodeBytes, c.TotalBytes)
	}
	if c.CacheBytes > c.TotalBytes {
		bad("shm_cache: %d bytes are more than shm_limit, %d", c.CacheBytes, c.TotalBytes)
	}
	if c.RegionsMax < 1 {
		bad("shm_regions_max: %d, at least 1 is needed", c.RegionsMax)
	}
}
