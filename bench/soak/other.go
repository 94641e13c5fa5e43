//go:build !linux

// Command soak needs Linux: signals, /proc and lanes.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "soak: it needs Linux")
	os.Exit(1)
}
