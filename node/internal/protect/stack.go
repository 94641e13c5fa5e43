package protect

import (
	"fmt"
	"runtime"
	"strings"
)

// library is the package whose functions are of no interest in a stack.
const library = "github.com/brokerd/brokerd/node."

// callers returns who called into the library, one line a function, innermost
// first.
func callers() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	var lines []string
	for {
		f, more := frames.Next()
		own := strings.HasPrefix(f.Function, library) || strings.Contains(f.Function, "/node/internal/protect.")
		switch {
		case f.Function == "" || strings.HasPrefix(f.Function, "runtime."):
		case len(lines) == 0 && own && !strings.HasSuffix(f.File, "_test.go"):
		case len(lines) < stackLinesMax:
			lines = append(lines, fmt.Sprintf("%s, %s:%d", f.Function, f.File, f.Line))
		}
		if !more {
			return strings.Join(lines, "\n")
		}
	}
}

// stackLinesMax is how much of a stack is kept: the caller, and where that comes
// from.
const stackLinesMax = 5
