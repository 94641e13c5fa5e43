package protect

import (
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/shmpool"
)

const (
	// align is what a payload's start is promised to have, in bytes.
	align = 64
	// spentMax and spentBytesMax bound what is kept out of use, oldest first. It
	// takes addresses and no memory.
	spentMax = entries / 2
)

var (
	pageBytes     = os.Getpagesize()
	spentBytesMax = min(uint64(math.MaxUint/16), 64<<30)
)

// Vault is the protected memory of a process. Its methods are safe for concurrent
// use.
type Vault struct {
	mu    sync.Mutex // guards what follows
	table []byte     // nil: there is no monitor
	free  []int      // entries of table
	spent []*Block   // oldest first
	bytes uint64     // of spent
	warn  func(text string, err error)
	quiet bool // the user has been told that memory could not be protected
}

// Block is a piece of protected memory.
type Block struct {
	pages []byte // all of it, the guard page included
	bytes []byte // at the end, but for alignment
	entry int    // in the table; -1: none
	owner Owner
}

// Bytes returns the memory.
func (b *Block) Bytes() []byte { return b.bytes }

var process struct {
	once  sync.Once
	vault *Vault
}

// Open returns the process's vault, and starts its monitor with the first call.
// warn is told, once each, what does not work; it may be called at any time.
func Open(warn func(text string, err error)) (*Vault, error) {
	process.once.Do(func() {
		v := &Vault{warn: warn}
		table, err := startMonitor()
		if err != nil {
			warn("no monitor: a fault will have an address and no explanation", err)
		}
		if v.table = table; table != nil {
			for i := entries - 1; i >= 0; i-- {
				v.free = append(v.free, i)
			}
		}
		process.vault = v
	})
	return process.vault, nil
}

// Copy returns a read-only copy of bytes, or nil if there are none, or no memory
// for it. The bytes may be another process's, which may cut them short: then it is
// nil, too.
func (v *Vault) Copy(owner Owner, bytes []byte) *Block {
	b := v.allocate(owner, len(bytes))
	if b == nil {
		return nil
	}
	_, err := shmpool.AppendShared(b.bytes[:0], bytes)
	if err == nil {
		err = unix.Mprotect(b.pages[:len(b.pages)-pageBytes], unix.PROT_READ)
	}
	if err != nil {
		v.unprotected(err)
		v.mu.Lock()
		v.drop(b)
		v.mu.Unlock()
		return nil
	}
	return b
}

// Writable returns n bytes to write to; nil if n is 0 or there is no memory.
func (v *Vault) Writable(owner Owner, n int) *Block { return v.allocate(owner, n) }

func (v *Vault) allocate(owner Owner, n int) *Block {
	if n == 0 {
		return nil
	}
	usable := (n + pageBytes - 1) / pageBytes * pageBytes
	pages, err := mapPages(usable + pageBytes)
	if err != nil { // out of addresses or of mappings, which the oldest ones have
		v.mu.Lock()
		for len(v.spent) > 0 && err != nil {
			v.trim(len(v.spent)/2, v.bytes/2)
			pages, err = mapPages(usable + pageBytes)
		}
		v.mu.Unlock()
	}
	if err != nil {
		v.unprotected(err)
		return nil
	}
	begin := usable - (n+align-1)/align*align
	b := &Block{pages: pages, bytes: pages[begin : begin+n : begin+n], entry: -1, owner: owner}
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.table != nil && len(v.free) == 0 && len(v.spent) > 0 {
		v.trim(len(v.spent)-1, v.bytes)
	}
	if last := len(v.free) - 1; last >= 0 {
		b.entry = v.free[last]
		v.free = v.free[:last]
		v.enter(b, entry{state: stateLive})
	}
	return b
}

// mapPages maps memory of which the last page cannot be touched.
func mapPages(length int) ([]byte, error) {
	pages, err := unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", length, err)
	}
	if err := unix.Mprotect(pages[length-pageBytes:], unix.PROT_NONE); err != nil {
		_ = unix.Munmap(pages)
		return nil, fmt.Errorf("guard page: %w", err)
	}
	return pages, nil
}

// Spend ends the time of a block: whoever touches it from now on faults. seq is
// the number that a loan was published with.
func (v *Vault) Spend(b *Block, end End, seq uint64) {
	err := unix.Mprotect(b.pages, unix.PROT_NONE)
	if err == nil {
		err = unix.Madvise(b.pages, unix.MADV_DONTNEED)
	}
	stack := ""
	if end != Forgotten {
		stack = callers()
	}
	if seq != 0 {
		b.owner.Seq = seq
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		// Out of mappings: rather unmapped, which faults as well as long as nobody else
		// gets the addresses.
		v.drop(b)
		return
	}
	if b.entry >= 0 {
		v.enter(b, entry{state: stateSpent, end: end, ended: time.Now(), stack: stack})
	}
	v.spent = append(v.spent, b)
	v.bytes += uint64(len(b.pages))
	v.trim(spentMax, spentBytesMax)
}

// trim gives up the oldest spent blocks until no more than count, and bytes, are
// left.
func (v *Vault) trim(count int, bytes uint64) {
	for len(v.spent) > count || v.bytes > bytes {
		b := v.spent[0]
		v.spent[0] = nil
		v.spent = v.spent[1:]
		v.bytes -= uint64(len(b.pages))
		v.drop(b)
	}
}

// drop unmaps a block.
func (v *Vault) drop(b *Block) {
	if b.entry >= 0 {
		publishState(v.memory(b), stateNone)
		v.free = append(v.free, b.entry)
	}
	// It fails only where the process is at its limit of mappings and these pages lie
	// in the middle of one: then they stay, and a late use of them is not found.
	_ = unix.Munmap(b.pages)
}

// enter writes the block's entry of the table.
func (v *Vault) enter(b *Block, e entry) {
	e.owner = b.owner
	e.start = address(b.pages)
	e.limit = e.start + uint64(len(b.pages))
	e.data, e.size = address(b.bytes), uint64(len(b.bytes))
	memory := v.memory(b)
	e.write(memory, func(state uint32) { publishState(memory, state) })
}

func (v *Vault) memory(b *Block) []byte {
	return v.table[b.entry*entryBytes : (b.entry+1)*entryBytes]
}

// unprotected tells the user, once, that some messages are not protected.
func (v *Vault) unprotected(err error) {
	v.mu.Lock()
	told := v.quiet
	v.quiet = true
	v.mu.Unlock()
	if !told { // not from here: the caller may hold a lock, and the log is the user's
		go v.warn("memory cannot be protected; messages like this one are used as they are", err)
	}
}
