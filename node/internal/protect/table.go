package protect

import (
	"encoding/binary"
	"strings"
	"time"
)

// The table is memory that the vault writes and the monitor reads. It has entries
// of one size; the first word of an entry says whether it holds something, and is
// written last.
const (
	entryBytes = 1024
	entries    = 4096
	tableBytes = entries * entryBytes
)

// Offsets in an entry, in bytes.
const (
	entryState = 0  // u32: stateNone, stateLive, stateSpent
	entryUse   = 4  // u8
	entryEnd   = 5  // u8
	entryTexts = 6  // 2 × u16: length of node/port, of the stack
	entryStart = 16 // u64: first address, that of a page
	entryLimit = 24 // u64: first address behind, the guard page included
	entryData  = 32 // u64: first address of the bytes
	entrySize  = 40 // u64: their number
	entrySeq   = 48 // u64
	entryTime  = 56 // i64: when it ended, Unix nanoseconds
	entryText  = 64 // node/port, then the stack
)

const (
	stateNone uint32 = iota
	stateLive
	stateSpent
)

// portBytesMax bounds node/port in an entry; the stack has the rest.
const portBytesMax = 300

// entry is one line of the table.
type entry struct {
	state        uint32
	owner        Owner
	end          End
	start, limit uint64
	data, size   uint64
	ended        time.Time
	stack        string // lines, innermost first
}

// write enters e. b is the entry's memory; publish writes its first word.
func (e *entry) write(b []byte, publish func(state uint32)) {
	publish(stateNone)
	b[entryUse], b[entryEnd] = byte(e.owner.Use), byte(e.end)
	port := e.owner.Node + "/" + e.owner.Port
	port = port[:min(len(port), portBytesMax)]
	stack := e.stack[:min(len(e.stack), entryBytes-entryText-len(port))]
	le := binary.LittleEndian
	le.PutUint16(b[entryTexts:], uint16(len(port)))
	le.PutUint16(b[entryTexts+2:], uint16(len(stack)))
	le.PutUint64(b[entryStart:], e.start)
	le.PutUint64(b[entryLimit:], e.limit)
	le.PutUint64(b[entryData:], e.data)
	le.PutUint64(b[entrySize:], e.size)
	le.PutUint64(b[entrySeq:], e.owner.Seq)
	le.PutUint64(b[entryTime:], uint64(e.ended.UnixNano()))
	copy(b[entryText:], port)
	copy(b[entryText+len(port):], stack)
	publish(e.state)
}

// readEntry is the monitor's side. Nobody writes any more.
func readEntry(b []byte) (e entry, ok bool) {
	le := binary.LittleEndian
	e.state = le.Uint32(b[entryState:])
	port, stack := int(le.Uint16(b[entryTexts:])), int(le.Uint16(b[entryTexts+2:]))
	if e.state != stateLive && e.state != stateSpent || entryText+port+stack > entryBytes {
		return e, false
	}
	e.owner.Use, e.end = Use(b[entryUse]), End(b[entryEnd])
	e.start, e.limit = le.Uint64(b[entryStart:]), le.Uint64(b[entryLimit:])
	e.data, e.size = le.Uint64(b[entryData:]), le.Uint64(b[entrySize:])
	e.owner.Seq, e.ended = le.Uint64(b[entrySeq:]), time.Unix(0, int64(le.Uint64(b[entryTime:])))
	e.owner.Node, e.owner.Port, _ = strings.Cut(string(b[entryText:entryText+port]), "/")
	e.stack = string(b[entryText+port : entryText+port+stack])
	return e, true
}

// find looks an address up.
func find(table []byte, address uint64) (entry, bool) {
	for at := 0; at+entryBytes <= len(table); at += entryBytes {
		if e, ok := readEntry(table[at:]); ok && address >= e.start && address < e.limit {
			return e, true
		}
	}
	return entry{}, false
}
