// Package bench measures how long messages take from one process to others, on
// several ways that alternate within one run, so that what the machine does
// meanwhile hits all of them alike.
//
// Each way is a Path: a plug-in of up to three kinds of processes, which this
// package starts, tells what to do over pipes, and ends. Own has those of brokerd
// and of plain sockets; a program may add others.
//
// One-way time is taken from before the sender copies its payload in until the
// receiver has touched every page of it, on a clock that all processes share.
// Paced messages come one at a time, with a pause between; unpaced ones back to
// back, with no more on their way than Window allows, on every path. No message
// may be lost, come twice or torn, or the run fails: then it has measured nothing.
//
// Beside the paths stands memcpy: the time of one warm copy of the payload, which
// is the least that a path with a copy can take.
//
// Besides: what each further receiver costs the sender, whether times of payloads
// written in place depend on the size, what the first large
// message of fresh processes costs, and how many objects a message has the
// garbage collector look after. A Report has it all, with the goals for lanes that
// could be judged by what was measured.
package bench
