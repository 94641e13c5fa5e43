//go:build linux

package books

import (
	"fmt"
	"hash/fnv"
	"path/filepath"
	"time"
)

// EntryKind says what an entry of a diary is about.
type EntryKind uint8

// The kinds of entries.
const (
	// EntrySession: the node has connected, as Session of Broker.
	EntrySession EntryKind = iota + 1
	// EntryInput: a process begins to receive, or (Session is not 0) has a new
	// connection; the last message that input Port had got was Number of Life.
	EntryInput
	// EntryOutput: the node has a new connection; output Port had begun Number.
	EntryOutput
	// EntryTaken: the last message that input Port has got is Number of Life.
	EntryTaken
	// EntryBegun: output Port is about to send Number.
	EntryBegun
)

// Entry is one entry of a diary.
type Entry struct {
	Kind    EntryKind
	Port    uint8 // place of the input or output in the dataflow
	Life    uint32
	Number  uint64
	Time    time.Time
	Session uint64
	Broker  uint64 // BrokerHash of its instance
}

// BrokerHash is the name of a run of the broker in a diary.
func BrokerHash(instance string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(instance))
	return h.Sum64()
}

const (
	entryWords    = 5
	diaryEntries  = 1 << 19
	diaryCount    = 1
	diaryWordsMax = headerWords + diaryEntries*entryWords
)

// Diary is what happened to one life of a node, in order.
type Diary struct {
	*file
}

// OpenDiary maps the diary of a life, in dir.
func OpenDiary(dir, node string, life uint32) (*Diary, error) {
	f, err := open(filepath.Join(dir, fmt.Sprintf("diary-%s-%d", node, life)), diaryWordsMax)
	return &Diary{f}, err
}

// Write appends an entry. It is there when its count is: one that the node died
// over is not. A full diary keeps what it has.
func (d *Diary) Write(e Entry) {
	n := d.words[diaryCount]
	if n >= diaryEntries {
		return
	}
	w := d.words[headerWords+n*entryWords:]
	w[0] = uint64(e.Kind) | uint64(e.Port)<<8 | uint64(e.Life)<<32
	w[1], w[2], w[3], w[4] = e.Number, uint64(e.Time.UnixNano()), e.Session, e.Broker
	d.words[diaryCount] = n + 1
}

// Full reports whether entries have been lost.
func (d *Diary) Full() bool { return d.words[diaryCount] >= diaryEntries }

// Entries returns all entries.
func (d *Diary) Entries() []Entry {
	all := make([]Entry, 0, d.words[diaryCount])
	for n := range min(d.words[diaryCount], diaryEntries) {
		w := d.words[headerWords+n*entryWords:]
		all = append(all, Entry{
			Kind: EntryKind(w[0]), Port: uint8(w[0] >> 8), Life: uint32(w[0] >> 32),
			Number: w[1], Time: time.Unix(0, int64(w[2])), Session: w[3], Broker: w[4],
		})
	}
	return all
}
