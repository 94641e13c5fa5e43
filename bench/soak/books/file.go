//go:build linux

package books

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	headerWords = 8
	// NumbersMax is the largest sequence number that a book has room for. The files
	// are sparse: what is not used takes no space.
	NumbersMax = 1 << 24
	bitWords   = NumbersMax / 64

	magic = 0x6b6f6f62_64b20c37
)

// file is a mapped file of words, of which the first says that it is a book.
type file struct {
	bytes []byte
	words []uint64
}

// open maps the file at path, which is made if it is not there.
func open(path string, words int) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(words) * 8); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, words*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	book := &file{b, wordsOf(b)}
	switch book.words[0] {
	case 0:
		book.words[0] = magic
	case magic:
	default:
		return nil, errors.Join(fmt.Errorf("%s is no book", path), unix.Munmap(b))
	}
	return book, nil
}

// Close unmaps the book.
func (f *file) Close() error {
	f.words = nil
	return unix.Munmap(f.bytes)
}
