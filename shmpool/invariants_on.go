//go:build invariants || race

package shmpool

// Invariants tells that freed slots are mangled. It is on with the build tag
// invariants and under the race detector.
const Invariants = true
