//go:build !linux

// Command bench measures brokerd beside its peers; most of them need Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: its peers and its limit need Linux; `brokerctl bench` measures brokerd and sockets anywhere")
	os.Exit(1)
}
