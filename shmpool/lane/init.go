package lane

import (
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"github.com/brokerd/brokerd/wire"
)

// Init makes a lane of words, which are one slot of Geometry(cfg.QueueSize) or
// more: the broker calls it before either end knows of the lane. Entries are left
// as they are, because none is read before it is written. The error wraps
// ErrConfig, or ErrCorrupt if the memory is gone.
func Init(words []uint64, cfg Config) (err error) {
	if err := fits(words, cfg); err != nil {
		return err
	}
	defer guardError(debug.SetPanicOnFault(true), &err)
	for i := range words[:entriesWord] {
		atomic.StoreUint64(&words[i], 0)
	}
	for i, value := range constants(cfg) {
		atomic.StoreUint64(&words[i], value)
	}
	// Windows count from 1: number 0 marks one that is nobody's.
	atomic.StoreUint64(&words[windowWord], 1)
	return nil
}

// constants returns the words of line 0.
func constants(cfg Config) [laneWord + 1]uint64 {
	return [...]uint64{
		magicWord:     magic,
		capacityWord:  uint64(Capacity(cfg.QueueSize)),
		queueSizeWord: uint64(cfg.QueueSize),
		policyWord:    uint64(cfg.Policy),
		laneWord:      uint64(cfg.Lane),
	}
}

// fits returns nil if the lane can be in words.
func fits(words []uint64, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if need := Bytes(Capacity(cfg.QueueSize)); uint64(len(words)) < need/8 {
		return fmt.Errorf("lane: %w: queue size %d needs %d bytes, there are %d", ErrConfig, cfg.QueueSize, need, 8*len(words))
	}
	return nil
}

// check compares line 0 with what was granted: it guards against the wrong
// memory, not against a hostile peer, which can write anything there.
func check(words []uint64, cfg Config) (err error) {
	if err := fits(words, cfg); err != nil {
		return err
	}
	defer guardError(debug.SetPanicOnFault(true), &err)
	for i, want := range constants(cfg) {
		if have := atomic.LoadUint64(&words[i]); have != want {
			return fmt.Errorf("lane: %w: word %d of lane %d is %#x, want %#x", ErrCorrupt, i, uint64(cfg.Lane), have, want)
		}
	}
	return nil
}

// checkUnused returns nil if nothing was ever sent on the lane. An end that comes
// to a lane in use could not know what has become of its messages.
func checkUnused(words []uint64, id wire.RegionID, tailToo bool) (err error) {
	defer guardError(debug.SetPanicOnFault(true), &err)
	if head := atomic.LoadUint64(&words[headWord]); head != 0 {
		return fmt.Errorf("lane: %w: lane %d is in use: %d taken, %d evicted", ErrCorrupt, uint64(id), headTaken(head), headEvicted(head))
	}
	if tail := atomic.LoadUint64(&words[tailWord]) &^ closedBit; tailToo && tail != 0 {
		return fmt.Errorf("lane: %w: lane %d is in use: %d pushed", ErrCorrupt, uint64(id), tail)
	}
	return nil
}
