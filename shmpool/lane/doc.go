// Package lane is the direct path of an edge between two nodes on one machine: a
// queue of message descriptors in shared memory with one producer and one
// consumer, the ledger that says who may still read a message's slot, and the
// bell that wakes a node. No message on a lane goes through the broker; the broker
// grants lanes, closes them, counts and settles.
//
// # One message
//
// The sender takes a slot whose ledger word has none of the bits that it lent it
// with (Ledger.Held), writes the payload, stores the bits of all lanes that the
// message will go to (Ledger.Lend), pushes a Descriptor on each (Producer.Push),
// and then rings the bells (Bell.Ring). A receiver pops it (Consumer.Pop), reads
// the payload in place, clears its bit (Ledger.Clear), and rings the sender if
// that waits for memory (Bell.GiveMemory). A push that ends otherwise than with
// Pushed leaves the bit to the sender to clear, and so does the message that it
// has evicted.
//
// # The ring
//
// Two words say all: the tail, how many messages were ever pushed, with a bit for
// closed; and the head, how many were taken and how many evicted, in one word.
// Pushing, closing, taking and evicting are each one compare-and-swap or one OR,
// which also counts. So a process can be killed between any two instructions, and
// what is queued, taken, evicted and refused is exact afterwards. After closing no
// push can succeed: the tail is final without anybody being asked.
//
// A consumer reads an entry first and takes it then. A producer evicts a message
// first and overwrites its entry then. So what was read whole can be taken, and
// what could be torn cannot.
//
// Pushes, pops and cuts are written as machines that make one access to shared
// memory a step and keep their state in a value without pointers. The tests put
// these machines in one model and go through every order of their steps.
//
// # Sleep
//
// Whoever waits announces it (Bell.Arm, and Producer.Want for room or
// Bell.WantMemory for a slot), looks once more (Consumer.Ready, Producer.Room,
// Ledger.Held), and sleeps (Bell.Sleep). Whoever changes something changes it
// first, and looks then whether anybody has announced himself.
//
// # Trust
//
// The peer can write to everything here at any time. Every shared word is read
// once and checked against what this side knows: its own counters, the queue size
// that was granted. Loops have bounds. Memory that is cut short, which would be a
// fatal signal, is caught. All of this ends in the verdict Corrupt, which an end
// does not come back from, or in an error that wraps ErrCorrupt. What cannot be
// checked is what only the peer knows: it can lie in its descriptors, which the
// caller checks against what it has mapped, drop its own messages, or clear other
// receivers' bits, so that a sender overwrites what they still read. Lanes are for
// processes of one user.
//
// # Concurrency
//
// A Producer, and a Consumer, is one process's and not safe for concurrent use. A
// Keeper is the router's, and is. Ledger is a value; Bell has one sleeper.
//
// # Kill points
//
// With the build tag killpoints a program kills itself before the store to shared
// memory that the environment variable KillAtEnv names:
//
//	go test -tags killpoints -run Killed ./shmpool/lane
package lane
