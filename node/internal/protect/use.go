package protect

// Use is what a piece of memory is for.
type Use uint8

// Uses.
const (
	Payload  Use = iota + 1 // of a received message
	Metadata                // of a received message
	Loan                    // a message to be sent
)

// End is what ended the time of a piece of memory.
type End uint8

// Ends.
const (
	Released  End = iota + 1 // Message.Release
	Published                // Loan.Publish
	Discarded                // Loan.Discard
	Forgotten                // the garbage collector found the last handle gone
)

// Owner says whose memory it is.
type Owner struct {
	Use  Use
	Node string // id
	Port string // id of the input or output
	Seq  uint64 // of the message; of a loan 0 until it is published
}
