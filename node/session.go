package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

// clientName is what the broker logs about this library.
const clientName = "brokerd-go/1"

// session is one connection to the broker. What it has of the broker's shared
// memory is its estate.
type session struct {
	// Immutable after the handshake.
	n       *Node
	link    *link
	welcome wire.Welcome
	local   bool
	reason  string // why not local
	lanes   bool   // both sides know lanes
	// evacuates: both sides know how messages get out of shared memory.
	evacuates bool
	estate    *estate
	probe     *shmpool.Probe // until the estate has it; nil unless local
	ports     *wire.Ports    // the first; valid until run
	begun     time.Time
	workers   sync.WaitGroup
	soon      chan struct{} // capacity 1: there is something to tend

	// Owned by the goroutine that reads.
	frames  *frameReader
	decoder *wire.Decoder
	// unmapped are the announced regions that could not be mapped; the user was
	// told of each.
	unmapped map[wire.RegionID]struct{}

	// adopting: the broker has not yet said what it takes over of the estate, which
	// is that of the session before.
	adopting bool

	// Guarded by Node.receiver.mu.
	recv sessionReceive
}

// dial makes one try to connect, handshake included.
func (n *Node) dial(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DialTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", n.cfg.Addr)
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetNoDelay(true) // frames are gathered here, not in the kernel
	}
	if n.cfg.TLS != nil {
		if conn, err = secure(ctx, conn, n.cfg.Addr, n.cfg.TLS); err != nil {
			return nil, err
		}
	}
	// The context may end in the middle of the handshake.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	s := &session{
		n: n, link: newLink(conn, &n.stats), begun: time.Now(),
		frames: newFrameReader(conn), decoder: wire.NewDecoder(), soon: make(chan struct{}, 1),
	}
	s.workers.Go(s.link.writer)
	ports, err := s.handshake()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if cause := ctx.Err(); cause != nil && !isRefusal(err) {
			err = fmt.Errorf("handshake: %w", cause)
		}
		s.end(err)
		return nil, err
	}
	s.ports = ports
	if s.estate == nil {
		s.estate = newEstate(n, s.welcome.Instance, s.lanes)
		s.estate.memory.attach(s.link)
	}
	if s.probe != nil {
		s.estate.probes = append(s.estate.probes, s.probe)
		s.probe = nil
	}
	return s, nil
}

// handshake takes the connection from Hello to the first Ports.
func (s *session) handshake() (*wire.Ports, error) {
	cfg := &s.n.cfg
	hello := &wire.Hello{
		VersionMin: wire.VersionMin, VersionMax: wire.VersionMax, Role: wire.RoleNode,
		Auth: cfg.AuthToken, Dataflow: cfg.Dataflow, Node: cfg.Node, Client: clientName,
	}
	if !cfg.NoSharedMemory {
		hello.Features |= wire.FeatureInline
	}
	able := lane.Supported() && !cfg.NoLanes && !cfg.NoSharedMemory
	if able {
		hello.Features |= wire.FeatureLanes
	}
	if shmpool.MoveSupported() && !cfg.NoSharedMemory {
		hello.Features |= wire.FeatureEvacuation
	}
	if cfg.Takeover {
		hello.Flags |= wire.FlagTakeover
	}
	s.link.send(hello)
	welcome, err := expect[*wire.Welcome](s)
	if err != nil {
		return nil, err
	}
	if v := welcome.Version; v < wire.VersionMin || v > wire.VersionMax {
		return nil, wire.Errorf(wire.CodeVersion, "broker speaks version %d, this library %d to %d", v, wire.VersionMin, wire.VersionMax)
	}
	s.welcome = *welcome
	nonce, notLocal := s.openProbe()
	s.evacuates = hello.Features&welcome.Features&wire.FeatureEvacuation != 0
	s.lanes = able && welcome.Features&wire.FeatureLanes != 0
	s.adopting = s.lanes && len(nonce) > 0 && s.n.estate.outlives(s.welcome.Instance)
	s.link.send(&wire.Attach{Nonce: nonce, Adopting: s.adopting})
	ready, err := expect[*wire.Ready](s)
	if err != nil {
		return nil, err
	}
	s.frames.max = s.welcome.FrameMax
	s.local, s.reason = ready.Local && s.probe != nil, ready.Reason
	if notLocal != "" {
		s.reason = notLocal
	}
	if !s.local && s.probe != nil {
		_ = s.probe.Close() // read-only, nothing to lose
		s.probe = nil
	}
	s.lanes = s.lanes && s.local
	s.link.inlineMax = s.inlineMax()
	if s.adopting {
		s.offerEstate()
	}
	ports, err := expect[*wire.Ports](s)
	if err != nil {
		return nil, err
	}
	return ports, nil
}

// openProbe returns the nonce of the broker's probe file, with the session's lock
// taken, or says why this node is not local.
func (s *session) openProbe() (nonce []byte, why string) {
	w := &s.welcome
	switch {
	case s.n.cfg.NoSharedMemory:
		return nil, "switched off by the node"
	case w.ProbeName == "":
		return nil, "" // the broker says why in Ready
	}
	probe, nonce, err := shmpool.OpenProbe(w.ProbeName, w.ProbeOffset, w.ProbeLength)
	if err != nil {
		return nil, err.Error()
	}
	// The lock is taken before the broker can know that this node maps anything.
	if err := probe.Lock(w.Session); err != nil {
		return nil, errors.Join(err, probe.Close()).Error()
	}
	s.probe = probe
	return nonce, ""
}

// expect reads the next message of the handshake. One that takes long on a busy
// machine may have a Ping in it.
func expect[M wire.Message](s *session) (M, error) {
	var want M
	for {
		m, err := s.read()
		if err != nil {
			return want, err
		}
		switch m := m.(type) {
		case M:
			return m, nil
		case *wire.Ping:
			s.link.send(&wire.Pong{Nonce: m.Nonce})
		case *wire.Error:
			return want, &wire.Error{Code: m.Code, Text: m.Text}
		default:
			return want, wire.Errorf(wire.CodeWrongState, "broker sent %s in the handshake, expected %s", m.Kind(), want.Kind())
		}
	}
}

// read returns the next message. It is valid until the next read.
func (s *session) read() (wire.Message, error) {
	for {
		body, err := s.frames.next()
		if err != nil {
			return nil, err
		}
		m, err := s.decoder.Decode(body)
		if errors.Is(err, wire.ErrUnknownOptional) {
			continue
		}
		return m, err
	}
}

// run reads until the connection is over, and returns why.
func (s *session) run() error {
	for {
		m, err := s.read()
		if err == nil {
			err = s.handle(m)
		}
		if err != nil {
			if cause := s.link.cause(); cause != nil {
				return cause // the writer or Close found it first
			}
			if errors.Is(err, wire.ErrProtocol) || errors.Is(err, wire.ErrWrongState) {
				s.complain(err)
			}
			return err
		}
	}
}

// complain tells the broker which rule it broke, for its log. The connection ends
// right after, so the message has to be out first.
func (s *session) complain(err error) {
	ctx, cancel := context.WithTimeout(s.n.life, closeTimeout)
	defer cancel()
	s.link.send(wire.ErrorFor(err))
	_ = s.link.waitIdle(ctx) // a broker that does not read misses it
}

// handle lists every message that a broker may send to an established node.
func (s *session) handle(m wire.Message) error {
	switch m := m.(type) {
	case *wire.Inputs:
		return s.n.receiver.deliver(s, m.Items, s.frames.chunk)
	case *wire.Done:
		return s.estate.memory.settle(m.Tokens)
	case *wire.Flow:
		return s.flow(m)
	case *wire.RegionGrant:
		err := s.estate.memory.granted(m)
		s.startLanes()
		return err
	case *wire.RegionDenied:
		s.estate.memory.denied(m)
		s.startLanes()
	case *wire.RegionRetire:
		s.estate.memory.retire(m.Region)
	case *wire.RegionOpen:
		s.openRegion(m)
	case *wire.RegionClose:
		s.closeRegion(m.Region)
	case *wire.LaneGrant:
		return s.laneGrant(m)
	case *wire.LaneStart:
		s.n.receiver.laneStart(m)
	case *wire.LaneClose:
		s.laneClose(m)
	case *wire.LaneFault:
		s.laneFault(m)
	case *wire.Adopted:
		return s.adopted(m)
	case *wire.Ports:
		s.setPorts(m)
	case *wire.InputClosed:
		return s.inputClosed(m)
	case *wire.Stop:
		s.n.receiver.post(Event{Kind: EventStop, Reason: m.Reason})
	case *wire.Ping:
		s.link.send(&wire.Pong{Nonce: m.Nonce})
	case *wire.Pong:
	case *wire.Error:
		return &wire.Error{Code: m.Code, Text: m.Text}
	default:
		return wire.Errorf(wire.CodeWrongState, "a node does not expect %s", m.Kind())
	}
	return nil
}

func (s *session) flow(m *wire.Flow) error {
	o := s.n.outputAt(s, m.Output)
	if o == nil {
		return wire.Errorf(wire.CodeProtocol, "flow: output %d was not announced", m.Output)
	}
	o.flow(s, m)
	return nil
}

func (s *session) inputClosed(m *wire.InputClosed) error {
	in := s.n.receiver.input(s, m.Input)
	if in == nil {
		return wire.Errorf(wire.CodeProtocol, "input_closed: input %d was not announced", m.Input)
	}
	s.n.receiver.post(Event{Kind: EventInputClosed, Input: in.info.ID, Reason: m.Reason})
	return nil
}

// setPorts takes over the first Ports and those of later reloads.
func (s *session) setPorts(m *wire.Ports) {
	s.n.receiver.setInputs(s, m.Inputs)
	s.n.bindOutputs(s, m.Outputs)
}

// openRegion maps at once: the region may be unlinked before its first message
// is read here. A failure is told once per region, however often that is
// announced; its messages are rejected, each once.
func (s *session) openRegion(m *wire.RegionOpen) {
	err := s.estate.openView(m)
	s.n.receiver.look() // a message on a lane may wait for it
	if err == nil {
		delete(s.unmapped, m.Region)
		return
	}
	if _, known := s.unmapped[m.Region]; !known && len(s.unmapped) < shmpool.CacheRegionsMax {
		if s.unmapped == nil {
			s.unmapped = make(map[wire.RegionID]struct{})
		}
		s.unmapped[m.Region] = struct{}{}
		s.n.log.Error("shared memory region cannot be mapped", "region", uint64(m.Region), "error", err)
		s.n.receiver.post(Event{Kind: EventError, Err: fmt.Errorf("%w: messages in it are rejected: %w", ErrSharedMemory, err)})
	}
}

func (s *session) closeRegion(id wire.RegionID) {
	delete(s.unmapped, id)
	err := s.estate.closeView(id)
	if err != nil && !errors.Is(err, shmpool.ErrUnknownRegion) { // unknown: its opening had failed
		s.n.log.Warn("shared memory region cannot be unmapped", "region", uint64(id), "error", err)
	}
}

// end closes the connection and waits for its goroutines. Called by the goroutine
// that reads, once.
func (s *session) end(cause error) {
	s.link.fail(cause)
	s.workers.Wait()
	s.frames.close()
	if s.probe != nil { // the handshake has failed
		_ = s.probe.Close() // read-only, nothing to lose
	}
}

func (s *session) logAttrs() []any {
	return []any{
		slog.String("addr", s.n.cfg.Addr), slog.String("instance", s.welcome.Instance),
		slog.Uint64("session", uint64(s.welcome.Session)), slog.Bool("local", s.local), slog.String("not_local_reason", s.reason),
	}
}
