//go:build linux

package books

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Taken is what one input has got of one life of its sender. All lives of the
// receiver write on the same book, one after the other.
type Taken struct {
	*file
}

// The words of a book of Taken.
const (
	takenLast   = 1
	takenBytes  = 2
	takenBits   = headerWords
	takenOnLane = takenBits + bitWords
	takenWords  = takenOnLane + bitWords
)

func takenPrefix(node, input string) string { return fmt.Sprintf("taken-%s-%s-", node, input) }

// OpenTaken maps the book of an input for a life of its sender, in dir.
func OpenTaken(dir, node, input string, life uint32) (*Taken, error) {
	f, err := open(filepath.Join(dir, takenPrefix(node, input)+strconv.Itoa(int(life))), takenWords)
	return &Taken{f}, err
}

// Last returns the last number that was entered.
func (t *Taken) Last() uint64 { return t.words[takenLast] }

// Enter notes that message n has come, on a lane or through the broker. It returns
// an error if that must not be: again, or behind a later one.
func (t *Taken) Enter(n uint64, bytes int, onLane bool) error {
	taken := Bits(t.words[takenBits:takenOnLane])
	last := t.words[takenLast]
	switch {
	case n == 0 || n >= NumbersMax:
		return fmt.Errorf("message %d: there is no such number", n)
	case taken.Has(n):
		return fmt.Errorf("message %d comes twice; the last one was %d", n, last)
	case n < last:
		return fmt.Errorf("message %d comes behind message %d", n, last)
	}
	if onLane {
		Bits(t.words[takenOnLane:takenWords]).Add(n)
	}
	taken.Add(n) // from here on it has come
	t.words[takenLast] = n
	t.words[takenBytes] += uint64(bytes)
	return nil
}

// Account copies the book.
func (t *Taken) Account() TakenAccount {
	taken := Bits(t.words[takenBits:takenOnLane])
	n := int(taken.Last()/64 + 1)
	return TakenAccount{
		Taken: slices.Clone(taken[:n]), OnLane: slices.Clone(Bits(t.words[takenOnLane : takenOnLane+n])),
		Bytes: t.words[takenBytes],
	}
}

// TakenLives lists the lives of the sender that an input has got messages of, the
// first one first.
func TakenLives(dir, node, input string) ([]uint32, error) {
	prefix := takenPrefix(node, input)
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var lives []uint32
	for _, item := range list {
		text, ok := strings.CutPrefix(item.Name(), prefix)
		if !ok {
			continue
		}
		life, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			continue // of an input whose name begins with this one's
		}
		lives = append(lives, uint32(life))
	}
	slices.Sort(lives)
	return lives, nil
}
