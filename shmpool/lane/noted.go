package lane

import (
	"slices"
	"sync/atomic"
)

// note adds a window to what is to be told.
func (k *Keeper) note(number uint64) {
	d, ok := readWindow(k.words, number)
	if !ok {
		return
	}
	if number != k.read { // else the router before this one has died just here
		k.read = number
		k.noted.merge(d)
		k.keepNoted()
	}
	closeWindow(k.words, number)
}

// merge adds drops of the same lane.
func (d *Drops) merge(more Drops) {
	d.Count += more.Count
	d.Bytes += more.Bytes
	switch {
	case more.SeqLast == 0: // nobody knows
	case d.SeqLast == 0:
		d.SeqFirst, d.SeqLast, d.OldestNS = more.SeqFirst, more.SeqLast, more.OldestNS
	default:
		d.SeqFirst = min(d.SeqFirst, more.SeqFirst)
		d.SeqLast = max(d.SeqLast, more.SeqLast)
		d.OldestNS = min(d.OldestNS, more.OldestNS)
	}
}

// keepNoted writes into the lane what has been read from windows and is not in
// the log: a router after this one knows it from there. While it is written its
// number is 0, and its last number comes behind what that makes valid. Who dies then
// leaves a window that is still to be read: only bytes can be wrong.
func (k *Keeper) keepNoted() {
	var d Drops
	for i := range k.told {
		d.merge(k.told[i])
	}
	d.merge(k.noted)
	for _, w := range [...]struct {
		at    uint
		value uint64
	}{
		{windowNumber, 0},
		{windowCount, d.Count},
		{windowBytes, d.Bytes},
		{windowOldest, uint64(d.OldestNS)},
		{windowSeqFirst, uint64(d.SeqFirst)},
		{windowSeqLast, uint64(d.SeqLast)},
		{windowNumber, k.read},
	} {
		k.keep(notedWord+w.at, w.value)
	}
}

// keep stores one of the router's words.
func (k *Keeper) keep(at uint, value uint64) {
	point(opKeep)
	atomic.StoreUint64(&k.words[at], value)
}

// loadNoted goes on with what a router before this one had read and not logged.
func (k *Keeper) loadNoted() {
	k.read = atomic.LoadUint64(&k.words[notedWord+windowNumber])
	if d := loadDrops(k.words, notedWord); d.SeqFirst > 0 && d.SeqLast > 0 {
		k.noted = d
	}
	if k.read == 0 {
		k.noted.Count = 0
	}
}

// toldMax is how many tells are kept apart. The log is a second behind, which is ten
// of them, unless something is wrong with it.
const toldMax = 64

// hasTold remembers what was told until it is confirmed.
func (k *Keeper) hasTold(d Drops) {
	if len(k.told) < toldMax {
		k.told = append(k.told, d)
	} else {
		k.told[toldMax-1].merge(d)
	}
}

// untell forgets so many of the drops that were told: the log has them. A line has
// all that was told for its reason: the first ones, or what Cut has taken back.
func (k *Keeper) untell(count uint64) {
	sum := uint64(0)
	for i := range k.told {
		if sum += k.told[i].Count; sum == count {
			k.told = slices.Delete(k.told, 0, i+1)
			return
		}
	}
	if i := slices.IndexFunc(k.told, func(d Drops) bool { return d.Count == count }); i >= 0 {
		k.told = slices.Delete(k.told, i, i+1)
		return
	}
	var all Drops // nobody knows which: those that are left are among them
	for i := range k.told {
		all.merge(k.told[i])
	}
	all.Count -= min(count, all.Count)
	k.told = append(k.told[:0], all)
}
