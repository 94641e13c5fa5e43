package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// programPath finds the program of a node. A relative path is looked up from
// dir; a name without a slash that is not there, in $PATH.
func programPath(path, dir string) (string, error) {
	candidate := absoluteFrom(dir, path)
	info, err := os.Stat(candidate)
	bare := filepath.Base(path) == path
	switch {
	case err == nil && info.IsDir() && bare:
		// A directory that happens to have the program's name.
	case err == nil && info.IsDir():
		return "", fmt.Errorf("path %s is a directory (%s)", path, candidate)
	case err == nil && info.Mode()&0o111 == 0:
		return "", fmt.Errorf("path %s is not executable: chmod +x %s", path, candidate)
	case err == nil:
		return candidate, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("path %s: %w", path, err)
	}
	if bare {
		found, err := exec.LookPath(path)
		if err == nil {
			return filepath.Abs(found)
		}
		return "", fmt.Errorf("path %s is neither in %s nor in $PATH", path, dir)
	}
	return "", fmt.Errorf("path %s does not exist (%s)", path, candidate)
}

func absoluteFrom(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
