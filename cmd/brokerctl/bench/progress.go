package bench

import (
	"fmt"
	"io"
)

// ShowProgress returns an Env.Progress that keeps one line of a terminal.
func ShowProgress(w io.Writer) func(done float64, what string) {
	return func(done float64, what string) {
		if what == "" {
			fmt.Fprint(w, "\r\x1b[K")
			return
		}
		fmt.Fprintf(w, "\r\x1b[K%3.0f %%  %s", 100*done, what)
	}
}
