package node

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/brokerd/brokerd/shmpool"
)

// TestMain fails if a test leaves a goroutine or a shared memory object behind.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if left, _ := filepath.Glob(filepath.Join(shmpool.Dir, testPrefix+"*")); shmpool.Dir != "" && len(left) > 0 {
			fmt.Fprintln(os.Stderr, "left in shared memory:", left)
			code = 1
		}
		os.Exit(code)
	}))
}
