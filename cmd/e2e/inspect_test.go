//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const shmDir = "/dev/shm"

// shmNames lists the objects in /dev/shm whose names start with prefix.
func shmNames(prefix string) []string {
	paths, _ := filepath.Glob(filepath.Join(shmDir, prefix+"*"))
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	return paths
}

// files are the open file descriptors of a process.
type files struct {
	shm    int // under /dev/shm
	others int
	names  []string
}

func (f files) String() string { return strings.Join(f.names, " ") }

func filesOf(pid int) (files, error) {
	var f files
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	list, err := os.ReadDir(dir)
	if err != nil {
		return f, err
	}
	for _, item := range list {
		target, err := os.Readlink(filepath.Join(dir, item.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		f.names = append(f.names, target)
		if strings.HasPrefix(target, shmDir+"/") {
			f.shm++
		} else {
			f.others++
		}
	}
	return f, nil
}

// procNumbers reads a file of /proc of the form "key: number unit".
func procNumbers(pid int, file string) (map[string]uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return nil, err
	}
	numbers := map[string]uint64{}
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(string(line), ":")
		words := strings.Fields(value)
		if len(words) == 0 {
			continue
		}
		n, err := strconv.ParseUint(words[0], 10, 64)
		if err != nil {
			continue
		}
		if len(words) == 2 && words[1] == "kB" {
			n <<= 10
		}
		numbers[key] = n
	}
	return numbers, nil
}

// memoryOf is what a process has in RAM, in bytes: its own, and of shared memory.
func memoryOf(pid int) (own, shared uint64, err error) {
	n, err := procNumbers(pid, "status")
	return n["RssAnon"], n["RssShmem"], err
}

// alive reports whether there is a process of that id, zombies included.
func alive(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}
