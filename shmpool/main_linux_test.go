package shmpool

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/brokerd/brokerd/wire"
)

// testPrefix starts the names of all objects that the tests make.
var testPrefix = fmt.Sprintf("brokerdtest%d", os.Getpid())

// TestMain fails if a test leaves a goroutine or a shared memory object behind.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		left, err := filepath.Glob(filepath.Join(Dir, testPrefix+"*"))
		for _, path := range left {
			_ = os.Remove(path)
		}
		if err != nil || len(left) > 0 {
			fmt.Fprintln(os.Stderr, "left behind:", left, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// makeObject makes a shared memory object of size bytes and returns its name.
func makeObject(tb testing.TB, tag string, size int64, content []byte) string {
	tb.Helper()
	name := testPrefix + "-" + tag
	path := filepath.Join(Dir, name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.Remove(path) })
	defer func() { _ = f.Close() }()
	if err := f.Truncate(size); err != nil {
		tb.Fatal(err)
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		tb.Fatal(err)
	}
	return name
}

// makeRegion makes a region as the broker does and returns its name.
func makeRegion(tb testing.TB, tag string, id wire.RegionID, g Geometry) string {
	tb.Helper()
	header := make([]byte, HeaderBytes)
	EncodeHeader(header, id, g)
	return makeObject(tb, tag, int64(g.Bytes()), header)
}

// mustMap maps a region until the end of the test.
func mustMap(tb testing.TB, name string, id wire.RegionID, g Geometry, access Access) *Mapping {
	tb.Helper()
	m, err := Map(name, id, g, access)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := m.Close(); err != nil {
			tb.Error(err)
		}
	})
	return m
}

// openFDs counts the descriptors of this process.
func openFDs(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Skip(err)
	}
	return len(entries)
}
