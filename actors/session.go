package actors

import (
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

type sessionState uint8

const (
	sessionOpened  sessionState = iota // waiting for Hello
	sessionGreeted                     // Welcome sent, waiting for Attach
	sessionJoined                      // a node
	sessionControl                     // a control connection
	sessionLeft                        // closed; an orphan may still hold messages
)

// session is one connection and everything that is charged to it.
type session struct {
	id       ConnID
	conn     Conn
	state    sessionState
	since    time.Time
	client   string
	role     wire.Role
	takeover bool
	node     *node // nil for control connections
	local    bool
	// remoteReason says why a node is not local.
	remoteReason string
	leaving      string // reason of Bye; empty: the connection breaks off

	out   []byte // frames to send at the next flush
	dirty bool   // listed for the next flush

	// As a receiver. limit, consumed and delivered count items since the start
	// of the session, as Next does.
	inputs                     []*edge // by wire.InputIndex
	limit, consumed, delivered uint64
	unconsumed                 ring[delivery]
	flight                     uint64 // inline bytes in unconsumed
	// inHand is the input of the oldest unconsumed item if that went to a user
	// who was waiting for it: it is not counted in edge.out, because it does not
	// wait anywhere. nil: there is none.
	inHand     *edge
	ready      ring[*edge]               // edges with something to deliver, in turn
	closings   []*edge                   // edges that owe an InputClosed
	held       int                       // holds in the token table
	opened     map[*region]wire.RegionID // with the bell of the region's owner, as the node knows it
	starting   []*edgeLane               // lanes that it is to read after what waits in the broker
	blind      map[*region]struct{}      // announced, but the node cannot map them
	copying    *edge                     // a payload is being read for this input; nil: none
	copied     *message                  // the one that is being read
	evacuates  bool                      // it moves what it holds for too long to memory of its own
	keeps      wire.Kept                 // how much of that it has
	copiedLost uint64                    // dropped before that, since the last delivered message
	framing    bool                      // out ends in an Inputs frame that is not complete
	frameStart int

	// As a sender.
	outputs     []*output // by wire.OutputIndex
	regions     map[wire.RegionID]*region
	regionBytes uint64
	outstanding int          // messages in its regions that are not done
	inlines     bool         // it may send inline what gets no shared memory
	asking      int          // region requests that the pool has not answered
	done        []wire.Token // to report at the next flush

	// Of lanes.
	speaksLanes bool // as the broker does
	bell        bell
	lanes       []*edgeLane // that it has an end of
	laneBits    uint64      // of the ledger, in use
	laned       bool        // has been the sender of a lane
	adopting    *adoption   // nil: not, or no more

	follows    map[uint32]struct{} // control: requests that stream drops
	unanswered int                 // control: requests
	orphan     orphan

	stuckLogged time.Time // when the log was told that it cannot evacuate
}

// delivery is one item that the node has not yet reported as consumed.
type delivery struct {
	edge     *edge
	sender   ConnID
	seq      wire.Seq
	bytes    uint64 // of payload
	inline   uint64 // of payload and metadata that travelled in the frame
	timeNS   int64
	rejected bool // and counted as dropped
	// counted says that the item takes up room in edge.out.
	counted bool
}

// connID names a session in the log; 0 for none.
func (s *session) connID() ConnID {
	if s == nil {
		return 0
	}
	return s.id
}

// region is one leased shared memory region.
type region struct {
	id       wire.RegionID
	name     string
	geometry shmpool.Geometry
	owner    *session
	messages int                                  // alive messages that lie in it
	busy     [(shmpool.SlotsMax + 63) / 64]uint64 // a bit for each slot with one of them
	retired  bool                                 // unlinked: nobody can open it any more
	returned bool                                 // with the pool again
}

// waits reports whether the user has consumed everything, asks for more, and can
// be served.
func (s *session) waits() bool {
	return s.consumed == s.delivered && s.delivered < s.limit && s.copying == nil
}

// joined reports whether frames of node traffic may be sent to s.
func (s *session) joined() bool { return s.state == sessionJoined }

// label is how log lines name the peer.
func (s *session) label() string {
	if s.node == nil {
		return s.conn.RemoteAddr()
	}
	return s.node.flow.name + "/" + s.node.id
}
