// Command corpus picks, of all that the fuzzer of one target has found, the few
// smallest inputs that run as much of the package as all of it does, and puts them
// where `go test` runs them every time.
//
//	go test -run '^$' -fuzz '^FuzzDecode$' -fuzztime 5m ./wire
//	go -C bench run ./corpus --package wire --target FuzzDecode
//
// Inputs that run nothing beyond what the target's own seeds run are left out.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/tools/cover"
)

const module = "github.com/brokerd/brokerd"

func main() {
	p := picker{}
	pflag.StringVar(&p.pkg, "package", "", "directory of the package, below the module")
	pflag.StringVar(&p.target, "target", "", "fuzz target")
	pflag.IntVar(&p.most, "max", 24, "how many inputs at the most")
	source := pflag.String("source", "..", "directory of the module")
	pflag.Parse()
	if err := p.run(*source); err != nil {
		fmt.Fprintln(os.Stderr, "corpus:", err)
		os.Exit(1)
	}
}

type picker struct {
	pkg, target string
	most        int

	program string // the package's tests, compiled
	dir     string // of the package
	scratch string
}

// input is one that the fuzzer has found.
type input struct {
	name string
	text []byte
	runs map[string]bool // blocks
}

func (p *picker) run(source string) (err error) {
	if p.dir, err = filepath.Abs(filepath.Join(source, p.pkg)); err != nil {
		return err
	}
	if p.scratch, err = os.MkdirTemp("", "corpus-"); err != nil {
		return err
	}
	defer os.RemoveAll(p.scratch)
	p.program = filepath.Join(p.scratch, "tests")
	compile := exec.Command("go", "test", "-c", "-cover", "-coverpkg", module+"/"+p.pkg, "-o", p.program, ".")
	compile.Dir = p.dir
	if text, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, text)
	}
	found, err := p.found()
	if err != nil {
		return err
	}
	picked, err := p.pick(found)
	if err != nil {
		return err
	}
	fmt.Printf("%s %s: %d of %d inputs\n", p.pkg, p.target, len(picked), len(found))
	return nil
}

func (p *picker) corpus() string { return filepath.Join(p.dir, "testdata", "fuzz", p.target) }

// found reads what the fuzzer keeps in the build cache, and what is picked already;
// the smallest comes first.
func (p *picker) found() ([]*input, error) {
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		return nil, err
	}
	byName := map[string]*input{}
	for _, dir := range []string{filepath.Join(strings.TrimSpace(string(cache)), "fuzz", module, p.pkg, p.target), p.corpus()} {
		list, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, item := range list {
			text, err := os.ReadFile(filepath.Join(dir, item.Name()))
			if err != nil {
				return nil, err
			}
			byName[item.Name()] = &input{name: item.Name(), text: text}
		}
	}
	var all []*input
	for _, in := range byName {
		all = append(all, in)
	}
	slices.SortFunc(all, func(a, b *input) int {
		return cmp.Or(cmp.Compare(len(a.text), len(b.text)), strings.Compare(a.name, b.name))
	})
	return all, nil
}

// pick leaves only the inputs in the corpus that are worth it: greedily, the one
// that adds most comes first.
func (p *picker) pick(found []*input) ([]*input, error) {
	if err := os.RemoveAll(p.corpus()); err != nil {
		return nil, err
	}
	done, err := p.blocks("^" + p.target + "$") // the seeds
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.corpus(), 0o755); err != nil {
		return nil, err
	}
	for _, in := range found {
		file := filepath.Join(p.corpus(), in.name)
		if err := os.WriteFile(file, in.text, 0o644); err != nil {
			return nil, err
		}
		if in.runs, err = p.blocks("^" + p.target + "$/^" + in.name + "$"); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := os.Remove(file); err != nil {
			return nil, err
		}
	}
	var picked []*input
	for len(picked) < p.most {
		var best *input
		most := 0
		for _, in := range found {
			if n := news(in.runs, done); n > most {
				best, most = in, n
			}
		}
		if best == nil {
			break
		}
		for b := range best.runs {
			done[b] = true
		}
		picked = append(picked, best)
		if err := os.WriteFile(filepath.Join(p.corpus(), best.name), best.text, 0o644); err != nil {
			return nil, err
		}
	}
	if len(picked) == 0 {
		return nil, os.RemoveAll(p.corpus())
	}
	return picked, nil
}

// news counts the blocks that were not run before.
func news(runs, done map[string]bool) (n int) {
	for b := range runs {
		if !done[b] {
			n++
		}
	}
	return n
}

// blocks runs some inputs, and returns what they run.
func (p *picker) blocks(pattern string) (map[string]bool, error) {
	profile := filepath.Join(p.scratch, "profile")
	cmd := exec.Command(p.program, "-test.run", pattern, "-test.coverprofile", profile)
	cmd.Dir = p.dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	files, err := cover.ParseProfiles(profile)
	if err != nil {
		return nil, err
	}
	runs := map[string]bool{}
	for _, f := range files {
		for _, b := range f.Blocks {
			if b.Count > 0 {
				runs[fmt.Sprintf("%s:%d.%d", f.FileName, b.StartLine, b.StartCol)] = true
			}
		}
	}
	return runs, nil
}
