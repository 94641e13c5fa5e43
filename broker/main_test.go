package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// testPrefix starts the names of the shared memory of these tests, and of no
// other process.
var testPrefix = fmt.Sprintf("brokerdtest%d", os.Getpid())

func TestMain(m *testing.M) {
	if os.Getenv(noFilesEnv) != "" {
		noFilesChild()
		return
	}
	code := m.Run()
	if code == 0 {
		if left, _ := filepath.Glob("/dev/shm/" + testPrefix + "*"); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "left in /dev/shm: %s\n", strings.Join(left, " "))
			code = 1
		}
	}
	if code == 0 {
		// gnet's pool of goroutines lives as long as the process.
		err := goleak.Find(
			goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
			goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
