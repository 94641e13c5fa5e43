package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
)

// EnvProfile is the environment variable that names the directory for profiles of
// the children; unset: none.
const EnvProfile = "BROKERD_BENCH_PROFILE"

// profile writes where a child spends its time and what it allocates, for go tool
// pprof, until stop is called. Every allocation is recorded, so that times are not
// those of a run without.
func profile(path, role string) (stop func() error, err error) {
	dir := os.Getenv(EnvProfile)
	if dir == "" {
		return func() error { return nil }, nil
	}
	runtime.MemProfileRate = 1
	name := filepath.Join(dir, fmt.Sprintf("%s-%s-%d", path, role, os.Getpid()))
	cpu, err := os.Create(name + ".cpu")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, errors.Join(err, cpu.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		allocs, err := os.Create(name + ".allocs")
		if err != nil {
			return errors.Join(err, cpu.Close())
		}
		return errors.Join(pprof.Lookup("allocs").WriteTo(allocs, 0), allocs.Close(), cpu.Close())
	}, nil
}
