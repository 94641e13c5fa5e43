//go:build !amd64 || race

package lane

import "sync/atomic"

// store makes a word of an entry, window or ledger visible to those who read a
// word that is written later.
func store(word *uint64, value uint64) { atomic.StoreUint64(word, value) }
