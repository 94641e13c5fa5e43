package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is one setting's place in memory, reached through text: the form that
// the configuration file, the environment and the command line share.
type value interface {
	set(texts []string) error // replaces what was there
	texts() []string
	kind() string // what to write, as --help names it
	list() bool
}

// scalar is a value of one text.
type scalar[T any] struct {
	place  *T
	name   string
	parse  func(string) (T, error)
	format func(T) string
}

func (s scalar[T]) set(texts []string) error {
	if len(texts) != 1 {
		return errors.New("takes one value, not a list")
	}
	parsed, err := s.parse(texts[0])
	if err != nil {
		return err
	}
	*s.place = parsed
	return nil
}

func (s scalar[T]) texts() []string { return []string{s.format(*s.place)} }
func (s scalar[T]) kind() string    { return s.name }
func (s scalar[T]) list() bool      { return false }

// listValue is a value of any number of texts.
type listValue struct {
	place *[]string
	name  string
}

func (l listValue) set(texts []string) error {
	for _, text := range texts {
		if text == "" {
			return errors.New("has an empty entry")
		}
	}
	*l.place = slices.Clone(texts)
	return nil
}

func (l listValue) texts() []string { return slices.Clone(*l.place) }
func (l listValue) kind() string    { return l.name }
func (l listValue) list() bool      { return true }

func textValue(place *string, name string) value {
	keep := func(text string) string { return text }
	return scalar[string]{place, name, func(text string) (string, error) { return text, nil }, keep}
}

func boolValue(place *bool) value {
	return scalar[bool]{place, "bool", func(text string) (bool, error) {
		switch text {
		case "true", "1", "yes", "on":
			return true, nil
		case "false", "0", "no", "off":
			return false, nil
		}
		return false, fmt.Errorf("%q is neither true nor false", text)
	}, strconv.FormatBool}
}

func countValue(place *int, lowest int) value {
	return scalar[int]{place, "N", func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < lowest {
			return 0, fmt.Errorf("%q is not a whole number of at least %d", text, lowest)
		}
		return n, nil
	}, strconv.Itoa}
}

func durationValue(place *time.Duration) value {
	return scalar[time.Duration]{place, "DURATION", func(text string) (time.Duration, error) {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return 0, fmt.Errorf("%q is not a positive duration such as 500ms, 10s or 2m", text)
		}
		return d, nil
	}, time.Duration.String}
}

// choiceValue takes one of a few words.
func choiceValue(place *string, choices ...string) value {
	return scalar[string]{place, strings.Join(choices, "|"), func(text string) (string, error) {
		if slices.Contains(choices, text) {
			return text, nil
		}
		return "", fmt.Errorf("%q is not one of %s%s", text, strings.Join(choices, ", "), didYouMean(text, choices))
	}, func(text string) string { return text }}
}

// addressValue takes host:port. The empty text is allowed where off is.
func addressValue(place *string, offAllowed bool) value {
	return scalar[string]{place, "HOST:PORT", func(text string) (string, error) {
		if text == "" && offAllowed {
			return "", nil
		}
		_, port, err := net.SplitHostPort(text)
		if err != nil {
			return "", fmt.Errorf("%q is not an address of the form host:port", text)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", fmt.Errorf("%q has no port between 0 and 65535", text)
		} else if n == 0 && port != "0" {
			return "", fmt.Errorf("%q has no port between 0 and 65535", text)
		}
		return text, nil
	}, func(text string) string { return text }}
}

// modeValue takes the access mode of the shared memory, in octal.
func modeValue(place *fs.FileMode) value {
	return scalar[fs.FileMode]{place, "MODE", func(text string) (fs.FileMode, error) {
		n, err := strconv.ParseUint(text, 8, 32)
		if err != nil || (n != 0o600 && n != 0o660) {
			return 0, fmt.Errorf("%q is neither 0600 (this user only) nor 0660 (a group too)", text)
		}
		return fs.FileMode(n), nil
	}, func(mode fs.FileMode) string { return fmt.Sprintf("%04o", uint32(mode)) }}
}

// byteUnits are the suffixes of sizes, largest first. Powers of 1000 and of 1024
// are both taken at their word.
var byteUnits = []struct {
	suffix string
	bytes  uint64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

func bytesValue(place *uint64) value {
	return scalar[uint64]{place, "SIZE", parseBytes, formatBytes}
}

// parseBytes reads a size: a whole number of bytes, or a number with a unit.
func parseBytes(text string) (uint64, error) {
	wrong := fmt.Errorf("%q is not a size such as 64MiB, 2GiB or a number of bytes", text)
	number, unit := strings.TrimSpace(text), uint64(1)
	for _, u := range byteUnits {
		if rest, found := strings.CutSuffix(number, u.suffix); found {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	if n, err := strconv.ParseUint(number, 10, 64); err == nil {
		if n > math.MaxInt64/unit {
			return 0, fmt.Errorf("%q is too large", text)
		}
		return n * unit, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || unit == 1 || !(f >= 0) || f*float64(unit) >= math.MaxInt64 {
		return 0, wrong
	}
	return uint64(f * float64(unit)), nil
}

// formatBytes writes a size so that parseBytes gets the same number back.
func formatBytes(n uint64) string {
	for _, u := range byteUnits[:4] {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatUint(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatUint(n, 10)
}

// isLoopback tells whether only this machine can reach the address. A name is
// trusted only if it is localhost: others may resolve to anything later.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// absoluteFrom makes a path that was written in a file of dir independent of
// the working directory.
func absoluteFrom(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// didYouMean returns the end of an error text that names the closest of known,
// or nothing if none is close.
func didYouMean(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return fmt.Sprintf(", did you mean %q?", near)
	}
	return ""
}

// nearest returns the entry of known that a typing mistake away from word could
// have meant: at most a third of its letters differ.
func nearest(word string, known []string) string {
	best, bestDistance := "", math.MaxInt
	for _, candidate := range known {
		if d := editDistance(word, candidate); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	if best == "" || bestDistance > max(1, len(best)/3) {
		return ""
	}
	return best
}

// editDistance counts the letters to insert, delete or replace (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			substituted := diagonal
			if a[i-1] != b[j-1] {
				substituted++
			}
			diagonal = row[j]
			row[j] = min(substituted, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
