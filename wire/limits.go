package wire

import "math"

// Protocol versions that this package speaks.
const (
	VersionMin uint16 = 1
	VersionMax uint16 = 1
)

// Magic is the first field of Hello. Other protocols that reach the port by
// mistake fail on it.
const Magic = "brokerd"

// Limits of the wire format. A peer that goes over one of them has broken the
// protocol.
const (
	// FrameHeaderBytes is the length of a frame's length prefix.
	FrameHeaderBytes = 8
	// HandshakeFrameBytesMax is the longest body before Ready. Afterwards
	// Welcome.FrameMax applies.
	HandshakeFrameBytesMax = 65_536

	// ControlFrameBytesMax is the longest body that the broker takes from a control
	// connection after Ready, unless Welcome.FrameMax is less. A request carries one
	// dataflow file at most; in JSON some of its bytes take two.
	ControlFrameBytesMax = 2<<20 + 64<<10

	// AdoptFrameBytesMax is the longest body of Adopt and of Adopted, also if
	// Welcome.FrameMax is less: a node that has many regions and lanes must be able
	// to bring them. It holds as many as Adopt may have, with names as brokers make
	// them and ids of any length.
	AdoptFrameBytesMax = 4 << 20

	IDBytesMax    = 128   // ids of nodes, dataflows, outputs, inputs; verbs; instance
	TextBytesMax  = 1024  // names of shared memory objects, sources, reasons, texts
	AuthBytesMax  = 1024  // Hello.Auth
	NonceBytesMax = 1024  // Attach.Nonce, Welcome.ProbeLength
	TokensMax     = 65536 // Next.Done, Done.Tokens, a frame
	ItemsMax      = 65536 // Inputs.Items, a frame
	PortsMax      = 4096  // Ports.Outputs, Ports.Inputs

	MetadataBytesMax    = 16_384 // the encoded map
	MetadataEntriesMax  = 64
	MetadataKeyBytesMax = 128

	// NestingMax is how deep arrays and maps may nest in a body, the body's own
	// array included.
	NestingMax = 16
)

// WindowUnlimited in Flow.Window means that the output has no receiver with
// policy block.
const WindowUnlimited uint64 = math.MaxUint64
