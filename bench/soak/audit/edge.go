package audit

import (
	"time"

	"github.com/brokerd/brokerd/bench/soak/books"
)

// Edge is everything that is known of one edge after a soak.
type Edge struct {
	From, To  string
	QueueSize int
	Lag       time.Duration
	Lives     []Life   // of the sender, the first one first
	Marks     []Mark   // in any order
	Crashes   []Crash  // in any order
	Records   []Record // in the order of the log
}

// Life is one process of the sender.
type Life struct {
	ID     uint32
	Killed time.Time // zero: it has ended in good order
	Sent   books.SentAccount
	Taken  books.TakenAccount // by the receiver
	Begun  []Tick             // when which number was begun, the first one first
}

// Tick says that messages from Number on were begun at Time or later.
type Tick struct {
	Time   time.Time
	Number uint64
}

// Place is a message of an edge.
type Place struct {
	Life   uint32 // of the sender
	Number uint64
}

// MarkKind says what a mark is about.
type MarkKind uint8

// The kinds of marks.
const (
	MarkReceiver   MarkKind = iota + 1 // another process of the receiver
	MarkConnection                     // the receiver or the sender has another connection
)

// Mark is a place where something happened to an end of the edge.
type Mark struct {
	Kind   MarkKind
	At     Place     // the last message before
	Died   time.Time // MarkReceiver: the process before; zero: it has ended in good order
	Joined time.Time // the new connection; zero: none came
	Broker uint64    // that it leads to
}

// Crash is the end of a broker that was killed.
type Crash struct {
	At     time.Time
	Broker uint64 // which one
	Next   uint64 // the one that came after it
	From   Place  // the last message that was delivered before At - Lag
	Whole  bool   // both ends brought the next one all lanes that they had
}

// Record is one record of the drop log.
type Record struct {
	Time        time.Time
	Broker      uint64
	Life        uint32 // of the sender; 0: unknown
	First, Last uint64
	Count       uint64
	Reason      string
	OnLane      bool
}

// Result is what an audit has come to.
type Result struct {
	From, To  string            `json:"-"`
	Sent      uint64            `json:"sent"` // or tried to
	Delivered uint64            `json:"delivered"`
	OnLane    uint64            `json:"on_lane"` // of these
	Bytes     uint64            `json:"bytes"`   // delivered
	Logged    map[string]uint64 `json:"logged"`  // by reason
	Missing   uint64            `json:"missing"`
	Excused   map[string]uint64 `json:"excused"` // of the missing ones, by gap, logged or not
	Gaps      int               `json:"gaps"`
	// Runs of records that overlap: those whose sum must be exact, and those that a
	// gap lies in.
	Vague  uint64   `json:"vague"` // drops in records that say nothing of their numbers
	Exact  int      `json:"exact"`
	Loose  int      `json:"loose"`
	Faults []string `json:"faults"`
}
