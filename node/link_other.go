//go:build !unix

package node

import "errors"

// directWrites is false: on this platform only the writer goroutine writes.
const directWrites = false

func writeOnce(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
