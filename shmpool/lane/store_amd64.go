//go:build amd64 && !race

package lane

// store makes a word of an entry, window or ledger visible to those who read a
// word that is written with a locked instruction later: the tail, the window's
// number. Stores of this architecture become visible in order, and neither the
// compiler nor the processor moves one behind a locked instruction. sync/atomic
// would make an exchange of each, which costs a push 10 to 50 ns more.
func store(word *uint64, value uint64) { *word = value }
