package shmpool

import (
	"math/bits"
	"os"
)

// systemPageBytes is the page of this kernel: what mappings are made of. It is
// PageBytes or a multiple of it, and then even large slots share pages.
var systemPageBytes = uint64(os.Getpagesize())

// pageRun is count pages from page first of a mapping on.
type pageRun struct {
	first, count uint64
}

// pagesOf returns the pages that length bytes at offset touch.
func pagesOf(offset, length uint64) pageRun {
	if length == 0 {
		return pageRun{}
	}
	first := offset / systemPageBytes
	return pageRun{first, (offset+length-1)/systemPageBytes + 1 - first}
}

// pageSet says of each page of a mapping whether it is in the set. The zero value
// is empty and has room for no page.
type pageSet struct {
	words []uint64
	count uint64
}

func (s *pageSet) has(page uint64) bool {
	return page/64 < uint64(len(s.words)) && s.words[page/64]&(1<<(page%64)) != 0
}

// grow makes room for pages 0 to n-1.
func (s *pageSet) grow(n uint64) {
	if words := (n + 63) / 64; uint64(len(s.words)) < words {
		s.words = append(s.words, make([]uint64, words-uint64(len(s.words)))...)
	}
}

// set puts the pages of a run in, or takes them out.
func (s *pageSet) set(run pageRun, in bool) {
	for page := run.first; page < run.first+run.count; page++ {
		bit := uint64(1) << (page % 64)
		switch had := s.words[page/64]&bit != 0; {
		case in && !had:
			s.count++
		case !in && had:
			s.count--
		}
		if in {
			s.words[page/64] |= bit
		} else {
			s.words[page/64] &^= bit
		}
	}
}

// runs returns the longest runs of pages within bounds that are in the set, or
// that are not.
func (s *pageSet) runs(bounds pageRun, in bool) []pageRun {
	var all []pageRun
	end := bounds.first + bounds.count
	for page := bounds.first; page < end; {
		same := s.sameWord(page, end, in)
		if same > 0 {
			if last := len(all) - 1; last >= 0 && all[last].first+all[last].count == page {
				all[last].count += same
			} else {
				all = append(all, pageRun{page, same})
			}
			page += same
			continue
		}
		page += max(1, s.sameWord(page, end, !in))
	}
	return all
}

// sameWord returns how many pages from page on, up to the end of its word, are in
// the set, or are not.
func (s *pageSet) sameWord(page, end uint64, in bool) uint64 {
	word := uint64(0)
	if page/64 < uint64(len(s.words)) {
		word = s.words[page/64]
	}
	if in {
		word = ^word
	}
	n := uint64(bits.TrailingZeros64(word >> (page % 64)))
	return min(n, 64-page%64, end-page)
}
