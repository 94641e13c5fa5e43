// Package books holds the accounts of a soak: which messages a node has sent and
// received. Each is a file that its node maps, so that what a node has entered is
// there also when it is killed in the next instant, and nothing is written twice.
// Every entry is one store of a word, or a store of a bit that makes it so; what
// two entries say when the node died between them is told at each.
//
// A process of a node is called a life. Lives have numbers, which grow over the
// whole soak. A sender has a book for each of its outputs and lives; an input has
// one for each life of its sender, which all lives of the receiver write on in
// turn, so that a message that comes again to a later one is noticed.
package books
