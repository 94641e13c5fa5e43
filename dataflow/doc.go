// Package dataflow reads the YAML files that describe dataflows: nodes, their
// outputs, and their inputs mapped to outputs of other nodes.
//
//	flow, warnings, err := dataflow.Load("camera.yml", dataflow.Options{})
//
// The package is pure: apart from Load, which reads the file, it does no input
// or output, starts no goroutine and keeps no global state. A Flow that was
// returned without an error is complete and consistent: every default is filled
// in, every source exists, every id is valid, every number within its limit.
// Callers need not check anything again.
//
// A file is untrusted input. Its size, depth and counts are limited before
// anything is built from them (see the constants and guard.go), and all that is
// wrong with it is reported at once, as an *Errors with one Problem a finding.
// Only what stops short of a syntax tree (not YAML, or refused by guard.go) ends
// the reading before keys and values are looked at.
//
// The way of a file: load.go (bytes) → text.go (lines) → guard.go (tokens,
// limits) → tree.go (syntax tree) → read.go, readnode.go, readinput.go (keys and
// values) → resolve.go (sources, unread outputs) → Flow.
package dataflow
