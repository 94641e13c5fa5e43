// Package wire is the protocol between brokerd and its nodes: frames, messages
// and their binary and text forms. docs/protocol.md is its specification.
//
// A sender keeps one Encoder, which appends frames to a byte slice. A receiver
// cuts frames with NextFrame or ReadFrame and keeps one Decoder. Neither is safe
// for concurrent use.
//
// Peers are not trusted. Every length, count, integer, string and nesting depth
// is checked before it is used; whatever breaks a rule ends as a *ProtocolError,
// and memory grows only with the bytes that have arrived.
package wire
