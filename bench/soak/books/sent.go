//go:build linux

package books

import (
	"fmt"
	"path/filepath"
	"slices"
)

// Sent is what one life of a node has sent on one output.
type Sent struct {
	*file
}

// The words of a book of Sent: two numbers of messages, and a set.
const (
	sentBegun  = 1
	sentDone   = 2
	sentFailed = headerWords
	sentWords  = sentFailed + bitWords
)

// OpenSent maps the book of an output of a node's life, in dir.
func OpenSent(dir, node, output string, life uint32) (*Sent, error) {
	f, err := open(filepath.Join(dir, fmt.Sprintf("sent-%s-%s-%d", node, output, life)), sentWords)
	return &Sent{f}, err
}

// Begin enters that message n is about to be sent. If the node dies before End or
// Fail, nobody knows what became of it.
func (s *Sent) Begin(n uint64) error {
	if n >= NumbersMax {
		return fmt.Errorf("message %d: the book is full", n)
	}
	s.words[sentBegun] = n
	return nil
}

// End enters that message n is sent.
func (s *Sent) End(n uint64) { s.words[sentDone] = n }

// Fail enters that message n has its number, and could not be sent.
func (s *Sent) Fail(n uint64) {
	Bits(s.words[sentFailed:sentWords]).Add(n)
	s.words[sentDone] = n
}

// Cancel enters that message n was not sent, and that the next one has its number.
func (s *Sent) Cancel(n uint64) { s.words[sentBegun] = n - 1 }

// Account copies the book.
func (s *Sent) Account() SentAccount {
	begun := s.words[sentBegun]
	n := int(begun/64 + 1)
	return SentAccount{
		Begun: begun, Done: min(s.words[sentDone], begun),
		Failed: slices.Clone(Bits(s.words[sentFailed : sentFailed+n])),
	}
}

// Begun returns the number that was begun last.
func (s *Sent) Begun() uint64 { return s.words[sentBegun] }
