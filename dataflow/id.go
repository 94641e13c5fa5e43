package dataflow

import (
	"errors"
	"fmt"
)

// ErrID is what errors of CheckID wrap.
var ErrID = errors.New("not a valid id")

// CheckID reports whether id may name a dataflow, node, output or input: 1 to
// IDBytesMax of the characters A-Z a-z 0-9 _ . - with no dot or dash in front.
// The error wraps ErrID and says what is wrong.
func CheckID(id string) error {
	if why := idFault(id); why != "" {
		return fmt.Errorf("%w: %s", ErrID, why)
	}
	return nil
}

// idFault says in a few words what is wrong with an id, or nothing.
func idFault(id string) string {
	switch {
	case id == "":
		return "it is empty"
	case len(id) > IDBytesMax:
		return fmt.Sprintf("it has %d bytes, %d are allowed", len(id), IDBytesMax)
	case id[0] == '.' || id[0] == '-':
		return fmt.Sprintf("it starts with %q", id[0])
	}
	for _, c := range id {
		if !isIDRune(c) {
			return fmt.Sprintf("%q is not allowed in it", c)
		}
	}
	return ""
}

const idRule = "an id has letters, digits, '_', '.' and '-', no '.' or '-' in front"

func isIDRune(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '_' || c == '.' || c == '-'
}
