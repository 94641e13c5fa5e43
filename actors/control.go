package actors

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/wire"
)

// parseRequest is a dataflow that a control connection brought. Parsing a large
// file takes longer than a router may; the shell has it done elsewhere.
type parseRequest struct {
	session ConnID
	id      uint32
	body    []byte // JSON of a wire.LoadRequest
}

type parseReply struct {
	session ConnID
	id      uint32
	flow    *dataflow.Flow
	owner   bool
	err     error
}

// Bounds of one control connection.
const (
	followsMax    = 16                             // streams
	unansweredMax = 8                              // requests that take time
	bodyBytesMax  = 2*dataflow.FileBytesMax + 4096 // of a load request: a file with its quotes escaped
	bodySmallMax  = 64 << 10                       // of all others
)

// controlMessage is the one list of what a control connection may say.
func (c *core) controlMessage(now time.Time, s *session, m *NodeMessage) *wire.Error {
	if request, ok := m.Other.(*wire.Request); ok {
		c.request(now, s, request)
		return nil
	}
	return wire.Errorf(wire.CodeWrongState, "%v is not for a control connection to send; it sends request", m.Kind)
}

// request answers one question. A bad one is answered, too: the connection
// goes on.
func (c *core) request(now time.Time, s *session, m *wire.Request) {
	most := bodySmallMax
	if m.Verb == wire.VerbLoad {
		most = bodyBytesMax
	}
	if len(m.Body) > most {
		c.reply(s, m.ID, nil, wire.Errorf(wire.CodeTooLarge, "body of %s: %d bytes, the limit is %d", m.Verb, len(m.Body), most))
		return
	}
	if m.Verb == wire.VerbStatus || m.Verb == wire.VerbLoad {
		if s.unanswered >= unansweredMax {
			c.reply(s, m.ID, nil, wire.Errorf(wire.CodeQuota, "%d requests wait for their answers; wait, too", s.unanswered))
			return
		}
		s.unanswered++
	}
	switch m.Verb {
	case wire.VerbStatus:
		c.statusFor = append(c.statusFor, statusRequest{session: s.id, id: m.ID})
		c.poolOut = append(c.poolOut, poolRequest{kind: poolStats})
	case wire.VerbDrops:
		var req wire.DropsRequest
		if c.body(s, m, &req) {
			c.requestDrops(now, s, m.ID, req)
		}
	case wire.VerbLoad:
		c.parseOut = append(c.parseOut, parseRequest{session: s.id, id: m.ID, body: m.Body})
	case wire.VerbUnload:
		var req wire.UnloadRequest
		if c.body(s, m, &req) {
			c.reply(s, m.ID, struct{}{}, c.unload(now, req.Name))
		}
	case wire.VerbStop:
		var req wire.StopRequest
		if c.body(s, m, &req) {
			c.reply(s, m.ID, struct{}{}, c.stopFlow(req.Dataflow, "asked to stop"))
		}
	default:
		c.reply(s, m.ID, nil, wire.Errorf(wire.CodeNotFound, "no verb %q; there are status, drops, load, unload, stop", m.Verb))
	}
}

func (c *core) body(s *session, m *wire.Request, into any) bool {
	if len(m.Body) == 0 {
		return true
	}
	if err := json.Unmarshal(m.Body, into); err != nil {
		c.reply(s, m.ID, nil, wire.Errorf(wire.CodeProtocol, "body of %s: %v", m.Verb, err))
		return false
	}
	return true
}

// reply answers request id with body, or with err unless that is nil.
func (c *core) reply(s *session, id uint32, body any, err *wire.Error) {
	rep := &wire.Reply{ID: id}
	if err != nil {
		rep.Code, rep.Text = err.Code, clip(err.Text, wire.TextBytesMax)
	} else {
		rep.Body = mustJSON(body)
	}
	c.send(s, rep)
}

// mustJSON encodes the types of package wire, which cannot fail.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("actors: %T as JSON: %v", v, err))
	}
	return b
}

func (c *core) requestDrops(now time.Time, s *session, id uint32, req wire.DropsRequest) {
	if req.Follow && len(s.follows) >= followsMax {
		c.reply(s, id, nil, wire.Errorf(wire.CodeQuota, "%d streams on one connection", followsMax))
		return
	}
	// What has been counted and not logged yet comes as a record of its own.
	c.drops.emit(now, true, c.writeDrop)
	c.send(s, &wire.Reply{ID: id, More: req.Follow, Body: mustJSON(c.dropTotals(now))})
	if req.Follow {
		s.follows[id] = struct{}{}
	}
}

// dropTotals lists what the log tells of every edge, by reason.
func (c *core) dropTotals(now time.Time) []wire.DropRecord {
	totals := []wire.DropRecord{}
	c.eachEdge(func(e *edge) {
		for p := range e.drops {
			for r := range e.drops[p] {
				if total := e.drops[p][r].total; total.count > 0 {
					rec := e.dropRecord(path(p), wire.DropReason(r), total, now)
					rec.Total = e.dropTotal(wire.DropReason(r))
					totals = append(totals, rec)
				}
			}
		}
	})
	return totals
}

// streamDrop sends one record to everybody who follows.
func (c *core) streamDrop(rec wire.DropRecord) {
	var body []byte
	for _, s := range c.sessions {
		for id := range s.follows {
			if body == nil {
				body = mustJSON(rec)
			}
			s.out = c.enc.Append(s.out, &wire.Reply{ID: id, More: true, Body: body})
		}
		if len(s.follows) > 0 {
			s.conn.Send(s.out)
			s.out = s.out[:0]
		}
	}
}

// parsed loads what was parsed on behalf of a control connection.
func (c *core) parsed(now time.Time, rep *parseReply) {
	s := c.sessions[rep.session]
	if s == nil {
		return // gone meanwhile: nobody would own the flow
	}
	s.unanswered--
	if rep.err != nil {
		c.reply(s, rep.id, nil, wire.Errorf(wire.CodeBadDataflow, "%v", rep.err))
		return
	}
	var owner ConnID
	if rep.owner {
		owner = s.id
	}
	err := c.load(now, rep.flow, owner, s.conn.RemoteAddr())
	c.reply(s, rep.id, wire.LoadReply{Name: rep.flow.Name}, err)
}

// load adds a flow. One that is there already is only accepted if it is the
// same, so that two people cannot pull each other's wires.
func (c *core) load(now time.Time, f *dataflow.Flow, owner ConnID, by string) *wire.Error {
	if old := c.flows[f.Name]; old != nil {
		if dataflow.Diff(old.def, f).Empty() {
			return nil
		}
		return wire.Errorf(wire.CodeDuplicateNode, "another dataflow %q is loaded already (%s); choose another name or unload it", f.Name, old.origin())
	}
	if len(c.flows) >= c.cfg.FlowsMax {
		return wire.Errorf(wire.CodeQuota, "%d dataflows are loaded, which is the limit", len(c.flows))
	}
	c.applyFlow(now, f, owner)
	c.journal.info("dataflow loaded", flowFields(f, by)...)
	return nil
}

func (c *core) unload(now time.Time, name string) *wire.Error {
	f := c.flows[name]
	if f == nil {
		return wire.Errorf(wire.CodeNotFound, "no dataflow %q is loaded; there is %s", name, list(keys(c.flows)))
	}
	c.removeFlow(now, f)
	return nil
}

// stopFlow asks every node of a flow to end.
func (c *core) stopFlow(name, reason string) *wire.Error {
	f := c.flows[name]
	if f == nil {
		return wire.Errorf(wire.CodeNotFound, "no dataflow %q is loaded; there is %s", name, list(keys(c.flows)))
	}
	for _, n := range f.nodes {
		if n.sess != nil {
			c.send(n.sess, &wire.Stop{Reason: reason})
		}
	}
	return nil
}

// closeControl ends what belonged to a control connection.
func (c *core) closeControl(now time.Time, s *session) {
	if s.role != wire.RoleControl {
		return
	}
	clear(s.follows)
	for _, name := range keys(c.flows) {
		if f := c.flows[name]; f.owner == s.id {
			c.removeFlow(now, f)
		}
	}
}

func (f *flow) origin() string {
	if f.owner != 0 {
		return fmt.Sprintf("by control connection %d", f.owner)
	}
	if f.configured {
		return "from " + f.def.File
	}
	return "by a control connection"
}

func (c *core) eachEdge(do func(*edge)) {
	for _, name := range keys(c.flows) {
		f := c.flows[name]
		for _, n := range f.sorted() {
			for _, e := range n.inputs {
				if !e.closed {
					do(e)
				}
			}
		}
	}
}

// sorted returns the nodes in order of their ids, for output that does not
// change from one look to the next.
func (f *flow) sorted() []*node {
	nodes := make([]*node, 0, len(f.nodes))
	for _, n := range f.nodes {
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b *node) int { return strings.Compare(a.id, b.id) })
	return nodes
}
