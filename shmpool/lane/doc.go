// Package lane is the direct path of an edge between two local nodes: a queue of
// message descriptors in shared memory, with one producer and one consumer.
package lane
