package lane

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// Two processes at one lane: the test binary runs itself again as the other end.

const (
	childEnv  = "BROKERD_LANE_CHILD" // what the child is, and its setup
	peerBit   = 11
	laneID    = wire.RegionID(1)
	payloadID = wire.RegionID(2)
	bellsID   = wire.RegionID(3) // the producer's in slot 0
	otherBell = wire.RegionID(4)
	slotBytes = 1024
	// testPatience is far longer than anything takes, and short enough to fail.
	testPatience = 30 * time.Second
)

var testPrefix = fmt.Sprintf("brokerdlane%d", os.Getpid())

// TestMain fails if a test leaves a goroutine or a shared memory object behind.
func TestMain(m *testing.M) {
	if line := os.Getenv(childEnv); line != "" {
		if err := runChild(line); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		left, _ := filepath.Glob(filepath.Join(shmpool.Dir, testPrefix+"*"))
		for _, path := range left {
			_ = os.Remove(path)
		}
		if len(left) > 0 {
			fmt.Fprintln(os.Stderr, "left behind:", left)
			code = 1
		}
		os.Exit(code)
	}))
}

// setup is what both ends know.
type setup struct {
	role     string // of the child: "producer", "consumer", "router"
	prefix   string
	limit    uint32
	policy   wire.Policy
	slots    uint32
	messages int
}

func (s setup) String() string {
	return fmt.Sprintf("%s %s %d %d %d %d", s.role, s.prefix, s.limit, s.policy, s.slots, s.messages)
}

func (s setup) config() Config { return Config{Lane: laneID, QueueSize: s.limit, Policy: s.policy} }

func (s setup) payload() shmpool.Geometry {
	return shmpool.Geometry{SlotBytes: slotBytes, Slots: s.slots}
}

// shared is what one process has mapped.
type shared struct {
	setup
	lane, producerBell, consumerBell *Memory
	region                           *shmpool.Mapping
	ledger                           Ledger
}

// create makes the regions, as the broker does.
func create(tb testing.TB, s setup) *shared {
	tb.Helper()
	s.prefix = fmt.Sprintf("%s-%d", testPrefix, time.Now().UnixNano())
	bell := shmpool.Geometry{SlotBytes: BellSlotBytes, Slots: 1}
	for id, g := range map[wire.RegionID]shmpool.Geometry{
		laneID: Geometry(s.limit), payloadID: s.payload(), bellsID: bell, otherBell: bell,
	} {
		header := make([]byte, g.Bytes())
		shmpool.EncodeHeader(header, id, g)
		path := filepath.Join(shmpool.Dir, s.name(id))
		if err := os.WriteFile(path, header, 0o600); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = os.Remove(path) })
	}
	sh, err := s.open(shmpool.ReadWrite)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := sh.close(); err != nil {
			tb.Error(err)
		}
	})
	if err := Init(sh.lane.Words(), s.config()); err != nil {
		tb.Fatal(err)
	}
	return sh
}

func (s setup) name(id wire.RegionID) string { return fmt.Sprintf("%s-%d", s.prefix, id) }

func (s setup) open(access shmpool.Access) (sh *shared, err error) {
	sh = &shared{setup: s}
	if sh.lane, err = Map(s.name(laneID), laneID, Geometry(s.limit).SlotBytes); err != nil {
		return nil, err
	}
	if sh.producerBell, err = Map(s.name(bellsID), bellsID, BellSlotBytes); err != nil {
		return nil, err
	}
	if sh.consumerBell, err = Map(s.name(otherBell), otherBell, BellSlotBytes); err != nil {
		return nil, err
	}
	if sh.region, err = shmpool.Map(s.name(payloadID), payloadID, s.payload(), access); err != nil {
		return nil, err
	}
	sh.ledger = NewLedger(sh.region.LedgerWords())
	return sh, errors.Join(sh.lane.Prefault(), sh.region.Prefault())
}

func (sh *shared) close() error {
	return errors.Join(sh.lane.Close(), sh.producerBell.Close(), sh.consumerBell.Close(), sh.region.Close())
}

// pattern is what message seq looks like: its number in every word.
func pattern(b []byte, seq uint64) {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], seq*0x9E3779B97F4A7C15+uint64(i))
	}
}

func checkPattern(b []byte, seq uint64) error {
	for i := 0; i+8 <= len(b); i += 8 {
		if got, want := binary.LittleEndian.Uint64(b[i:]), seq*0x9E3779B97F4A7C15+uint64(i); got != want {
			return fmt.Errorf("message %d: %#x at %d, want %#x", seq, got, i, want)
		}
	}
	return nil
}

// sendSide does what a sending node does.
type sendSide struct {
	*shared
	producer  *Producer
	bell      *Bell // its own
	peer      *Bell
	lent      []bool
	refused   uint64
	evictions uint64
}

func newSendSide(sh *shared) (*sendSide, error) {
	p, err := NewProducer(sh.lane.Words(), sh.config())
	if err != nil {
		return nil, err
	}
	return &sendSide{
		shared: sh, producer: p, bell: NewBell(sh.producerBell.Words()), peer: NewBell(sh.consumerBell.Words()),
		lent: make([]bool, sh.slots),
	}, nil
}

// free finds a slot that nobody reads.
func (s *sendSide) free() (uint32, bool) {
	for i := range s.slots {
		if !s.lent[i] || !s.ledger.Held(i, 1<<peerBit) {
			s.lent[i] = true
			return i, true
		}
	}
	return 0, false
}

func (s *sendSide) take() (uint32, error) {
	for deadline := time.Now().Add(testPatience); ; {
		if slot, ok := s.free(); ok {
			return slot, nil
		}
		if time.Now().After(deadline) {
			return 0, errors.New("no slot becomes free")
		}
		s.bell.Arm()
		s.bell.WantMemory()
		if slot, ok := s.free(); ok {
			s.bell.Disarm()
			return slot, nil
		}
		s.bell.Sleep(time.Second)
	}
}

// send publishes one message; it returns what Push does.
func (s *sendSide) send(seq uint64) (Verdict, error) {
	slot, err := s.take()
	if err != nil {
		return Corrupt, err
	}
	offset := s.payload().SlotOffset(slot)
	length := 8 * (1 + seq*7919%(slotBytes/8))
	b, err := s.region.Slice(offset, length)
	if err != nil {
		return Corrupt, err
	}
	pattern(b, seq)
	s.ledger.Lend(slot, 1<<peerBit)
	d := Descriptor{Seq: wire.Seq(seq), TimeNS: int64(seq), Region: payloadID, Offset: offset, Length: length}
	for {
		v, victim, evicted := s.producer.Push(&d, uint64(slot))
		if evicted {
			s.evictions++
			s.ledger.Clear(uint32(victim), peerBit)
		}
		switch v {
		case Pushed:
			s.peer.Ring()
			return v, nil
		case Full:
			s.waitForRoom()
			continue
		case Refused:
			s.refused++
		}
		s.ledger.Clear(slot, peerBit)
		return v, nil
	}
}

func (s *sendSide) waitForRoom() {
	s.bell.Arm()
	s.producer.Want(int(s.limit+1) / 2)
	if n, v := s.producer.Room(); v != Full || n > 0 {
		s.producer.Unwant()
		s.bell.Disarm()
		return
	}
	s.bell.Sleep(time.Second)
}

// receiveSide does what a receiving node does.
type receiveSide struct {
	*shared
	consumer *Consumer
	bell     *Bell // its own
	peer     *Bell
	last     uint64
	got      uint64
	dropped  uint64
	// report is called with a message that was popped, before its slot is freed.
	report func(seq uint64)
}

func newReceiveSide(sh *shared) (*receiveSide, error) {
	c, err := NewConsumer(sh.lane.Words(), sh.config())
	if err != nil {
		return nil, err
	}
	return &receiveSide{
		shared: sh, consumer: c, bell: NewBell(sh.consumerBell.Words()), peer: NewBell(sh.producerBell.Words()),
		report: func(uint64) {},
	}, nil
}

// drain receives until the lane ends.
func (r *receiveSide) drain() error {
	deadline := time.Now().Add(testPatience)
	for {
		var d Descriptor
		v, dropped, ring := r.consumer.Pop(&d)
		if ring {
			r.peer.Ring()
		}
		r.dropped += dropped
		switch v {
		case Got:
			if err := r.read(&d); err != nil {
				return err
			}
		case Ended:
			return nil
		case Corrupt:
			return ErrCorrupt
		case Empty:
			if time.Now().After(deadline) {
				return errors.New("the lane does not end")
			}
			r.bell.Arm()
			if r.consumer.Ready() {
				r.bell.Disarm()
				continue
			}
			r.bell.Sleep(time.Second)
		}
	}
}

// read checks a message and frees its slot.
func (r *receiveSide) read(d *Descriptor) error {
	seq := uint64(d.Seq)
	if seq <= r.last || uint64(d.TimeNS) != seq || d.Region != payloadID {
		return fmt.Errorf("descriptor %+v after message %d", d, r.last)
	}
	b, err := r.region.Slice(d.Offset, d.Length)
	if err != nil {
		return err
	}
	slot, err := r.payload().SlotIndex(d.Offset)
	if err != nil {
		return err
	}
	r.last = seq
	r.got++
	r.report(seq)
	if err := checkPattern(b, seq); err != nil {
		return err
	}
	r.ledger.Clear(slot, peerBit)
	r.peer.GiveMemory()
	return nil
}

// runChild is the other end.
func runChild(line string) error {
	var s setup
	if _, err := fmt.Sscan(line, &s.role, &s.prefix, &s.limit, &s.policy, &s.slots, &s.messages); err != nil {
		return err
	}
	access := shmpool.ReadLedger
	if s.role != "consumer" {
		access = shmpool.ReadWrite
	}
	sh, err := s.open(access)
	if err != nil {
		return err
	}
	defer func() { _ = sh.close() }()
	switch s.role {
	case "producer":
		return runProducer(sh)
	case "router":
		return runRouter(sh)
	}
	return runConsumer(sh)
}

func runProducer(sh *shared) error {
	p, err := newSendSide(sh)
	if err != nil {
		return err
	}
	for seq := range uint64(sh.messages) {
		v, err := p.send(seq + 1)
		if err != nil {
			return err
		}
		if v == Closed {
			break
		}
		if v == Corrupt {
			return ErrCorrupt
		}
	}
	p.producer.CloseByOwner()
	p.peer.Ring()
	fmt.Println(p.evictions, p.refused)
	return nil
}

// runRouter looks at a lane that drops, and writes a log of it: count, first and
// last number of each record. The sender is in the same process: it is done with
// every drop before the router looks.
func runRouter(sh *shared) error {
	p, err := NewProducer(sh.lane.Words(), sh.config())
	if err != nil {
		return err
	}
	keeper := NewKeeper(sh.lane.Words(), sh.config(), nil)
	var told []Drops
	for seq := range uint64(sh.messages) {
		if v, _, _ := p.Push(&Descriptor{Seq: wire.Seq(seq + 1), TimeNS: 1, Region: payloadID, Length: 8}, seq); v == Corrupt {
			return ErrCorrupt
		}
		if seq%3 > 0 {
			continue
		}
		d, ok, err := keeper.Drops()
		if err != nil {
			return err
		}
		if ok {
			told = append(told, d)
		}
		if seq%2 == 0 || len(told) == 0 {
			continue // the log has no time
		}
		for _, d := range told {
			fmt.Println(d.Count, uint64(d.SeqFirst), uint64(d.SeqLast))
		}
		for _, d := range told {
			keeper.Confirm(d.Count)
		}
		told = nil
	}
	return nil
}

func runConsumer(sh *shared) error {
	r, err := newReceiveSide(sh)
	if err != nil {
		return err
	}
	fmt.Println(0) // no producer may be at work yet
	// One write a message, so that it is told before the process can die.
	r.report = func(seq uint64) { fmt.Println(seq) }
	return r.drain()
}

// child starts the other end.
func child(tb testing.TB, s setup, env ...string) *process {
	tb.Helper()
	executable, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	c := exec.Command(executable)
	c.Env = append(append(os.Environ(), childEnv+"="+s.String()), env...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := c.Start(); err != nil {
		tb.Fatal(err)
	}
	p := &process{command: c, lines: bufio.NewScanner(out)}
	if s.role == "consumer" && !p.lines.Scan() {
		tb.Fatal("the consumer does not start:", c.Wait())
	}
	return p
}

type process struct {
	command *exec.Cmd
	lines   *bufio.Scanner
}

// wait returns what the process has written, as numbers, and how it ended.
func (p *process) wait(tb testing.TB) ([]uint64, error) {
	tb.Helper()
	timer := time.AfterFunc(testPatience, func() { _ = p.command.Process.Kill() })
	defer timer.Stop()
	var numbers []uint64
	for p.lines.Scan() {
		for field := range strings.FieldsSeq(p.lines.Text()) {
			n, err := strconv.ParseUint(field, 10, 64)
			if err != nil {
				tb.Error(err)
			}
			numbers = append(numbers, n)
		}
	}
	return numbers, p.command.Wait()
}
