// Package shmpool is what both ends of a shared memory payload agree on: size
// classes, the layout of a region, how a region is mapped, which slots a sender
// has free and which regions a receiver has mapped.
//
// A region is one shared memory object. Page 0 is its header, and from offset
// HeaderBytes on it is cut into equal slots, each of which holds one payload.
// Only brokerd creates and unlinks regions (package alloc); a node opens them by
// name and maps them: writable if the region is leased to it, else read-only, or
// read-only but for the header. There is the ledger: a word per slot in which the
// sender marks who may read it, and those who are done with it take their mark
// off (package lane). This package needs no cgo, so that any Go program can be a node.
//
// # Trust
//
// Numbers that come from a peer (offsets, lengths, geometries, names) are
// checked here against what was granted, never against words in the shared
// memory itself: a peer that maps the region writable can change those at any
// time. What cannot be checked is a sender that shrinks the file under its
// readers: they get SIGBUS on touching it. Shared memory is therefore offered
// only to processes that may open the region by its file mode.
//
// # Concurrency
//
// Slots and Cache are plain state without locks; their owner guards them. A
// Mapping may be read by any number of goroutines, but Close must not run
// while one of them still uses a slice of it; Prefault may run beside anything.
// So may the part of a Move that takes long: those who read what is moved see the
// same bytes before, meanwhile and after.
package shmpool
