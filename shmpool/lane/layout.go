package lane

// The layout of a lane, in words of 8 bytes. Writers that may be different
// processes have cache lines (8 words) of their own.
const (
	magic = 0x3130454E414C5242 // "BRLANE01"

	// Line 0: constants. The broker writes them before the grant; both ends
	// compare them with what they were granted, and never read them again.
	magicWord     = 0
	capacityWord  = 1
	queueSizeWord = 2
	policyWord    = 3
	laneWord      = 4

	// Line 1: the producer pushes here, the router closes here.
	tailWord = 8
	// Line 2: the consumer claims here, producer and router evict here.
	headWord = 16
	// Line 3: the producer announces here that it waits for room.
	wantedWord = 24
	// Line 4: the producer's counters.
	refusedWord = 32
	failedWord  = 33
	// Line 5: the router's. What it has read from windows and the log does not have
	// has the words of a window.
	windowWord = 40
	loggedWord = 41
	notedWord  = 42
	// Lines 6 and 7: the drop windows.
	windowsWord = 48
	windowWords = 8

	entriesWord = 128
	entryWords  = 8

	// closedBit of TAIL: no push succeeds any more.
	closedBit = 1 << 63
)

// Words of a drop window.
const (
	windowCount = iota
	windowBytes
	windowSeqFirst
	windowSeqLast
	windowOldest
	windowNumber
)

// Words of an entry.
const (
	entrySeq = iota
	entryTime
	entryRegion
	entryOffset
	entryLength
	entryMetaRegion
	entryMetaOffset
	entryMetaLength
)

// entryAt returns the words of the entry at that index of the ring.
func entryAt(words []uint64, index uint32) *[entryWords]uint64 {
	at := entriesWord + entryWords*uint(index)
	return (*[entryWords]uint64)(words[at : at+entryWords])
}

// A head word has the messages taken in its low half and those evicted in its
// high half, both modulo 2^32, so that one compare-and-swap claims or evicts and
// counts in one.

func headTaken(head uint64) uint32   { return uint32(head) }
func headEvicted(head uint64) uint32 { return uint32(head >> 32) }

// headPosition returns the position of the oldest message, modulo 2^32.
func headPosition(head uint64) uint32 { return uint32(head) + uint32(head>>32) }

// headTake returns head after one more message was taken.
func headTake(head uint64) uint64 {
	return head&^0xFFFF_FFFF | uint64(uint32(head)+1)
}

// headEvict returns head after n more messages were evicted.
func headEvict(head uint64, n uint32) uint64 { return head + uint64(n)<<32 }
