package wire

import "time"

// The verbs of Request.
const (
	VerbStatus = "status" // body {}; reply Status
	VerbDrops  = "drops"  // body DropsRequest; reply []DropRecord, then one DropRecord a Reply
	VerbLoad   = "load"   // body LoadRequest; reply LoadReply
	VerbUnload = "unload" // body UnloadRequest; reply {}
	VerbStop   = "stop"   // body StopRequest; reply {}
)

// DropsRequest is the body of VerbDrops.
type DropsRequest struct {
	Follow bool `json:"follow"` // go on with a Reply for each record of the drop log
}

// LoadRequest is the body of VerbLoad.
type LoadRequest struct {
	Name  string `json:"name"`  // of the dataflow; empty: the one in the YAML
	YAML  string `json:"yaml"`  // the file's content
	Owner bool   `json:"owner"` // unload when this control connection closes
}

// LoadReply is the reply to VerbLoad.
type LoadReply struct {
	Name string `json:"name"`
}

// UnloadRequest is the body of VerbUnload.
type UnloadRequest struct {
	Name string `json:"name"` // of the dataflow
}

// StopRequest is the body of VerbStop.
type StopRequest struct {
	Dataflow string `json:"dataflow"`
}

// Status is the reply to VerbStatus. Counters count since the broker's start.
type Status struct {
	Version       string           `json:"version"`
	Instance      string           `json:"instance"`
	UptimeSeconds float64          `json:"uptime_seconds"`
	Addr          string           `json:"addr"`
	Connections   int              `json:"connections"`
	Nodes         []NodeStatus     `json:"nodes"`
	Edges         []EdgeStatus     `json:"edges"`
	Memory        MemoryStatus     `json:"memory"`
	Dataflows     []DataflowStatus `json:"dataflows"`
	Counters      Counters         `json:"counters"`
}

// NodeStatus is one node of a dataflow, connected or not.
type NodeStatus struct {
	Dataflow         string  `json:"dataflow"`
	Node             string  `json:"node"`
	Connected        bool    `json:"connected"`
	Local            bool    `json:"local"`        // payloads go through shared memory
	LocalReason      string  `json:"local_reason"` // why not
	RemoteAddr       string  `json:"remote_addr"`
	Client           string  `json:"client"` // library and version
	ConnectedSeconds float64 `json:"connected_seconds"`
	Regions          int     `json:"regions"`       // leased to it
	RegionBytes      uint64  `json:"region_bytes"`  // of these
	HeldBytes        uint64  `json:"held_bytes"`    // of others' messages that it has not given back
	HeldMessages     int     `json:"held_messages"` // the same, counted
	KeptBytes        uint64  `json:"kept_bytes"`    // of its own memory, with evacuated messages
	KeptMessages     uint64  `json:"kept_messages"` // evacuated and not released
	Stuck            uint64  `json:"stuck"`         // messages that it could not evacuate in time
	StuckReason      string  `json:"stuck_reason"`  // why not
}

// EdgeStatus is one edge: an output to an input.
type EdgeStatus struct {
	Dataflow     string            `json:"dataflow"`
	From         string            `json:"from"` // "camera/image"
	To           string            `json:"to"`   // "edges/frame"
	Policy       string            `json:"policy"`
	QueueSize    int               `json:"queue_size"`  // messages
	Queued       int               `json:"queued"`      // waiting in the broker
	InFlight     int               `json:"in_flight"`   // delivered, not yet consumed
	Held         int               `json:"held"`        // delivered, token not yet back
	Path         string            `json:"path"`        // "brokered"
	PathReason   string            `json:"path_reason"` // why this path
	Published    uint64            `json:"published"`   // messages
	Delivered    uint64            `json:"delivered"`   // messages
	Dropped      uint64            `json:"dropped"`     // messages; the sum of Drops
	NoReceiver   uint64            `json:"no_receiver"` // messages published while the receiver was away
	Bytes        uint64            `json:"bytes"`       // of delivered payload
	Drops        map[string]uint64 `json:"drops"`       // messages by reason
	Evacuated    uint64            `json:"evacuated"`   // messages that the receiver has moved out of shared memory
	LatencyP50MS float64           `json:"latency_p50_ms"`
	LatencyP99MS float64           `json:"latency_p99_ms"`
}

// MemoryStatus is the state of the pool of regions.
type MemoryStatus struct {
	LimitBytes     uint64 `json:"limit_bytes"`
	UsedBytes      uint64 `json:"used_bytes"`    // all regions together
	CachedBytes    uint64 `json:"cached_bytes"`  // of these, free for the next lease
	RetiredBytes   uint64 `json:"retired_bytes"` // of these, unlinked but still held
	Regions        int    `json:"regions"`
	CachedRegions  int    `json:"cached_regions"`
	RetiredRegions int    `json:"retired_regions"`
	CreatedTotal   uint64 `json:"created_total"`  // regions
	ReusedTotal    uint64 `json:"reused_total"`   // regions
	UnlinkedTotal  uint64 `json:"unlinked_total"` // regions
}

// DataflowStatus is one loaded dataflow.
type DataflowStatus struct {
	Name      string `json:"name"`
	Source    string `json:"source"` // file, or the control connection
	Nodes     int    `json:"nodes"`
	Edges     int    `json:"edges"`
	Connected int    `json:"connected"` // nodes
}

// Counters of the whole broker.
type Counters struct {
	MessagesIn         uint64 `json:"messages_in"`
	MessagesOut        uint64 `json:"messages_out"`
	BytesIn            uint64 `json:"bytes_in"`           // of payload
	BytesOut           uint64 `json:"bytes_out"`          // of payload
	PayloadCopyBytes   uint64 `json:"payload_copy_bytes"` // copied by the broker out of shared memory
	Drops              uint64 `json:"drops"`              // messages
	NoReceiver         uint64 `json:"no_receiver"`        // messages
	ProtocolErrors     uint64 `json:"protocol_errors"`    // connections closed for one
	AuthFailures       uint64 `json:"auth_failures"`
	RefusedConnections uint64 `json:"refused_connections"`
	Tokens             int    `json:"tokens"`             // outstanding now
	EvacuatedMessages  uint64 `json:"evacuated_messages"` // that receivers have moved out of shared memory
	EvacuatedBytes     uint64 `json:"evacuated_bytes"`    // of their payload

	InlineFallbackMessages uint64 `json:"inline_fallback_messages"` // that came inline for want of shared memory
	InlineFallbackBytes    uint64 `json:"inline_fallback_bytes"`    // of their payload
}

// DropRecord is one record of the drop log, or the totals of one edge and
// reason.
type DropRecord struct {
	Time      time.Time `json:"time"`
	Dataflow  string    `json:"dataflow"`
	From      string    `json:"from"`
	To        string    `json:"to"`
	Reason    string    `json:"reason"`
	Policy    string    `json:"policy"`
	Count     uint64    `json:"count"` // messages since the previous record
	Total     uint64    `json:"total"` // messages since the broker's start
	Bytes     uint64    `json:"bytes"` // of payload
	SeqFirst  uint64    `json:"seq_first"`
	SeqLast   uint64    `json:"seq_last"`
	QueueSize int       `json:"queue_size"`
	AgeMaxMS  float64   `json:"age_max_ms"`
	Path      string    `json:"path"`
	Sender    uint64    `json:"sender_session"` // session of whom these numbers are; 0: a total, a timer, or one that this broker does not know
}
