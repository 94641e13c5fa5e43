package lane

// op names what a store to shared memory is a part of.
type op uint8

const (
	opPush  op = iota // by the producer: entry, eviction, tail, drop window, counters
	opPop             // by the consumer: claim, answer to a producer that waits
	opLend            // of a slot, before the push
	opClear           // of a bit, after the pop
	opWant            // by the producer: waits for room
	opBell            // arming and ringing
	opKeep            // by the router
)

// KillAtEnv is the environment variable that, in a program built with the tag
// killpoints, names the store to shared memory before which the program kills
// itself: "3,push" is the third that a push makes, "17,any" the seventeenth.
const KillAtEnv = "BROKERD_KILL_AT"
