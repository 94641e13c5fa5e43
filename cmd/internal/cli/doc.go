// Package cli is what the commands brokerd and brokerctl have in common: how they
// end, how they say numbers, and what they say of dataflow files.
package cli
