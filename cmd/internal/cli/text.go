package cli

import (
	"fmt"
	"strconv"
)

// Bytes writes a size for people, with three significant digits.
func Bytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), -1
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	return Significant(value) + fmt.Sprintf(" %ciB", units[unit])
}

// Significant writes a number with three significant digits.
func Significant(value float64) string {
	switch {
	case value == 0:
		return "0"
	case value >= 100:
		return strconv.FormatFloat(value, 'f', 0, 64)
	case value >= 10:
		return strconv.FormatFloat(value, 'f', 1, 64)
	}
	return strconv.FormatFloat(value, 'f', 2, 64)
}

// Plural writes a number of things. noun is one of them.
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
