package lane

import (
	"errors"
	"time"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

func Init(words []uint64, cfg Config) {}

type Producer struct{}

func NewProducer(words []uint64, cfg Config) (*Producer, error) { return nil, errors.ErrUnsupported }
func (p *Producer) Push(d *Descriptor, cookie uint64) (v Verdict, victim uint64, evicted bool) {
	return Corrupt, 0, false
}
func (p *Producer) Room() (int, Verdict)                     { return 0, Corrupt }
func (p *Producer) Want(room int)                            {}
func (p *Producer) Unwant()                                  {}
func (p *Producer) Failed(count uint64)                      {}
func (p *Producer) Closed() bool                             { return true }
func (p *Producer) Tail() uint64                             { return 0 }
func (p *Producer) Since(from uint64, f func(cookie uint64)) {}
func (p *Producer) CloseByOwner()                            {}

type Consumer struct{}

func NewConsumer(words []uint64, cfg Config) (*Consumer, error) { return nil, errors.ErrUnsupported }
func (c *Consumer) Pop(d *Descriptor) (v Verdict, dropped uint64, ringProducer bool) {
	return Corrupt, 0, false
}
func (c *Consumer) Ready() bool { return true }

type Counters struct {
	Pushed, Taken, Evicted, Refused uint64
	Queued                          uint32
	Closed                          bool
}
type Drops struct {
	Count, Bytes      uint64
	SeqFirst, SeqLast wire.Seq
	OldestNS          int64
	Total             uint64
}
type Withdrawn struct {
	From              uint64
	Count             uint32
	Bytes             uint64
	SeqFirst, SeqLast wire.Seq
	OldestNS          int64
	Total             uint64
}
type Keeper struct{}

func NewKeeper(words []uint64, cfg Config, release func()) *Keeper { return &Keeper{} }
func (k *Keeper) Close() error                                     { return nil }
func (k *Keeper) Cut() (Withdrawn, error)                          { return Withdrawn{}, nil }
func (k *Keeper) Counters() (Counters, error)                      { return Counters{}, nil }
func (k *Keeper) Drops() (Drops, bool, error)                      { return Drops{}, false, nil }
func (k *Keeper) Remainder() (Drops, bool)                         { return Drops{}, false }
func (k *Keeper) Confirm(total uint64)                             {}
func (k *Keeper) Release()                                         {}

type Ledger struct{}

func NewLedger(words []uint64) Ledger               { return Ledger{} }
func (l Ledger) Lend(slot uint32, mask uint64)      {}
func (l Ledger) Clear(slot uint32, bit uint8)       {}
func (l Ledger) Held(slot uint32, mask uint64) bool { return true }

type Bell struct{}

func NewBell(words []uint64) *Bell               { return &Bell{} }
func (b *Bell) Arm()                             {}
func (b *Bell) Disarm()                          {}
func (b *Bell) Sleep(timeout time.Duration) bool { return false }
func (b *Bell) Ring() bool                       { return false }
func (b *Bell) WantMemory()                      {}
func (b *Bell) GiveMemory() bool                 { return false }

func Supported() bool { return false }

type Memory struct{ m *shmpool.Mapping }

func Map(name string, id wire.RegionID, slotBytes uint64) (*Memory, error) {
	return nil, errors.ErrUnsupported
}
func (m *Memory) Words() []uint64 { return nil }
func (m *Memory) Prefault() error { return nil }
func (m *Memory) Close() error    { return nil }
